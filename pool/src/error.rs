//! Why a returned chunk is refused.

/// Why a chunk that a client says it returns is refused. Each is counted on its own ([`crate::Refused`]).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No such chunk, or the client never had it, or not yet under this generation.
    #[error("the client was never given this chunk under this generation")]
    Forged,
    /// The chunk was delivered again since; this is the generation of an earlier delivery.
    #[error("the chunk was delivered again since this generation")]
    Stale,
    /// The client gave this delivery back already, or it was taken back from it.
    #[error("the chunk was returned before")]
    Repeated,
}
