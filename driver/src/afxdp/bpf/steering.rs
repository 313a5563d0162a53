//! The program on an interface, its maps, and changing its rules while packets pass.

use super::asm::Insn;
use super::program::{self, COUNTER_STRIDE, Shared, Target};
use super::sys::{self, MapKind};
use crate::DriverError;
use crate::flow::{FlowRule, Rules};
use devrx_provider::Mapping;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Rules a queue can have.
pub const MAX_RULES_PER_QUEUE: usize = 64;

/// Rules all queues of an interface can have together. Queues with the same rules, as those of an attachment are, count as one.
pub const MAX_RULES: usize = 1024;

/// Queues an interface can have rules and sockets on.
pub const MAX_QUEUES: u32 = 1024;

/// All helpers used are open to programs under any licence.
const LICENSE: &CStr = c"MIT";

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the kernel makes a packet buffer.
    Driver,
    /// In the kernel's generic hook, behind the driver: any interface, slower.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        })
    }
}

/// The program attached to one interface. Dropping it takes the program off, as does the end of the process.
///
/// To end a queue without losing count of a packet: [`set_rules`](Self::set_rules) to none, [`remove_socket`](Self::remove_socket),
/// [`grace_period`], and only then drain and close the socket. After that no packet is on its way to it, and
/// [`matched`](Self::matched) stands still.
#[derive(Debug)]
pub struct Steering {
    ifindex: u32,
    queues: u32,
    sockets: OwnedFd,
    counters: OwnedFd,
    /// The value of `counters`.
    counts: Mapping,
    /// Keeps the program attached.
    link: OwnedFd,
    mode: XdpMode,
    /// Why not [`XdpMode::Driver`], if that was tried.
    driver_refused: Option<io::Error>,
    frags: bool,
    rules: BTreeMap<u32, Rules>,
}

impl Steering {
    /// Attaches a program without rules to interface `ifindex` of this network namespace, for its queues 0 to `queues - 1`.
    /// `mode`: that one or an error; `None`: in the driver if it can, else generic.
    ///
    /// # Errors
    ///
    /// [`DriverError::BadConfig`] for more than [`MAX_QUEUES`] queues or none; [`DriverError::Sys`] when the system refuses: no
    /// rights, another program attached, no XDP.
    pub fn attach(ifindex: u32, queues: u32, mode: Option<XdpMode>) -> Result<Self, DriverError> {
        if queues == 0 || queues > MAX_QUEUES {
            return Err(DriverError::BadConfig {
                what: "the number of queues",
                value: queues.to_string(),
                why: format!(
                    "an interface with 1 to {MAX_QUEUES} receive queues can be used; set fewer with `ethtool -L`"
                ),
            });
        }
        let sockets = sys::map_create(MapKind::Xsk, 4, queues, 0, None, "devrx_sockets")
            .map_err(|e| refused("bpf(BPF_MAP_CREATE, XSKMAP)", e))?;
        let size = queues * COUNTER_STRIDE;
        let counters = sys::map_create(
            MapKind::Array,
            COUNTER_STRIDE,
            queues,
            sys::BPF_F_MMAPABLE,
            None,
            "devrx_counts",
        )
        .map_err(|e| refused("bpf(BPF_MAP_CREATE, ARRAY)", e))?;
        let counts = Mapping::map_shared(counters.as_fd(), 0, size as usize, false)
            .map_err(|e| refused("mmap of the XDP program's counters", e))?;
        let empty = build(&[], &sockets, &counters)?;
        let (program, frags) = load_either(&empty)?;
        // What the kernel or missing rights have against rules is better known now than at the first one.
        let probe = [(0, vec!["udp,dst-port=1".parse().unwrap_or(FlowRule::ANY)])];
        load(&build(&probe, &sockets, &counters)?, frags)?;
        let (link, mode, driver_refused) = link(ifindex, program.as_fd(), mode)?;
        Ok(Self {
            ifindex,
            queues,
            sockets,
            counters,
            counts,
            link,
            mode,
            driver_refused,
            frags,
            rules: BTreeMap::new(),
        })
    }

