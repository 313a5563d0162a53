//! The devrx daemon: sessions, poll loops, policy, keeper, statistics.
