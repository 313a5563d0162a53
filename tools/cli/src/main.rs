//! devrx receives network packets straight into device memory: the daemon and its commands.
fn main() {}
