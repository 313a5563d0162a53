//! The wire: a datagram a frame, as QEMU's `-netdev dgram` with Unix sockets.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::E810;

/// More than the longest frame.
const LONGEST: usize = 64 << 10;
/// Frames without FCS are at least this long on a wire; shorter ones are padded by who sends.
const SHORTEST: usize = 60;

/// Counts of what went over the wire.
#[derive(Debug, Default)]
pub struct Wire {
    taken: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
}

impl Wire {
    /// Connects the card: frames that arrive at `here` go in, those that come out go to `there`. The threads that do it live as long as the process.
    ///
    /// # Errors
    ///
    /// The socket cannot be made.
    pub fn connect(card: &Arc<E810>, here: &Path, there: &Path) -> io::Result<Arc<Self>> {
        let socket = Arc::new(UnixDatagram::bind(here)?);
        let wire = Arc::new(Self::default());
        // A queue in between: what takes the frames may wait for the card.
        let (put, take) = mpsc::channel::<Vec<u8>>();
        card.on_sent(Box::new(move |frame| {
            put.send(frame.to_vec()).ok();
        }));
        let (out, counts, there): (_, _, PathBuf) = (socket.clone(), wire.clone(), there.into());
        std::thread::spawn(move || {
            for mut frame in take {
                frame.resize(frame.len().max(SHORTEST), 0);
                match out.send_to(&frame, &there) {
                    Ok(_) => counts.sent.fetch_add(1, Ordering::Relaxed),
                    Err(error) => {
                        tracing::warn!("a sent frame is lost: {error}");
                        0
                    }
                };
            }
        });
        let (card, counts) = (card.clone(), wire.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; LONGEST];
            while let Ok(length) = socket.recv(&mut buffer) {
                let count = if card.receive(&buffer[..length]) {
                    &counts.taken
                } else {
                    &counts.dropped
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(wire)
    }

    /// Frames that the card took, that it dropped, and that it sent.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        [&self.taken, &self.dropped, &self.sent].map(|count| count.load(Ordering::Relaxed))
    }
}
