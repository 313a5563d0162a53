//! Steering within a queue: an XDP program that sends the packets of attached flows to a queue's AF_XDP socket and leaves all
//! others to the kernel.
//!
//! The program is generated for the rules that are attached, by a small assembler ([`asm`], [`program`]), so neither a compiler nor a loader
//! library is needed at build or run time. It is attached as a `bpf_link`: when the process that holds it ends, however it ends, the
//! kernel takes the program off the interface. New rules mean a new program, swapped for the old one in one step ([`Steering`]).
//!
//! The program never drops a packet. What no rule takes, what has no socket to go to, and what goes wrong ends as `XDP_PASS`.

pub mod asm;
mod parser;
pub mod program;
mod steering;
pub mod sys;
#[cfg(test)]
mod tests;

pub use steering::{MAX_QUEUES, MAX_RULES, MAX_RULES_PER_QUEUE, Steering, XdpMode, grace_period};
