//! What is refused, each with its message; a stand-in plays the runtime.

use std::path::Path;

use devrx_gpu::standin;

use super::*;

const SPEC: RegionSpec = RegionSpec {
    size: 4 << 20,
    chunk_size: 2048,
};

fn unpinned() -> dmabuf::Policy {
    dmabuf::Policy {
        allow_unpinned: true,
        ..dmabuf::Policy::default()
    }
}

fn refused(policy: &dmabuf::Policy, options: &Options, words: &[&str]) {
    let text = create(0, SPEC, policy, options).unwrap_err().to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn memory_that_may_move_is_refused_before_any_is_made() {
    // Also where there is no runtime: host memory needs none of it.
    refused(
        &dmabuf::Policy::default(),
        &Options::default(),
        &[
            "(amdgpu) may move its memory while the NIC writes",
            "hipHostRegister",
            "allow_unpinned (in [dmabuf]",
        ],
    );
}

#[test]
fn without_the_runtime_it_says_what_to_install() {
    let nowhere = Path::new("/nonexistent/libamdhip64.so").to_path_buf();
    let options = Options {
        libraries: Some((nowhere.clone(), nowhere)),
        ..Options::default()
    };
    refused(
        &unpinned(),
        &options,
        &["libamdhip64.so cannot be loaded", "install ROCm's runtime"],
    );
}

#[test]
fn what_does_not_fit_the_window_or_is_no_dmabuf_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let library = standin::build(dir.path(), "hip", &[]);
    let options = Options {
        libraries: Some((library.clone(), library.clone())),
        sysfs: dir.path().join("sysfs"),
    };
    let bar = |size: u64| {
        let function = options.sysfs.join("0000:03:00.0");
        std::fs::create_dir_all(&function).unwrap();
        std::fs::write(
            function.join("resource"),
            format!("{:#018x} {:#018x} 0x0\n", 1_u64 << 40, (1 << 40) + size - 1),
        )
        .unwrap();
    };
    bar(2 << 20);
    refused(
        &unpinned(),
        &options,
        &[
            "hip:0 (at 0000:03:00.0) shows 2 MiB",
            "BAR0",
            "resizable BAR",
        ],
    );
    bar(256 << 20);
    refused(&unpinned(), &options, &["it is no dma-buf"]);
    assert_eq!(standin::held(&library), 0);
}
