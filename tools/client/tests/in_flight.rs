//! Batches that a device reads later: they go back when it has passed them, and not before.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use common::wire::{send, udp};
use common::{attach, daemon};
use devrx_client::{Attachment, ClientError, InFlight, InFlightError};

mod common;

const PACKETS: u64 = 3000;

fn data(position: u64) -> Vec<u8> {
    (0..60 + position % 900)
        .map(|at| (position + 3 * at) as u8)
        .collect()
}

/// A thread reads the region a while after the batch was received, as a device would. A chunk that went back too early has another packet in it by then: there are 64
/// chunks for 3000 packets.
#[test]
fn a_batch_goes_back_when_the_stream_has_passed_it_and_not_before() {
    let frames: Vec<_> = (0..PACKETS).map(|position| udp(&data(position))).collect();
    let want: u64 = (0..PACKETS).flat_map(data).map(u64::from).sum();
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 42));
    let (_client, mut attachment) = attach(&path);
    let region = Arc::clone(attachment.memory().region().expect("readable"));
    let (work, jobs) = mpsc::channel::<Vec<(u64, usize)>>();
    let done = Arc::new(AtomicU64::new(0));
    let device = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut sum = 0;
            for job in jobs {
                std::thread::sleep(Duration::from_micros(300));
                for (offset, len) in job {
                    let mut bytes = vec![0; len];
                    assert!(region.copy_out(offset, &mut bytes));
                    sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
                }
                done.fetch_add(1, Ordering::Release);
            }
            sum
        }
    });
    let mut in_flight = InFlight::new();
    let (mut given, mut packets, mut together) = (0, 0, 0);
    loop {
        let batch = match attachment.recv(Some(Duration::from_micros(200))) {
            Ok(batch) => batch,
            Err(ClientError::Ended { .. }) => break,
            Err(error) => panic!("{error}"),
        };
        if batch.is_empty() {
            drop(batch);
        } else {
            packets += batch.len() as u64;
            let pieces = batch.packets().flat_map(|packet| packet.segments());
            work.send(pieces.map(|piece| (piece.offset, piece.len)).collect())
                .expect("the device works");
            given += 1;
            let (mine, done) = (given, Arc::clone(&done));
            in_flight.hand_over(batch, move || {
                Ok::<_, std::io::Error>(done.load(Ordering::Acquire) >= mine)
            });
            together = together.max(in_flight.batches());
            assert_eq!(in_flight.chunks() as u64, attachment.held());
        }
        in_flight
            .give_back(&mut attachment)
            .expect("it never fails");
    }
    drop(work);
    assert_eq!(device.join().expect("no panic"), want);
    assert_eq!(packets, PACKETS);
    assert!(together > 1, "never two at once");
    assert_eq!((in_flight.batches(), attachment.held()), (0, 0));
    drop(attachment);
    assert_eq!(daemon.join().expect("no panic"), (PACKETS, PACKETS));
}

fn some(attachment: &mut Attachment, in_flight: &mut InFlight<Marked>, mark: Marked) -> usize {
    let batch = attachment
        .recv(Some(Duration::from_secs(5)))
        .expect("packets");
    let len = batch.len();
    assert!(len > 0);
    in_flight.hand_over(batch, mark);
    len
}

struct Marked(Rc<Cell<Result<bool, &'static str>>>);

impl devrx_client::Mark for Marked {
    type Error = std::io::Error;

    fn passed(&mut self) -> Result<bool, std::io::Error> {
        self.0.get().map_err(std::io::Error::other)
    }
}

#[test]
fn batches_go_back_in_order_and_a_device_that_fails_keeps_them() {
    let (daemon, path, _folder) = daemon(1, |mut daemon| {
        let rings = &mut daemon.queues[0];
        for chunk in 0..8 {
            let entry = devrx_client::proto::completion::Completion {
                chunk,
                generation: 1,
                ..Default::default()
            };
            assert!(rings.completions.push(&[entry]));
        }
        rings.completions.publish();
        daemon.events[0].wake.notify();
        let _ = daemon.session.recv();
    });
    let (client, mut attachment) = attach(&path);
    let marks: Vec<_> = (0..2).map(|_| Rc::new(Cell::new(Ok(false)))).collect();
    let mut in_flight = InFlight::new();
    let first = some(
        &mut attachment,
        &mut in_flight,
        Marked(Rc::clone(&marks[0])),
    );
    assert_eq!(attachment.held(), first as u64);
    in_flight.hand_over(
        attachment.recv(Some(Duration::ZERO)).expect("none"),
        Marked(Rc::clone(&marks[1])),
    );
    // The second has been passed, which it cannot be before the first.
    marks[1].set(Ok(true));
    assert_eq!(in_flight.give_back(&mut attachment).expect("not yet"), 0);
    assert_eq!((in_flight.batches(), in_flight.chunks()), (2, first));
    marks[0].set(Err("the kernel failed"));
    let error = in_flight.give_back(&mut attachment).expect_err("it fails");
    assert!(matches!(error, InFlightError::Device(_)));
    assert_eq!(
        attachment.held(),
        first as u64,
        "the device may still read them"
    );
    marks[0].set(Ok(true));
    assert_eq!(in_flight.give_back(&mut attachment).expect("both"), first);
    assert_eq!((in_flight.batches(), attachment.held()), (0, 0));
    drop(attachment);
    drop(client);
    daemon.join().expect("no panic");
}
