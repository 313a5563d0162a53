//! A line to the card: what a test asks of it while a guest runs.
//!
//! One request a line; the answer is `ok N` and N lines, or `error WHY`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{GuestMemory, Wire};
use crate::{E810, Fault, Reset};

/// What requests reach.
#[derive(Debug, Clone)]
pub struct Control {
    /// The card.
    pub card: Arc<E810>,
    /// The memory that it reaches.
    pub memory: Arc<GuestMemory>,
    /// Its wire, if it has one.
    pub wire: Option<Arc<Wire>>,
    /// How many refusals were told.
    pub told: Arc<AtomicU64>,
}

impl Control {
    /// Answers everybody who connects, each in a thread of its own, for as long as the process lives.
    pub fn listen(self, listener: UnixListener) {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let control = self.clone();
                std::thread::spawn(move || control.talk(stream).ok());
            }
        });
    }

    fn talk(&self, stream: UnixStream) -> io::Result<()> {
        let mut to = stream.try_clone()?;
        for line in BufReader::new(stream).lines() {
            let answer = match self.obey(line?.trim()) {
                Ok(lines) => {
                    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                    format!("ok {}\n{text}", lines.len())
                }
                Err(why) => format!("error {}\n", why.replace('\n', " ")),
            };
            to.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    /// Does what a request says: `fault NAME`, `link up`, `link down`, `reset` (of the function, by the bus), `reset core`, `reset global`, `refusals` (those since it was last asked), `memory` (maps; accesses refused), `wire` (frames taken,
    /// dropped, sent).
    ///
    /// # Errors
    ///
    /// Why it cannot be done.
    pub fn obey(&self, request: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = request.split_once(' ').unwrap_or((request, ""));
        match (verb, rest) {
            ("fault", name) => {
                let fault: Fault = name.parse().map_err(|error| format!("{error}"))?;
                self.card.set_fault(fault);
            }
            ("link", "up") => self.card.set_link(true),
            ("link", "down") => self.card.set_link(false),
            ("reset", "") => self.card.reset(),
            ("reset", "core") => self.card.start_reset(Reset::Core),
            ("reset", "global") => self.card.start_reset(Reset::Global),
            ("refusals", "") => {
                let (total, new) = self.card.refusals_after(self.told.load(Ordering::Relaxed));
                self.told.store(total, Ordering::Relaxed);
                return Ok(new.iter().map(|why| why.replace('\n', " ")).collect());
            }
            ("memory", "") => {
                let (maps, refused) = (self.memory.count(), self.memory.refused());
                return Ok(vec![format!("{maps} {refused}")]);
            }
            ("wire", "") => {
                let counts = self
                    .wire
                    .as_ref()
                    .map(|wire| wire.counts())
                    .unwrap_or_default();
                return Ok(vec![counts.map(|count| count.to_string()).join(" ")]);
            }
            _ => return Err(format!("no request is called {request:?}")),
        }
        Ok(Vec::new())
    }
}
