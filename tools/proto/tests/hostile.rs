//! What the other side can say to us: impossible indices, messages of random bytes, wrong headers.

use devrx_proto::completion::Completion;
use devrx_proto::message::{Failure, FailureCode, Header, MessageError, Reply, Request};
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{Start, Word};
use devrx_proto::socket::MAX_MESSAGE;
use proptest::prelude::*;

use common::both;

mod common;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client writes to its indices: the daemon never sees more room or more entries than there can be, and what it
    /// cannot believe is counted. Good indices in between keep working.
    #[test]
    fn impossible_indices_are_refused(start in any::<u32>(), words in prop::collection::vec((any::<bool>(), any::<u32>()), 1..40)) {
        let mut both = both(Start { completion: start, refill: start });
        let place = both.layout.queue(1).unwrap();
        let head = both.client_memory.word_to_write(place.completion_consumer).unwrap();
        let tail = both.client_memory.word_to_write(place.refill_producer).unwrap();
        let completions = &mut both.daemon.completions;
        let refills = &mut both.daemon.refills;
        let (mut pushed, mut freed, mut read) = (0_u32, 0_u32, 0_u32);
        for (near, value) in words {
            // Half of the values close to what would be right.
            let offset = |base: u32| if near { base.wrapping_add(value % 64).wrapping_sub(24) } else { value };
            let (written_head, written_tail) = (offset(start.wrapping_add(freed)), offset(start.wrapping_add(read)));
            head.store(written_head);
            tail.store(written_tail);

            let faults = completions.faults();
            let room = completions.free();
            prop_assert!(room <= 16);
            let claim = written_head.wrapping_sub(start);
            if claim.wrapping_sub(freed) <= pushed - freed {
                freed = claim;
                prop_assert_eq!(completions.faults(), faults);
            } else {
                prop_assert_eq!(completions.faults(), faults + 1);
            }
            prop_assert_eq!(room, 16 - (pushed - freed));
            if completions.push(&[Completion::default(); 3]) {
                pushed += 3;
            }
            completions.publish();

            let faults = refills.faults();
            let mut out = [RefillEntry::default(); 64];
            let count = refills.take(&mut out);
            prop_assert!(count <= 32);
            let claim = written_tail.wrapping_sub(start.wrapping_add(read));
            prop_assert_eq!(count as u32, if claim <= 32 { claim } else { 0 });
            prop_assert_eq!(refills.faults() > faults, claim > 32);
            read += count as u32;
        }
    }

    #[test]
    fn random_bytes_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..200), fds in 0_usize..4) {
        prop_assert!(Request::decode(&bytes, fds).is_err());
        prop_assert!(Reply::decode(&bytes, fds).is_err());
    }

    /// A right header before anything: an error or a message, never a panic.
    #[test]
    fn random_bodies_are_refused(op in any::<u16>(), small in 0_u16..16, reply in any::<bool>(), body in "\\PC{0,80}|\\{\"name\":\"[a-z]*\"\\}", raw in prop::collection::vec(any::<u8>(), 0..40), text in any::<bool>()) {
        let op = if reply { op } else { small | (op & 0x8000) };
        let body = if text { body.into_bytes() } else { raw };
        let mut bytes = Header { op, length: body.len() as u32, fds: 0, sequence: 1 }.encode().to_vec();
        bytes.extend(body);
        let _ = Request::decode(&bytes, 0);
        let _ = Reply::decode(&bytes, 0);
        prop_assert!(Request::decode(&bytes, 1).is_err());
    }
}

fn failure() -> Reply {
    Reply::Failure(Failure {
        code: FailureCode::Busy,
        message: "taken".to_owned(),
    })
}

#[test]
fn wrong_headers_have_their_errors() {
    let good = failure().encode(9).unwrap();
    assert_eq!(Reply::decode(&good, 0).unwrap(), (9, failure()));
    let change = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Reply::decode(&bytes, 0).unwrap_err()
    };
    assert!(matches!(change(0, 0), MessageError::Magic { .. }));
    assert!(matches!(change(4, 77), MessageError::Version { found: 77 }));
    assert!(matches!(change(6, 0x33), MessageError::Op { op: 0xff33 }));
    assert!(matches!(
        change(8, 1),
        MessageError::Length { announced: 1, .. }
    ));
    assert!(matches!(
        change(12, 1),
        MessageError::Fds {
            expected: 1,
            actual: 0
        }
    ));
    assert!(matches!(change(20, 0xff), MessageError::Body { .. }));
    assert!(matches!(
        Reply::decode(&good[..15], 0),
        Err(MessageError::Short { len: 15 })
    ));
    assert!(matches!(
        Reply::decode(&good[..30], 0),
        Err(MessageError::Length { .. })
    ));
    assert!(matches!(
        Reply::decode(&vec![0; MAX_MESSAGE + 1], 0),
        Err(MessageError::TooLong { .. })
    ));
    assert!(matches!(
        Reply::decode(&good, 2),
        Err(MessageError::Fds {
            expected: 0,
            actual: 2
        })
    ));
}

/// A header that agrees with what came is not enough: the operation says how many descriptors there are.
#[test]
fn an_operation_takes_its_descriptors_only() {
    let mut bytes = Request::Nics(devrx_proto::message::Empty {})
        .encode(1)
        .unwrap();
    bytes[12] = 3;
    assert!(matches!(
        Request::decode(&bytes, 3),
        Err(MessageError::Fds {
            expected: 0,
            actual: 3
        })
    ));
}
