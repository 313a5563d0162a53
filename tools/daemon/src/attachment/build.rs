//! Making an attachment, step by step. What was made when a step fails is ended as a living attachment would be: there is one way
//! out.

use std::sync::Arc;

use devrx_driver::{HeaderSlots, QueueConfig};
use devrx_pool::{Pool, PoolConfig};
use devrx_proto::event::Event;
use devrx_proto::layout::MAX_QUEUES;
use devrx_proto::message::FailureCode;
use devrx_proto::ring::{DaemonQueue, Start};
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider, RegionProvider, RegionSpec};

use super::consumer::ClientEnd;
use super::{Attachment, Flow, Owner, Queue, Source, Wanted, memory};
use crate::aside;
use crate::closers::Closers;
use crate::error::Refused;
use crate::keeper::Keeper;
use crate::nic::NicSlot;
use crate::sys::Watched;
use crate::worker::{self, Manners, Parts, Shared};

/// What an attachment is made with.
pub struct Builder<'a> {
    /// The NIC.
    pub nic: &'a mut NicSlot,
    /// Its place in the daemon's table.
    pub place: usize,
    /// Who holds the memory should the daemon die.
    pub keeper: &'a mut Keeper,
    /// Whose dma-bufs are taken.
    pub dmabuf: &'a devrx_provider::dmabuf::Policy,
    /// Where GPUs are had.
    pub gpus: &'a super::Gpus,
    /// Where functions are watched whose BARs are memory.
    pub lenders: &'a super::Lenders,
    /// Where what clients had is closed.
    pub closers: &'a Closers,
    /// Rung by workers that have something to say.
    pub control: &'a Arc<Event>,
}

/// An attachment, and what whoever asked for it should know.
#[derive(Debug)]
pub struct Made {
    /// The attachment.
    pub attachment: Attachment,
    /// One sentence each, with the fix.
    pub warnings: Vec<String>,
}

