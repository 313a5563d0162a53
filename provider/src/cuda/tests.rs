//! What is refused, each with its message; a stand-in plays the driver. What a GPU does is tested on one.

use std::path::{Path, PathBuf};

use devrx_gpu::cuda::Ordering;
use devrx_gpu::standin;

use super::*;

const SPEC: RegionSpec = RegionSpec {
    size: 4 << 20,
    chunk_size: 2048,
};

/// A machine with a GPU, as far as the stand-in plays one.
struct Machine {
    options: Options,
    dir: tempfile::TempDir,
}

impl Machine {
    fn new(definitions: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            library: Some(standin::build(dir.path(), "cuda", definitions)),
            gdrdrv: dir.path().join("gdrdrv"),
            gdrdrv_params: dir.path().join("params"),
            sysfs: dir.path().join("sysfs"),
        };
        Self { options, dir }
    }

    /// A module that is loaded so; `device` is what is behind its device file.
    fn gdrdrv(mut self, device: &str, persistent: &str) -> Self {
        self.options.gdrdrv = PathBuf::from(device);
        let text = format!("Version: 2.5\nUse persistent mapping: {persistent}\ndbg_enabled: 0\n");
        std::fs::write(&self.options.gdrdrv_params, text).unwrap();
        self
    }

    fn bar1(self, bytes: u64) -> Self {
        let dir = self.options.sysfs.join("0000:3b:00.0");
        std::fs::create_dir_all(&dir).unwrap();
        let line = |size: u64| {
            format!(
                "{:#018x} {:#018x} 0x000000000014220c\n",
                1_u64 << 40,
                (1 << 40) + size - 1
            )
        };
        std::fs::write(dir.join("resource"), line(16 << 20) + &line(bytes)).unwrap();
        self
    }

    /// What is said, with every word of `words` in it; nothing is left of it.
    fn refuses(&self, words: &[&str]) -> ProviderError {
        let error = create(0, SPEC, &self.options).unwrap_err();
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        let library = self.options.library.as_deref().unwrap();
        assert_eq!(standin::held(library), 0, "{text}");
        error
    }
}

#[test]
fn without_libcuda_it_says_what_to_install() {
    let options = Options {
        library: Some("/nonexistent/libcuda.so.1".into()),
        ..Options::default()
    };
    let error = create(0, SPEC, &options).unwrap_err();
    assert!(matches!(error, ProviderError::Gpu(_)), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("libcuda.so.1 cannot be loaded") && text.contains("install NVIDIA's driver"),
        "{text}"
    );
    // By its usual name, where the machine has none.
    if !Path::new("/proc/driver/nvidia/version").exists() {
        assert!(create(0, SPEC, &Options::default()).is_err());
    }
}

#[test]
fn a_gpu_that_is_none_is_refused() {
    let machine = Machine::new(&["DEVICES=0"]);
    machine.refuses(&["there is no CUDA device 0", "nvidia-smi -L"]);
}

#[test]
fn memory_without_a_dmabuf_is_refused() {
    let machine = Machine::new(&["ATTRIBUTE_124=0", "ATTRIBUTE_152=-1", "VERSION=12080"]);
    machine.refuses(&[
        "cuda:0 (stand-in at 0000:3B:00.0)",
        "cannot be exported as a dma-buf (attribute 124; the driver has CUDA 12.8)",
        "open kernel modules",
        "gdrdrv is not loaded",
        "use host memory (the kinds memfd and hugetlb)",
        "cuMemHostRegister",
    ]);
}

#[test]
fn memory_that_nobody_maps_is_refused() {
    let none = ["ATTRIBUTE_152=-1", "VERSION=12080"];
    let machine = Machine::new(&none);
    machine.refuses(&[
        "cannot be mapped (attribute 152; the driver has CUDA 12.8)",
        "R610",
        "gdrdrv is not loaded",
    ]);
    // What gdrdrv maps would end with this process, before the NIC's access does.
    let machine = Machine::new(&none).gdrdrv("/dev/null", "no");
    machine.refuses(&["when this process is killed", "use_persistent_mapping=1"]);
    let machine = Machine::new(&["ATTRIBUTE_152=0", "ATTRIBUTE_116=0"]).gdrdrv("/dev/null", "yes");
    machine.refuses(&["attribute 152", "attribute 116", "GeForce"]);
}

