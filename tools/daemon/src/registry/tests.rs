//! Attach, detach and everything between, on a NIC in plain memory.

use super::*;
use crate::testing::{FakeNic, Wire, wait_for};
use devrx_proto::message::FailureCode;
use devrx_proto::ring::{ClientQueue, Start};
use devrx_proto::shm::{Access, Shm};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::AsFd;

mod order;
mod owners;
mod requests;
mod short;

const ROOT: Peer = Peer {
    pid: 1,
    uid: 0,
    groups: Vec::new(),
};

const SESSION: SessionId = SessionId(100);

fn registry(queues: u32, config: &str) -> (Wire, Registry) {
    let wire = Wire::default();
    let config = Config::parse(config).expect("configuration");
    let slot = NicSlot::new(
        Box::new(FakeNic::new(&wire, queues)),
        Some("rx0".into()),
        Vec::new(),
    );
    // Reads what it is told and drops it; ends with its socket.
    let keeper = Keeper::start_as(vec!["cat".into()]).expect("a process that reads");
    let control = Arc::new(Event::new().unwrap());
    (
        wire,
        Registry::new(&config, vec![slot], keeper, control).unwrap(),
    )
}

fn request(name: &str, queue: u32) -> AttachRequest {
    AttachRequest {
        name: name.into(),
        nic: "fake0".into(),
        queue_first: queue,
        queue_last: queue,
        size: 1 << 20,
        chunk: 4096,
        flows: vec!["any".into()],
        ..AttachRequest::default()
    }
}

fn attach(registry: &mut Registry, request: &AttachRequest) -> Result<AttachReply, Refused> {
    registry
        .attach(&ROOT, SESSION, request, None)
        .map(|(reply, _)| reply)
}

fn refused(registry: &mut Registry, request: &AttachRequest, code: FailureCode, says: &str) {
    let refused = attach(registry, request).expect_err(says);
    assert_eq!(refused.code, code, "{refused}");
    assert!(refused.message.contains(says), "{refused}");
}