    /// Replaces the rules of some queues; those of others stay. The first rule that takes a packet counts; the numbers are the
    /// caller's and mean nothing here. All of it in one step: packets see the old rules or the new ones, never neither. On an error
    /// the old ones stay.
    ///
    /// # Errors
    ///
    /// [`DriverError::BadConfig`] for more than [`MAX_RULES_PER_QUEUE`] rules on a queue, [`MAX_RULES`] on all, or a queue there is not;
    /// [`DriverError::Sys`] when the system refuses, for example because the interface is gone.
    pub fn set_rules(
        &mut self,
        changes: impl IntoIterator<Item = (u32, Rules)>,
    ) -> Result<(), DriverError> {
        let mut all = self.rules.clone();
        for (queue, rules) in changes {
            self.check_queue(queue)?;
            if rules.len() > MAX_RULES_PER_QUEUE {
                let more = rules.len();
                return Err(too_many(
                    more,
                    format!("a queue can have {MAX_RULES_PER_QUEUE}"),
                ));
            }
            all.insert(queue, rules);
        }
        all.retain(|_, rules| !rules.is_empty());
        let queues = bare(&all);
        let lists = program::shared(&queues);
        let total = lists.iter().map(|list| list.rules.len()).sum();
        if total > MAX_RULES {
            return Err(too_many(total, who_has_them(lists)));
        }
        let insns = build(&queues, &self.sockets, &self.counters)?;
        let program = load(&insns, self.frags)?;
        sys::link_update(self.link.as_fd(), program.as_fd()).map_err(|source| {
            DriverError::sys(
                "bpf(BPF_LINK_UPDATE)",
                source,
                "the rules are as they were; if the interface went away, detach and start again when it is back",
            )
        })?;
        // The link holds the program from here on.
        self.rules = all;
        Ok(())
    }

    /// The rules of `queue`, as they were set.
    #[must_use]
    pub fn rules(&self, queue: u32) -> &[(u16, FlowRule)] {
        self.rules.get(&queue).map_or(&[], Vec::as_slice)
    }

    /// From now on packets that `queue`'s rules take go to `socket`, which must be bound to that queue.
    ///
    /// # Errors
    ///
    /// [`DriverError::BadConfig`] for a queue there is not, [`DriverError::Sys`] for a descriptor that is no AF_XDP socket.
    pub fn insert_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), DriverError> {
        self.check_queue(queue)?;
        sys::map_put_fd(self.sockets.as_fd(), queue, socket)
            .map_err(|e| refused("bpf(BPF_MAP_UPDATE_ELEM, XSKMAP)", e))
    }

    /// From now on packets that `queue`'s rules take pass to the kernel, except for those already past the look-up, which are
    /// through after a [`grace_period`]. Nothing happens if the queue had no socket. (Closing a socket empties its place as well.)
    ///
    /// # Errors
    ///
    /// [`DriverError::BadConfig`] for a queue there is not, [`DriverError::Sys`] when the system refuses.
    pub fn remove_socket(&self, queue: u32) -> Result<(), DriverError> {
        self.check_queue(queue)?;
        match sys::map_delete(self.sockets.as_fd(), queue) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => {
                Err(refused("bpf(BPF_MAP_DELETE_ELEM, XSKMAP)", e))
            }
            _ => Ok(()),
        }
    }

    /// Packets sent to `queue`'s socket since the program was attached; 0 for a queue there is not.
    #[must_use]
    pub fn matched(&self, queue: u32) -> u64 {
        let mut count = [0; 8];
        let there = queue < self.queues
            && self
                .counts
                .copy_out((queue * COUNTER_STRIDE) as usize, &mut count);
        if there { u64::from_ne_bytes(count) } else { 0 }
    }

    /// Where the program runs.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Whether frames larger than one buffer reach the program. If not, the interface's MTU must be small enough for one.
    #[must_use]
    pub fn frags(&self) -> bool {
        self.frags
    }

    /// What a user should know about how it is attached: one sentence each, with the fix.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(why) = &self.driver_refused {
            warnings.push(format!(
                "the XDP program runs in the kernel's generic hook, which is slower, because the driver refused it ({why}); \
                 a smaller MTU, fewer queues or LRO switched off (`ethtool -K IF lro off`) often make it accept"
            ));
        }
        if !self.frags {
            warnings.push(
                "this kernel gives XDP programs no frames larger than one buffer; keep the MTU at 3000 or below, or use Linux 5.18 or newer".to_owned(),
            );
        }
        warnings
    }

    /// The interface's index.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The maps of sockets and of counters, for tests to run programs with them.
    #[cfg(test)]
    pub(super) fn maps(&self) -> (std::os::fd::RawFd, std::os::fd::RawFd) {
        (self.sockets.as_raw_fd(), self.counters.as_raw_fd())
    }

    fn check_queue(&self, queue: u32) -> Result<(), DriverError> {
        if queue < self.queues {
            return Ok(());
        }
        Err(DriverError::BadConfig {
            what: "queue",
            value: queue.to_string(),
            why: format!("the interface has {} queues, numbered from 0", self.queues),
        })
    }
}