#[test]
fn a_gpu_without_memory_of_its_own_is_refused() {
    Machine::new(&["ATTRIBUTE_18=1"]).refuses(&["has no memory of its own: use host memory"]);
}

#[test]
fn more_than_the_window_on_the_bus_is_refused() {
    let machine = Machine::new(&[]).bar1(2 << 20);
    let error = machine.refuses(&[
        "4194304",
        "2 MiB of its memory on the bus (BAR1)",
        "resizable BAR",
    ]);
    assert!(matches!(error, ProviderError::BadSize { .. }));
    // It fits, but what it is rounded up to does not.
    let machine = Machine::new(&["UNIT=(8<<20)"]).bar1(4 << 20);
    machine.refuses(&["8388608", "4 MiB of its memory"]);
    // What fits gets further.
    Machine::new(&[]).bar1(4 << 20).refuses(&["no dma-buf"]);
}

#[test]
fn what_the_driver_exports_must_be_a_dmabuf() {
    let error = Machine::new(&[]).refuses(&["it is no dma-buf"]);
    assert!(matches!(error, ProviderError::BadFd(_)), "{error:?}");
    Machine::new(&["FAIL_cuMemGetHandleForAddressRange=801"]).refuses(&[
        "cuMemGetHandleForAddressRange failed (CUDA_ERROR_NOT_SUPPORTED, 801)",
        "MIG",
    ]);
}

#[test]
fn a_gdrdrv_that_is_none_is_refused() {
    let machine = Machine::new(&["ATTRIBUTE_124=0"]).gdrdrv("/dev/null", "yes");
    machine.refuses(&["ioctl(GDRDRV_IOC_PIN_BUFFER)"]);
    // Without its file it is not there, whatever was loaded.
    let mut machine = Machine::new(&["ATTRIBUTE_124=0"]).gdrdrv("/dev/null", "yes");
    machine.options.gdrdrv = machine.dir.path().join("gdrdrv");
    machine.refuses(&["gdrdrv is not loaded"]);
}

#[test]
fn too_little_memory_is_refused() {
    Machine::new(&["FAIL_cuMemCreate=2"]).refuses(&[
        "cuMemCreate failed (CUDA_ERROR_OUT_OF_MEMORY, 2)",
        "nvidia-smi",
    ]);
}

fn facts() -> Facts {
    Facts {
        device: "cuda:0".into(),
        pci: "0000:3B:00.0".into(),
        version: 13030,
        integrated: false,
        dmabuf: true,
        mmap: true,
        rdma: true,
        ordering: Ordering::AllDevices,
        bar1: Some(256 << 20),
        gdrdrv: Gdrdrv::Absent,
    }
}

#[test]
fn the_way_is_what_the_machine_offers() {
    assert_eq!(facts().way().unwrap(), Way::DmabufMmap);
    let persistent = Facts {
        gdrdrv: Gdrdrv::Persistent,
        ..facts()
    };
    assert_eq!(
        persistent.way().unwrap(),
        Way::DmabufMmap,
        "no module where none is needed"
    );
    let old = Facts {
        mmap: false,
        ..persistent.clone()
    };
    assert_eq!(old.way().unwrap(), Way::Gdrdrv);
    let none = Facts {
        dmabuf: false,
        ..persistent
    };
    assert_eq!(none.way().unwrap(), Way::Gdrdrv);
    assert_eq!(facts().version(), "13.3");
}

#[test]
fn writes_are_flushed_where_the_gpu_does_not_order_them() {
    for (ordering, flush) in [
        (Ordering::NeedsFlush, Flush::ReadPerBatch),
        (Ordering::Owner, Flush::None),
        (Ordering::AllDevices, Flush::None),
    ] {
        let facts = Facts {
            ordering,
            ..facts()
        };
        assert_eq!(facts.flush(), flush);
    }
}
