//! QEMU's command line, and the process.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use super::card::Card;
use super::inject::Port;
use super::kernel::Kernel;
use super::machine::{BAR, CONTROL, Machine, Model, Nic};
use super::trixie::Tree;

/// What may be asked of QEMU beside the machine.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Write accesses to registers that the NIC model does not know to `qemu.log`.
    pub trace: bool,
    /// A TCG plugin, with its arguments, as `-plugin` takes it.
    pub plugin: Option<String>,
    /// Another QEMU than the installed one.
    pub qemu: Option<Tree>,
    /// The program that serves the E810 model.
    pub e810: Option<PathBuf>,
    /// One more part for the initramfs.
    pub extra: Option<PathBuf>,
}

/// The files of one guest, all in one folder.
#[derive(Debug, Clone)]
pub struct Files(PathBuf);

impl Files {
    /// The files in `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The initramfs.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.0.join("initramfs")
    }

    /// The memory behind the ivshmem BAR.
    #[must_use]
    pub fn bar(&self) -> PathBuf {
        self.0.join("bar")
    }

    /// The socket of the control channel.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.0.join("control")
    }

    /// The socket of QEMU's monitor.
    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        self.0.join("monitor")
    }

    /// Everything the guest said on its console.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What QEMU said.
    #[must_use]
    pub fn errors(&self) -> PathBuf {
        self.0.join("qemu.err")
    }

    fn trace(&self) -> PathBuf {
        self.0.join("qemu.log")
    }
}

/// The command that runs `machine` on `kernel`. The sockets it connects to must be there.
pub fn command(machine: &Machine, kernel: &Kernel, files: &Files, options: &Options) -> Command {
    let mut command = match &options.qemu {
        Some(tree) => tree.qemu(),
        None => Command::new("qemu-system-x86_64"),
    };
    // One CPU: with two, Linux 6.12 hangs now and then under TCG, and QEMU 10.0 aborts.
    command.args(["-accel", "tcg", "-cpu", "max", "-smp"]);
    command.arg(machine.cpus.to_string());
    command.args(["-m", &format!("{}M", machine.memory)]);
    if machine.has_e810() {
        // The model's process has the guest's memory too, so it must be shared.
        let memory = format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            machine.memory
        );
        command.args(["-object", &memory]);
        // And that of the qxl card's BARs, which is not the machine's.
        let machine = "q35,kernel-irqchip=split,memory-backend=ram,aux-ram-share=on";
        command.args(["-M", machine]);
        // Caching mode: the guest says each map, so that QEMU can tell the model.
        command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
    } else {
        command.args(["-M", "q35", "-device", "intel-iommu"]);
    }
    command.args(["-nographic", "-nodefaults", "-no-reboot"]);
    command.arg("-kernel").arg(&kernel.image);
    command.arg("-initrd").arg(files.initramfs());
    let mut append = format!(
        "console=ttyS0 intel_iommu=on iommu=pt no_timer_check panic=-1 quiet hugepages={}",
        machine.hugepages
    );
    for word in machine.append {
        append += &format!(" {word}");
    }
    command.args(["-append", &append]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.args([
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    let socket = |path: PathBuf| path.display().to_string();
    command.args([
        "-chardev",
        &format!("socket,id=control,path={}", socket(files.control())),
    ]);
    // Not a serial port: those carry a few bytes an interrupt, 7 kB a second.
    command.args(["-device", "virtio-serial-pci,addr=0x7,max_ports=2"]);
    command.args([
        "-device",
        &format!("virtserialport,chardev=control,name={CONTROL}"),
    ]);
    command.args(["-qmp", &format!("unix:{}", socket(files.monitor()))]);
    for port in machine.ports {
        // QEMU 11 has no such option.
        let acs = if port.isolates { "" } else { ",disable-acs=on" };
        let (id, bus, slot) = (port.id, port.bus, port.slot);
        let port = format!("pcie-root-port,id={id},chassis={bus},slot={bus},addr={slot:#x}{acs}");
        command.args(["-device", &port]);
    }
    for nic in machine.nics {
        if nic.model == Model::E810 {
            command.args(["-device", &Card::device(nic, files.folder())]);
            continue;
        }
        command.args(["-netdev", &Port::netdev(nic, files.folder())]);
        command.args(["-device", &device(nic)]);
    }
    let memory = format!(
        "memory-backend-file,id=bar,size={BAR},mem-path={},share=on",
        files.bar().display()
    );
    command.args(["-object", &memory]);
    command.args(["-device", "ivshmem-plain,memdev=bar,master=on,addr=0x3"]);
    if machine.qxl {
        command.args(["-device", "qxl,addr=0x5"]);
    }
    command.args(machine.arguments);
    if options.trace {
        command.arg("-D").arg(files.trace());
        command.args(["-trace", "e1000e_wrn_regs_*"]);
    }
    if let Some(plugin) = &options.plugin {
        command.args(["-plugin", plugin]);
    }
    command
}

/// The argument of QEMU's `-device`, or of its monitor's `device_add`, for a NIC that QEMU models itself.
#[must_use]
pub fn device(nic: &Nic) -> String {
    let [a, b, c, d, e, f] = nic.mac();
    let address = match nic.port {
        None => format!("addr={:#x}", nic.slot),
        Some(port) => format!("bus={},addr=0x0.{},multifunction=on", port.id, nic.slot),
    };
    let place = format!(
        "netdev={},id={},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x},{address}",
        nic.id,
        nic.id.to_uppercase(),
    );
    match nic.model {
        // Its first function names the next one only when told to, and Linux looks for no other (ARI).
        Model::Igb if nic.port.is_some() => format!("igb,{place},x-pcie-ari-nextfn-1=on"),
        Model::Igb => format!("igb,{place}"),
        Model::Peer | Model::E810 => {
            format!("virtio-net-pci,{place},disable-legacy=on,romfile=,mq=off")
        }
        // AF_XDP's zero-copy needs the IOMMU's DMA addresses and a ring that can be reset; XDP needs one buffer a frame.
        Model::Virtio => format!(
            "virtio-net-pci,{place},disable-legacy=on,iommu_platform=on,romfile=,mq=off,\
             guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off"
        ),
    }
}

/// Starts it, with what it says going to the files. It is killed when this process dies.
pub fn start(mut command: Command, files: &Files) -> Result<Child> {
    let console = File::create(files.console())?;
    let errors = File::create(files.errors())?;
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "KILL", "--"]);
    guarded.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            guarded.env(name, value);
        }
    }
    command = guarded;
    command
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(errors)
        .spawn()
        .context("cannot start QEMU")
}