/// Waits until every program run, and every delivery to a socket, that had begun before the call is over: an RCU grace period.
/// Milliseconds, not for every packet.
///
/// The kernel runs XDP programs, and flushes what they redirected, within one stretch with softirqs off, which RCU waits for.
/// membarrier(2)'s MEMBARRIER_CMD_GLOBAL is `synchronize_rcu`, with two exceptions (kernel/sched/membarrier.c). A kernel with full
/// dynticks CPUs does not offer it. And where one CPU is online it returns at once. That is harmless unless the kernel is
/// PREEMPT_RT: with softirqs off a CPU runs no process, so when this one runs on the only CPU there is, no XDP run is under way. On
/// PREEMPT_RT such a stretch can be preempted, by this process too. In both cases a map of maps is written instead, after which
/// bpf(2) does `synchronize_rcu` for this very purpose (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c), however many CPUs there
/// are. (A PREEMPT_RT kernel whose last but one CPU goes offline just between the two is not provided for.)
///
/// # Errors
///
/// [`DriverError::Sys`] when the system refuses both.
pub fn grace_period() -> Result<(), DriverError> {
    wait(cpus_online(), sys::membarrier_global, wait_by_map)
        .map_err(|e| refused("bpf(BPF_MAP_UPDATE_ELEM, ARRAY_OF_MAPS)", e))
}

/// Processors that are online; 1 if that cannot be known, which is on the safe side.
fn cpus_online() -> u64 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::_NPROCESSORS_ONLN)
        .ok()
        .flatten()
        .and_then(|cpus| u64::try_from(cpus).ok())
        .unwrap_or(1)
}

/// Waits in the one or the other way.
pub(super) fn wait(
    cpus: u64,
    membarrier: impl FnOnce() -> io::Result<()>,
    map: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    if cpus > 1 && membarrier().is_ok() {
        return Ok(());
    }
    map()
}

/// The second way of [`grace_period`].
pub(super) fn wait_by_map() -> io::Result<()> {
    let inner = sys::map_create(MapKind::Array, 4, 1, 0, None, "devrx_rcu_inner")?;
    let outer = sys::map_create(
        MapKind::ArrayOfMaps,
        4,
        1,
        0,
        Some(inner.as_fd()),
        "devrx_rcu",
    )?;
    sys::map_put_fd(outer.as_fd(), 0, inner.as_fd())
}

fn too_many(rules: usize, why: String) -> DriverError {
    DriverError::BadConfig {
        what: "the number of flow rules",
        value: rules.to_string(),
        why: format!(
            "{why}; use prefixes and port ranges instead of single addresses and ports, or `any`"
        ),
    }
}

/// The lists of rules there would be, the longest first.
fn who_has_them(mut lists: Vec<Shared<'_>>) -> String {
    const NAMED: usize = 6;
    lists.sort_by_key(|list| std::cmp::Reverse(list.rules.len()));
    let mut named: Vec<String> = lists
        .iter()
        .take(NAMED)
        .map(|list| format!("{} for {}", list.rules.len(), queue_numbers(&list.queues)))
        .collect();
    if let Some(rest) = lists.get(NAMED..).filter(|rest| !rest.is_empty()) {
        let rules: usize = rest.iter().map(|list| list.rules.len()).sum();
        named.push(format!("{rules} for the queues of {} more", rest.len()));
    }
    format!(
        "all queues of an interface together can have {MAX_RULES}, where queues with the same rules count once, and there would be {}; \
         take rules that are not needed off the attachments on these queues (`devrx stats` shows which those are, `devrx flow list` and \
         `devrx flow del` their rules), or detach one",
        named.join(", ")
    )
}

/// `queue 3`, `queues 0-2 and 5`.
fn queue_numbers(queues: &[u32]) -> String {
    const NAMED: usize = 3;
    let mut ranges: Vec<String> = queues
        .chunk_by(|before, after| before + 1 == *after)
        .filter_map(|range| match range {
            [] => None,
            [queue] => Some(queue.to_string()),
            [first, .., last] => Some(format!("{first}-{last}")),
        })
        .collect();
    if ranges.len() > NAMED {
        ranges.truncate(NAMED);
        ranges.push("more".to_owned());
    }
    let s = if queues.len() == 1 { "" } else { "s" };
    format!("queue{s} {}", ranges.join(" and "))
}

/// A refused call, with what to do about the usual causes.
fn refused(call: &'static str, source: io::Error) -> DriverError {
    let fix = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "run the daemon as root, or give it CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW"
        }
        Some(libc::ENOMEM) => {
            "free some memory; on Linux before 5.11 raise RLIMIT_MEMLOCK (`ulimit -l unlimited`)"
        }
        Some(libc::ENOSYS | libc::EINVAL) => {
            "Linux 5.10 or newer is needed, with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS"
        }
        Some(libc::EOPNOTSUPP) => {
            "only an AF_XDP socket can be put here, on a kernel with CONFIG_XDP_SOCKETS"
        }
        _ => "`dmesg` may say more",
    };
    DriverError::sys(call, source, fix)
}

