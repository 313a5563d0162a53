//! What the GPUs of this machine, their drivers and their libraries offer.

use std::error::Error;
use std::path::Path;

use devrx_provider::cuda::{Facts, Gdrdrv, Way};
use devrx_provider::{Flush, GpuError, ProviderError, cuda, gpu, hip};

use super::host::Outcome;
use super::{Check, Needed};

/// Every check of GPUs.
pub fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |name, outcome| checks.push(Check::new(name, Needed::Nothing, outcome));
    let options = cuda::Options::default();
    match options.driver() {
        Ok(driver) => nvidia(&driver, &options, &mut add),
        Err(error) => add("cuda", Err(apart(error))),
    }
    add("hip", amd(&hip::Options::default()));
    checks
}

/// What was found and the fix, which an error has together.
fn apart(error: ProviderError) -> (String, String) {
    match error {
        ProviderError::Gpu(GpuError::NoLibrary { library, why, fix }) => {
            (format!("{library} cannot be loaded: {why}"), fix.into())
        }
        ProviderError::Gpu(GpuError::NoSymbol {
            library,
            symbol,
            fix,
        }) => (format!("{library} has no {symbol}"), fix.into()),
        ProviderError::Gpu(GpuError::Call {
            call, name, fix, ..
        }) => (format!("{call} failed: {name}"), fix.into()),
        other => {
            let source = other.source().map(ToString::to_string);
            (
                other.to_string(),
                source.unwrap_or_else(|| "see above".into()),
            )
        }
    }
}

fn nvidia(
    driver: &gpu::cuda::Driver,
    options: &cuda::Options,
    add: &mut impl FnMut(&'static str, Outcome),
) {
    let version = driver.version();
    let module = gpu::bar::nvidia_module().unwrap_or_else(|| "unknown".into());
    let count = driver.devices().unwrap_or(0);
    let found = format!(
        "CUDA {}.{}, kernel module {module}, {count} GPU(s)",
        version / 1000,
        version % 1000 / 10
    );
    if count == 0 {
        add(
            "cuda",
            Err((
                found,
                "check `nvidia-smi`, and the variable CUDA_VISIBLE_DEVICES".into(),
            )),
        );
        return;
    }
    add("cuda", Ok(found));
    add("gdrdrv", gdrdrv(options));
    for index in 0..count {
        match driver.device(index).map_err(ProviderError::from) {
            Ok(device) => each(&device, options, add),
            Err(error) => add("cuda_memory", Err(apart(error))),
        }
    }
}

fn each(
    device: &gpu::cuda::Device,
    options: &cuda::Options,
    add: &mut impl FnMut(&'static str, Outcome),
) {
    let facts = match Facts::of(device, options) {
        Ok(facts) => facts,
        Err(error) => return add("cuda_memory", Err(apart(error))),
    };
    add("cuda_memory", memory(&facts));
    add("cuda_bar", bar(&facts, device.memory().unwrap_or(0)));
    add("cuda_ordering", Ok(ordering(&facts)));
    add("cuda_host", host(device, &facts.device));
}

/// Whether a NIC can write into it.
fn memory(facts: &Facts) -> Outcome {
    let yes = |no: bool| if no { "yes" } else { "no" };
    let answers = format!(
        "{}: dma-buf {}, mmap of it {}, gdrdrv's way {}",
        facts.device,
        yes(facts.dmabuf),
        yes(facts.mmap),
        yes(facts.rdma)
    );
    match facts.way() {
        Ok(Way::DmabufMmap) => Ok(format!(
            "{answers}: a NIC can write into it, by its mapped dma-buf"
        )),
        Ok(Way::Gdrdrv) => Ok(format!("{answers}: a NIC can write into it, by gdrdrv")),
        Err(_) if facts.integrated => Err((
            format!("{answers}: it has no memory of its own"),
            "use host memory (memfd, hugetlb), which is all its memory".into(),
        )),
        Err(_) => Err((
            format!(
                "{answers}: no NIC can write into it; it can read host memory (memfd, hugetlb) over PCIe"
            ),
            facts.lacks().join(". "),
        )),
    }
}

fn bar(facts: &Facts, memory: u64) -> Outcome {
    match facts.bar1 {
        None => Err((
            format!("{}: the kernel does not show its BARs", facts.device),
            "mount /sys; a container must show it".into(),
        )),
        Some(bar1) if bar1 >= memory => Ok(format!(
            "{}: BAR1 shows all its memory ({} MiB)",
            facts.device,
            bar1 >> 20
        )),
        Some(bar1) => Err((
            format!(
                "{}: BAR1 shows {} MiB of {} MiB; regions together must be smaller",
                facts.device,
                bar1 >> 20,
                memory >> 20
            ),
            "turn on resizable BAR (Above 4G Decoding) in the firmware, if the GPU has it".into(),
        )),
    }
}

fn ordering(facts: &Facts) -> String {
    let device = &facts.device;
    if facts.flush() == Flush::None {
        let ordering = facts.ordering;
        format!("{device}: orders what a NIC writes ({ordering:?}); no read a batch")
    } else {
        format!("{device}: what a NIC wrote is pushed by one read a batch")
    }
}

/// Host memory that it reads.
fn host(device: &gpu::cuda::Device, name: &str) -> Outcome {
    use gpu::cuda::Attribute;
    let register = device.attribute(Attribute::HostRegister);
    if matches!(register, Ok(Some(0))) {
        return Err((
            format!("{name}: takes no registered host memory"),
            "a newer driver, or another GPU".into(),
        ));
    }
    match device.can(Attribute::ReadOnlyHostRegister) {
        Ok(true) => Ok(format!(
            "{name}: host memory can be registered, completion rings too"
        )),
        _ => Err((
            format!(
                "{name}: host memory can be registered, but not to be only read, as completion rings are"
            ),
            "a newer driver; until then the CPU reads completions".into(),
        )),
    }
}

fn gdrdrv(options: &cuda::Options) -> Outcome {
    match Gdrdrv::find(options) {
        Gdrdrv::Persistent => Ok("gdrdrv is loaded, with persistent mappings".into()),
        Gdrdrv::NotPersistent => Err((
            "gdrdrv is loaded, but lets go of memory when its process is killed".into(),
            "load it with use_persistent_mapping=1; only drivers before CUDA 13.3 need it".into(),
        )),
        Gdrdrv::Absent => Err((
            "gdrdrv is not loaded".into(),
            "build GDRCopy's kernel module, and load it with use_persistent_mapping=1; only drivers before CUDA 13.3 need it".into(),
        )),
    }
}

fn amd(options: &hip::Options) -> Outcome {
    // The libraries are slow to load, and abort on some machines that have none of AMD's GPUs.
    if !Path::new("/dev/kfd").exists() {
        return Err((
            "no AMD GPU that computes (/dev/kfd is not there)".into(),
            "load amdgpu, with the firmware of the GPU; only AMD's GPUs need it".into(),
        ));
    }
    let runtime = options.runtime().map_err(apart)?;
    let count = runtime.devices().unwrap_or(0);
    let version = runtime.version().unwrap_or(0);
    Ok(format!(
        "HIP {}.{}, {count} GPU(s): they read host memory (memfd, hugetlb); their own may move, and needs allow_unpinned",
        version / 10_000_000,
        version / 100_000 % 100
    ))
}
