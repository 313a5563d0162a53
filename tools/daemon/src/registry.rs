//! Everything the daemon has: NICs, attachments, what is left of those that ended. What clients ask for is done here; how they ask is
//! the business of [`crate::session`].

mod bars;
mod ending;
mod lists;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devrx_proto::endpoints::Endpoints;
use devrx_proto::event::Event;
use devrx_proto::message::{self, AttachReply, AttachRequest, Lifetime, Opened, Timestamps};

use crate::attachment::{
    Attachment, Builder, Ended, Lenders, Made, Owner, SessionId, Source, Wanted,
};
use crate::closers::Closers;
use crate::config::{Config, Limits, PlannedAttachment};
use crate::counters::Counters;
use crate::error::Refused;
use crate::keeper::Keeper;
use crate::nic::NicSlot;
use crate::policy::{Ask, Peer, Policy, Usage};

/// Threads that close what users had: so many of them can be slow at a time before it shows.
const CLOSERS: usize = 256;

/// So much of one user's may not be closed yet, before it gets no more that would have to be.
const MOST_LEFT: usize = 64;

/// Everything the daemon has.
pub struct Registry {
    pub(crate) nics: Vec<NicSlot>,
    pub(crate) attachments: BTreeMap<String, Attachment>,
    pub(crate) ended: VecDeque<Ended>,
    policy: Policy,
    limits: Limits,
    dmabuf: devrx_provider::dmabuf::Policy,
    gpus: crate::attachment::Gpus,
    lenders: Lenders,
    keeper: Keeper,
    /// Closes what consumers had, and brought.
    closers: Closers,
    control: Arc<Event>,
    /// What the daemon counts besides packets.
    pub(crate) counters: Counters,
    /// The memory of attachments that was leaked, as it was asked for.
    leaked: Vec<String>,
    /// What sessions must be told.
    news: Vec<(SessionId, message::Event)>,
}

impl Registry {
    /// Nothing attached yet. `control` is rung by workers that have something to say.
    ///
    /// # Errors
    ///
    /// A policy that is none; no descriptors left.
    pub fn new(
        config: &Config,
        nics: Vec<NicSlot>,
        keeper: Keeper,
        control: Arc<Event>,
    ) -> Result<Self, String> {
        Ok(Self {
            nics,
            attachments: BTreeMap::new(),
            ended: VecDeque::new(),
            policy: Policy::new(&config.policy, nix::unistd::geteuid().as_raw())?,
            limits: config.limits,
            dmabuf: config.dmabuf.clone(),
            gpus: config.gpus.clone(),
            lenders: Lenders::new().map_err(|error| {
                format!("epoll_create1: {error}; raise RLIMIT_NOFILE, or close descriptors of the system")
            })?,
            keeper,
            closers: Closers::new(CLOSERS),
            control,
            counters: Counters::default(),
            leaked: Vec::new(),
            news: Vec::new(),
        })
    }

    fn nic_called(&self, name: &str) -> Result<usize, Refused> {
        self.nics
            .iter()
            .position(|nic| nic.is_called(name))
            .ok_or_else(|| {
                let have = self
                    .nics
                    .iter()
                    .map(|nic| nic.nic.name())
                    .collect::<Vec<_>>()
                    .join(", ");
                Refused::not_found(format!(
                    "this daemon does not serve a NIC {name:.40?}; it serves {have}"
                ))
            })
    }

    /// Makes an attachment for a client.
    ///
    /// # Errors
    ///
    /// Why not; nothing has changed then.
    pub fn attach(
        &mut self,
        peer: &Peer,
        session: SessionId,
        request: &AttachRequest,
        fd: Option<OwnedFd>,
    ) -> Result<(AttachReply, Option<Endpoints>), Refused> {
        self.check_left(peer)?;
        let place = self.nic_called(&request.nic)?;
        let slot = &self.nics[place];
        let wanted = Wanted::of_request(
            request,
            &slot.nic.needs(),
            slot.settings_of(request.queue_first),
        )?;
        let source = Source::new(&request.memory, fd)?;
        let persist = request.lifetime == Lifetime::Daemon;
        let ask = Ask {
            nic: slot.nic.name(),
            alias: slot.alias.as_deref(),
            queues: wanted.queues.clone(),
            kind: source.policy_kind(),
            size: wanted.memory(),
            persist,
            tune: request.cpu.is_some() || request.busy_poll,
        };
        self.policy
            .may_attach(peer, &ask, self.usage_of(peer.uid))?;
        let owner = Owner {
            uid: peer.uid,
            session: (!persist).then_some(session),
        };
        let timestamps = match wanted.timestamps {
            devrx_driver::Timestamps::Software => Timestamps::Software,
            devrx_driver::Timestamps::Nic => Timestamps::Nic,
        };
        let (attachment, warnings) = self.make(place, wanted, source, owner)?;
        let flows = attachment.flow_infos();
        let polls_refill = attachment.polls_refill;
        let name = attachment.name.clone();
        let (opened, endpoints) = match request.open.then(|| attachment.open(session, peer)) {
            None => (None, None),
            Some(Ok((opened, endpoints))) => (Some(opened), Some(endpoints)),
            Some(Err(refused)) => {
                self.end(&name, format!("it could not be opened: {refused}"));
                // Nobody was ever given it.
                self.ended.retain(|ended| ended.name != name);
                return Err(refused);
            }
        };
        Ok((
            AttachReply {
                name,
                flows,
                polls_refill,
                timestamps,
                warnings,
                opened,
            },
            endpoints,
        ))
    }

