//! Why a returned chunk is refused.
/// Why a chunk that a client says it returns is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No such chunk, or the client never had it.
    #[error("the client does not hold this chunk")]
    Forged,
}