impl Builder<'_> {
    /// Makes an attachment. Its queues are free and its name is; whoever asked may have it.
    ///
    /// # Errors
    ///
    /// What failed; nothing is left of it.
    pub fn build(mut self, wanted: Wanted, source: Source, owner: Owner) -> Result<Made, Refused> {
        self.check(&wanted)?;
        let queues = wanted.queues.end() - wanted.queues.start() + 1;
        let needs = self.nic.nic.needs();
        needs.check_chunk(wanted.chunk)?;
        if let Source::Gpu(gpu) = &source {
            needs.check_gpu(gpu.text())?;
        }
        let kind = source.kind().to_owned();
        let spec = RegionSpec {
            size: wanted.size,
            chunk_size: wanted.chunk,
        };
        spec.check()?;
        let (name, numbers) = (wanted.name.clone(), wanted.queues.clone());
        // Before memory is taken, which for more than a layout can have may be all that the host has.
        let layout = wanted.layout()?;
        let (region, lender) =
            memory::region(&name, source, spec, self.dmabuf, self.gpus, self.lenders)?;
        let region = Arc::new(region);
        let shares = RegionProvider::split(region.clone(), queues)?;
        for share in &shares {
            share.init(&needs)?;
        }
        let daemon = memory::daemon_memory(&name, &layout)?;
        let given = aside::slow_ones(region.shareable().into_iter().chain(region.export_fd()))
            .map_err(|error| {
                let message = format!(
                    "the daemon has no descriptor left for another one of the memory: {error}; end an attachment, or raise its RLIMIT_NOFILE"
                );
                Refused::new(FailureCode::Exhausted, message)
            })?;
        let mut attachment = Attachment {
            client: ClientEnd::new(&name, &layout)?,
            nic: self.place,
            nic_name: self.nic.nic.name().to_owned(),
            queues: numbers,
            memory: kind,
            owner,
            consumer: None,
            flows: Vec::new(),
            next_flow: 0,
            split: wanted.split,
            polls_refill: wanted.polls_refill,
            region,
            lender,
            layout,
            daemon_fd: daemon.fd,
            watched: Arc::new(Watched::new(&daemon.shm)?),
            daemon_memory: daemon.shm,
            given,
            closers: self.closers.clone(),
            hold: None,
            live: Vec::new(),
            name,
        };
        let mut warnings = self.nic.nic.warnings();
        match self.start(
            &mut attachment,
            &wanted,
            &shares,
            &daemon.headers,
            &mut warnings,
        ) {
            Ok(()) => Ok(Made {
                attachment,
                warnings,
            }),
            Err(refused) => {
                drop((shares, daemon.headers));
                if devrx_sabotage::removed("attach-rollback") {
                    std::mem::forget(attachment);
                    return Err(refused);
                }
                let ended = attachment.end(self.nic, self.keeper);
                self.nic.remember(&ended);
                Err(refused)
            }
        }
    }

    fn check(&self, wanted: &Wanted) -> Result<(), Refused> {
        let (first, last) = (*wanted.queues.start(), *wanted.queues.end());
        let (name, has) = (self.nic.nic.name(), self.nic.nic.queues());
        if last >= has {
            return Err(Refused::not_found(format!(
                "{name} has {has} receive queue(s), numbered from 0; {last} is none of them (`ethtool -L {name} combined N` gives it more, if it can)"
            )));
        }
        if last - first >= MAX_QUEUES {
            return Err(Refused::invalid(format!(
                "queues {first}-{last}: one attachment takes {MAX_QUEUES}"
            )));
        }
        for nth in 0..=last - first {
            let Some(cpu) = wanted.cpu.map(|cpu| cpu.checked_add(nth)) else {
                break;
            };
            if !cpu.is_some_and(crate::worker::can_pin) {
                return Err(Refused::invalid(format!(
                    "the thread of queue {} cannot be pinned to processor {}: this process has no such one; `nproc` says how many there are",
                    first + nth,
                    cpu.map_or("after the last".into(), |cpu| cpu.to_string())
                )));
            }
        }
        Ok(())
    }

    /// Everything that must be undone if it fails.
    fn start(
        &mut self,
        attachment: &mut Attachment,
        wanted: &Wanted,
        shares: &[Arc<RegionProvider>],
        headers: &Arc<Mapping>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Refused> {
        // Before a NIC learns of the memory. A device whose BAR is the memory goes along: the keeper is of this daemon's making, and were the
        // device given back first when the daemon is killed, the NIC would go on writing into what somebody else has opened by then.
        let mut fds: Vec<_> = attachment.region.fds().collect();
        fds.push(attachment.daemon_fd());
        let what = format!(
            "{} ({} on {})",
            attachment.name, attachment.memory, attachment.nic_name
        );
        attachment.hold = Some(self.keeper.hold(&what, &fds)?);
        for (place, share) in shares.iter().enumerate() {
            let queue = self.start_queue(attachment, wanted, place, share, headers)?;
            attachment.live.push(queue);
        }
        // Last: packets come from here on, and every queue has its chunks posted.
        for rule in &wanted.flows {
            warnings.extend(attachment.add_flow(self.nic, *rule)?.1);
        }
        if attachment.flows.is_empty() {
            warnings.push(format!(
                "{:?} has no flow rule, so nothing arrives; add one with `devrx flow add {} RULE`",
                attachment.name, attachment.name
            ));
        }
        Ok(())
    }

    fn start_queue(
        &mut self,
        attachment: &Attachment,
        wanted: &Wanted,
        place: usize,
        share: &Arc<RegionProvider>,
        headers: &Arc<Mapping>,
    ) -> Result<Queue, Refused> {
        // Both fit: an attachment has at most MAX_QUEUES.
        let nth = u32::try_from(place).unwrap_or(u32::MAX);
        let number = wanted.queues.start() + nth;
        let chunks = share.chunks();
        let count = chunks.end - chunks.start;
        let provider: Arc<dyn MemoryProvider> = share.clone();
        let config = QueueConfig {
            provider: provider.clone(),
            headers: HeaderSlots {
                memory: headers.clone(),
                start: 0,
                slot_size: wanted.header_slot,
                first: ChunkIndex(0),
            },
            split: wanted.split,
            ring: wanted.ring_for(count)?,
            busy_poll: wanted.busy_poll,
            zero_copy: wanted.zero_copy,
            split_extra: wanted.split_extra,
            unsplit: wanted.unsplit,
            timestamps: wanted.timestamps,
        };
        let (pool, _) = Pool::new(
            provider,
            PoolConfig {
                recycle_ring: count as usize,
            },
        );
        let client = attachment.client.side(place)?;
        let rings = DaemonQueue::new(
            &attachment.layout,
            nth,
            &attachment.daemon_memory,
            &client.memory,
            Start::default(),
        )?;
        let (sender, commands) = worker::commands();
        let parts = Parts {
            manners: Manners {
                name: format!("rx{number}-{}", attachment.name),
                cpu: wanted.cpu.and_then(|cpu| cpu.checked_add(nth)),
                poll_mode: wanted.poll_mode,
                wake_batch: wanted.wake_batch,
                wake_timeout: wanted.wake_timeout,
                polls_refill: wanted.polls_refill,
            },
            pool,
            region: attachment.region.clone(),
            layout: attachment.layout,
            place: nth,
            memory: attachment.daemon_memory.clone(),
            watched: attachment.watched.clone(),
            headers: headers.clone(),
            rings,
            client,
            shared: Arc::new(Shared::new(self.control.clone())?),
            commands,
        };
        let worker = self.nic.nic.start_queue(number, config, parts, sender)?;
        Ok(Queue {
            number,
            worker,
            first_chunk: chunks.start,
            chunks: count,
        })
    }
}

impl Attachment {
    /// Adds a rule to the queues. Returns its number, and what it takes that will not arrive.
    ///
    /// # Errors
    ///
    /// When the NIC cannot express it; nothing has changed then.
    pub fn add_flow(
        &mut self,
        nic: &mut NicSlot,
        rule: devrx_driver::flow::FlowRule,
    ) -> Result<(u16, Vec<String>), Refused> {
        let id = self.next_flow;
        if id == devrx_driver::NO_FLOW {
            return Err(Refused::invalid(
                "this attachment has had 65535 flow rules; attach again to start over",
            ));
        }
        let notes = nic.nic.add_flow(self.queues.clone(), id, &rule)?;
        self.next_flow += 1;
        self.flows.push(Flow { id, rule });
        Ok((id, notes))
    }

    /// Takes a rule off the queues.
    ///
    /// # Errors
    ///
    /// When there is no such rule, or the system refused.
    pub fn remove_flow(&mut self, nic: &mut NicSlot, id: u16) -> Result<(), Refused> {
        let Some(at) = self.flows.iter().position(|flow| flow.id == id) else {
            return Err(Refused::not_found(format!(
                "{:?} has no flow rule {id}; `devrx flow list {}` shows what it has",
                self.name, self.name
            )));
        };
        nic.nic.remove_flow(self.queues.clone(), id)?;
        self.flows.remove(at);
        Ok(())
    }
}
