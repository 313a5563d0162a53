//! The flexible pipeline: the package that programs it, hashes, Flow Director.
//!
//! A packet's type gives a packet type group (XLT1), its VSI a VSI group (XLT2); both are looked up in a TCAM that gives a profile, and a profile says which
//! words of the packet are extracted (field vector). Each block, switch, Flow Director and hash, has such tables of its own: DPDK `ice_flex_type.h`,
//! `ice_flex_pipe.c`.

mod block;
mod fields;
mod filters;
mod hash;
mod section;

use block::{Block, Kind};
pub(crate) use fields::words;
pub(crate) use filters::{Filters, Program};
pub(crate) use section::BUFFER;

use crate::adminq;
use crate::fault::Fault;
use crate::frame::Frame;
use crate::rx::Choice;
use crate::state::State;
use crate::switch::Direction;
use crate::switch::recipe::Extracted;

/// The package that was downloaded.
#[derive(Debug, Default)]
pub(crate) struct Package {
    loaded: bool,
    /// Version and name, from its metadata section.
    pub(crate) version: [u8; 4],
    pub(crate) name: [u8; 28],
    pub(crate) switch: Block,
    pub(crate) director: Block,
    pub(crate) hash: Block,
    /// The three as the package had them.
    shipped: [Block; 3],
}

impl Package {
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// A buffer of the package, or of an update; the reason if it is none. The last one makes it active.
    pub(crate) fn take(&mut self, buffer: &[u8], update: bool) -> Result<(), String> {
        for (kind, data) in section::split(buffer)? {
            self.section(kind, data, update)?;
        }
        Ok(())
    }

    fn section(&mut self, kind: u32, data: &[u8], update: bool) -> Result<(), String> {
        match kind {
            1 if !update => {
                self.version = crate::bytes::get(data, 0);
                self.name = crate::bytes::get(data, 4);
                Ok(())
            }
            10..=18 => self.switch.section(kind - 10, data),
            30..=38 => self.director.section(kind - 30, data),
            40..=48 => self.hash.section(kind - 40, data),
            // Parsers, labels, access control, the protocol engine: what they say is built in or not modelled.
            _ => Ok(()),
        }
    }

    /// Empty tables, as after a reset of the core.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            switch: Block::new(Kind::Switch),
            director: Block::new(Kind::Other),
            hash: Block::new(Kind::Other),
            ..Self::default()
        };
    }

    pub(crate) fn activate(&mut self) {
        self.loaded = true;
        self.shipped = [&self.switch, &self.director, &self.hash].map(Clone::clone);
    }

    /// What the driver wrote over the package's tables goes, as do the numbers that it was given for it.
    pub(crate) fn function_cleared(&mut self) {
        if self.loaded {
            let [switch, director, hash] = self.shipped.clone();
            (self.switch, self.director, self.hash) = (switch, director, hash);
        }
    }
}

impl State {
    /// Whether headers are found at all.
    pub(crate) fn parses(&self) -> bool {
        self.package.loaded || self.card.parses_without_package
    }

    /// A queue for a VSI's packet: Flow Director, then the hash, then the VSI's first.
    pub(crate) fn choose(&mut self, vsi: u16, frame: &Frame<'_>) -> Choice {
        let Some(interface) = self.vsis.get(&vsi) else {
            return Choice::default();
        };
        let hash = self.hash_of(interface, frame);
        let spread = hash
            .filter(|_| self.fault != Fault::NoSpread)
            .and_then(|hash| interface.queue(self.spread(interface, hash)));
        let mut choice = Choice {
            queue: spread.or_else(|| interface.queue(0)).unwrap_or(0),
            hash,
            ..Choice::default()
        };
        self.direct(vsi, frame, &mut choice);
        choice
    }

    /// The words that switch recipes compare, of a packet or of a rule's header data.
    pub(crate) fn extract(&self, frame: &Frame<'_>, direction: Direction) -> Extracted {
        if !self.package.loaded {
            return Extracted::default();
        }
        let profile = self.package.switch.profile(frame.packet_type(), 0);
        Extracted {
            profile,
            words: words(self.package.switch.vector(profile), frame, direction),
        }
    }

    pub(crate) fn extract_for_switch(&self, frame: &Frame<'_>) -> Extracted {
        if self.switch.recipes.is_empty() {
            return Extracted::default();
        }
        self.extract(frame, Direction::Receive)
    }

    /// A reset takes the package.
    pub(crate) fn package_lost(&mut self) {
        self.package.clear();
        self.filters = Filters::default();
    }

    /// The package's own profiles and TCAM entries are not handed out.
    pub(crate) fn package_reserves(&mut self) {
        for (block, profiles, entries) in [
            (&self.package.director, adminq::FD_PROFILE, adminq::FD_TCAM),
            (&self.package.hash, adminq::HASH_PROFILE, adminq::HASH_TCAM),
        ] {
            for (entry, profile) in block.reserved() {
                self.resources.reserve(entries, entry);
                self.resources.reserve(profiles, u16::from(profile));
            }
        }
    }
}
