//! The devrx client: attach, receive batches, give chunks back.