    /// Makes an attachment of the configuration.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn attach_planned(&mut self, plan: &PlannedAttachment) -> Result<Vec<String>, Refused> {
        let place = self.nic_called(&plan.nic)?;
        let owner = Owner {
            uid: nix::unistd::geteuid().as_raw(),
            session: None,
        };
        let source = Source::new(&plan.memory, None)?;
        self.make(place, Wanted::of_plan(plan)?, source, owner)
            .map(|(_, warnings)| warnings)
    }

    fn make(
        &mut self,
        place: usize,
        wanted: Wanted,
        source: Source,
        owner: Owner,
    ) -> Result<(&mut Attachment, Vec<String>), Refused> {
        if self.attachments.contains_key(&wanted.name) {
            return Err(Refused::busy(format!(
                "there is an attachment called {:?}; choose another name, or end it with `devrx detach {}`",
                wanted.name, wanted.name
            )));
        }
        if let Some(other) = self
            .attachments
            .values()
            .find(|other| other.overlaps(place, &wanted.queues))
        {
            return Err(Refused::busy(format!(
                "queue {} of {} belongs to the attachment {:?} of uid {}; choose another queue, or end it with `devrx detach {}`",
                wanted.queues.start().max(other.queues.start()),
                other.nic_name,
                other.name,
                other.owner.uid,
                other.name
            )));
        }
        if let Source::Bar(bar) = &source {
            self.check_bar(bar)?;
        }
        if self.attachments.len() >= self.limits.attachments as usize {
            return Err(Refused::new(
                message::FailureCode::Exhausted,
                format!(
                    "the daemon has {} attachments, its limit ([limits] attachments)",
                    self.attachments.len()
                ),
            ));
        }
        let builder = Builder {
            nic: &mut self.nics[place],
            place,
            keeper: &mut self.keeper,
            dmabuf: &self.dmabuf,
            gpus: &self.gpus,
            lenders: &self.lenders,
            closers: &self.closers,
            control: &self.control,
        };
        let made = builder.build(wanted, source, owner);
        self.tell_rules();
        let Made {
            attachment,
            warnings,
        } = made?;
        let name = attachment.name.clone();
        tracing::info!(name, nic = attachment.nic_name, queues = ?attachment.queues, memory = attachment.memory, uid = owner.uid, "attached");
        // A name in use again stands for the new attachment alone.
        self.ended.retain(|ended| ended.name != name);
        Ok((
            self.attachments
                .entry(name)
                .insert_entry(attachment)
                .into_mut(),
            warnings,
        ))
    }

    /// Whether a user can be given more descriptors.
    fn check_left(&self, peer: &Peer) -> Result<(), Refused> {
        let left = self.closers.left_of(peer.uid);
        if left < MOST_LEFT {
            return Ok(());
        }
        Err(Refused::busy(format!(
            "{left} times over, descriptors that uid {} had of this daemon cannot be closed: a process holds up an epoll that they are in; end it, and try again",
            peer.uid
        )))
    }

    fn usage_of(&self, uid: u32) -> Usage {
        let owned = self
            .attachments
            .values()
            .filter(|attachment| attachment.owner.uid == uid);
        owned.fold(Usage::default(), |usage, attachment| Usage {
            memory: usage.memory.saturating_add(attachment.size()),
            attachments: usage.attachments + 1,
        })
    }

    /// Tells the keeper which rules would outlive the daemon.
    fn tell_rules(&mut self) {
        let rules = self
            .nics
            .iter()
            .flat_map(|slot| slot.nic.leftover_rules())
            .collect();
        self.keeper.rules(rules);
    }

    fn usable(&mut self, peer: &Peer, name: &str) -> Result<&mut Attachment, Refused> {
        let Some(attachment) = self.attachments.get_mut(name) else {
            let ended = self.ended.iter().find(|ended| ended.name == name);
            let why = ended
                .map(|ended| format!("; it ended: {}", ended.reason))
                .unwrap_or_default();
            return Err(Refused::not_found(format!(
                "there is no attachment {name:.80?}{why} (`devrx stats` lists them)"
            )));
        };
        self.policy.may_use(peer, attachment.owner.uid, name)?;
        Ok(attachment)
    }

    /// Makes a session the consumer of an attachment.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn open(
        &mut self,
        peer: &Peer,
        session: SessionId,
        name: &str,
    ) -> Result<(Opened, Endpoints), Refused> {
        self.check_left(peer)?;
        self.usable(peer, name)?.open(session, peer)
    }

    /// Ends a session's consumption.
    ///
    /// # Errors
    ///
    /// When it is not the consumer.
    pub fn close(&mut self, peer: &Peer, session: SessionId, name: &str) -> Result<(), Refused> {
        let attachment = self.usable(peer, name)?;
        if attachment
            .consumer
            .is_none_or(|consumer| consumer.session != session)
        {
            return Err(Refused::invalid(format!(
                "this session does not consume {name:?}"
            )));
        }
        self.drop_consumer(name);
        Ok(())
    }

    /// Ends an attachment on request.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn detach(&mut self, peer: &Peer, name: &str) -> Result<(), Refused> {
        self.usable(peer, name)?;
        self.end(name, format!("detached by uid {}", peer.uid));
        Ok(())
    }

    /// The functions whose memory attachments receive into, for control to watch: readable when there is something to [sweep](Self::sweep).
    #[must_use]
    pub fn lenders(&self) -> &Lenders {
        &self.lenders
    }

    /// What sessions must be told; each only once.
    pub fn take_news(&mut self) -> Vec<(SessionId, message::Event)> {
        std::mem::take(&mut self.news)
    }

    /// The keeper, for control to watch.
    pub fn keeper(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}