/// The rules without their numbers.
fn bare(rules: &BTreeMap<u32, Rules>) -> Vec<(u32, Vec<FlowRule>)> {
    rules
        .iter()
        .map(|(queue, rules)| (*queue, rules.iter().map(|(_, rule)| *rule).collect()))
        .collect()
}

fn build(
    queues: &[(u32, Vec<FlowRule>)],
    sockets: &OwnedFd,
    counters: &OwnedFd,
) -> Result<Vec<Insn>, DriverError> {
    let target = Target::Redirect {
        sockets: sockets.as_raw_fd(),
        counters: counters.as_raw_fd(),
    };
    program::generate(queues, target).map_err(|e| DriverError::BadConfig {
        what: "the number of flow rules",
        value: queues
            .iter()
            .map(|(_, rules)| rules.len())
            .sum::<usize>()
            .to_string(),
        why: e.to_string(),
    })
}

/// Loads a program for frames in several buffers, or for such in one on a kernel that knows no others.
fn load_either(insns: &[Insn]) -> Result<(OwnedFd, bool), DriverError> {
    match load(insns, true) {
        Ok(program) => Ok((program, true)),
        Err(first) => match load(insns, false) {
            Ok(program) => Ok((program, false)),
            Err(_) => Err(first),
        },
    }
}

/// Loads a program. What the verifier had to say is in the error.
pub(super) fn load(insns: &[Insn], frags: bool) -> Result<OwnedFd, DriverError> {
    let flags = if frags { sys::BPF_F_XDP_HAS_FRAGS } else { 0 };
    let source = match sys::prog_load(insns, LICENSE, flags, &mut []) {
        Ok(program) => return Ok(program),
        Err(source) => source,
    };
    if source.raw_os_error() == Some(libc::EPERM) {
        return Err(refused("bpf(BPF_PROG_LOAD)", source));
    }
    // Once more, for the log. A log that does not fit has its beginning; the end is what is wanted, so give it room.
    let mut log = vec![0; 16 << 20];
    let again = sys::prog_load(insns, LICENSE, flags, &mut log);
    let text = String::from_utf8_lossy(log.split(|&byte| byte == 0).next().unwrap_or_default())
        .into_owned();
    let tail: Vec<&str> = text.lines().rev().take(12).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    if again.is_ok() || tail.is_empty() {
        return Err(refused("bpf(BPF_PROG_LOAD)", source));
    }
    if tail.iter().any(|line| line.ends_with("!root")) {
        // Finding a header at an offset from the packet takes CAP_PERFMON.
        return Err(refused("bpf(BPF_PROG_LOAD)", source));
    }
    Err(DriverError::sys(
        "bpf(BPF_PROG_LOAD)",
        source,
        format!(
            "the kernel's verifier rejected the generated program; please report it with your rules and this log:\n{}",
            tail.join("\n")
        ),
    ))
}

/// Attaches `program`: the link, where it runs, and why not in the driver if that was tried and refused.
fn link(
    ifindex: u32,
    program: BorrowedFd<'_>,
    mode: Option<XdpMode>,
) -> Result<(OwnedFd, XdpMode, Option<io::Error>), DriverError> {
    let attach = |mode| {
        let flags = match mode {
            XdpMode::Driver => sys::XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => sys::XDP_FLAGS_SKB_MODE,
        };
        sys::link_create(program, ifindex, flags)
    };
    let failed = |source: io::Error| {
        let fix = match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => {
                "another XDP program is attached; stop what put it there, or take it off with `ip link set dev IF xdp off` (see `ip link` and `bpftool net`)"
            }
            Some(libc::EPERM | libc::EACCES) => {
                "run the daemon as root, or give it CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
            }
            Some(libc::EOPNOTSUPP) => {
                "the driver has no XDP; let the mode be chosen, or choose the generic one"
            }
            Some(libc::ENODEV) => "there is no such interface in this network namespace",
            _ => "try a smaller MTU, fewer queues, and LRO switched off; `dmesg` may say more",
        };
        DriverError::sys("bpf(BPF_LINK_CREATE, XDP)", source, fix)
    };
    match mode {
        Some(mode) => Ok((attach(mode).map_err(failed)?, mode, None)),
        None => match attach(XdpMode::Driver) {
            Ok(link) => Ok((link, XdpMode::Driver, None)),
            Err(refusal)
                if matches!(
                    refusal.raw_os_error(),
                    Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::EACCES | libc::ENODEV)
                ) =>
            {
                Err(failed(refusal))
            }
            Err(refusal) => Ok((
                attach(XdpMode::Generic).map_err(failed)?,
                XdpMode::Generic,
                Some(refusal),
            )),
        },
    }
}
