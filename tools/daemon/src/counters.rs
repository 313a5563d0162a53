//! What the daemon counts besides packets: one number for everything it refused or survived.

use std::collections::BTreeMap;

/// Since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Sessions accepted.
    pub sessions: u64,
    /// Connections turned away because there were too many.
    pub sessions_refused: u64,
    /// Messages that were none: cut off, of another version, with wrong descriptors, no JSON.
    pub malformed_messages: u64,
    /// Sessions ended because they do not read what they are sent.
    pub stalled_sessions: u64,
    /// Requests refused.
    pub requests_refused: u64,
    /// Attachments ended because of what their client did.
    pub faulted_attachments: u64,
}

impl Counters {
    /// By name, as statistics show them. `keeper_restarts` is the keeper's own count.
    #[must_use]
    pub fn named(&self, keeper_restarts: u64) -> BTreeMap<String, u64> {
        [
            ("sessions", self.sessions),
            ("sessions_refused", self.sessions_refused),
            ("malformed_messages", self.malformed_messages),
            ("stalled_sessions", self.stalled_sessions),
            ("requests_refused", self.requests_refused),
            ("faulted_attachments", self.faulted_attachments),
            ("keeper_restarts", keeper_restarts),
            ("lost_pages", devrx_provider::guard::survived()),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
    }
}
