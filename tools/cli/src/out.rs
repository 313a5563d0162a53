//! Standard output, whose reader may go away: `devrx recv stream | head -1`.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// What a shell reports of a program that a closed pipe ended: 128 + SIGPIPE.
pub const READER_GONE_STATUS: u8 = 141;

/// Whoever read what is printed reads no more. Not a fault: the program unwinds as from an error, so that what must be undone is, and says nothing.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub struct ReaderGone;

/// Prints a line, as `println!` does but without its panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::out::line(format_args!($($text)*)) };
}

/// Prints a line to stderr, as `eprintln!` does; where nobody reads that, nothing is lost that matters.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

/// Prints a line.
///
/// # Errors
/// [`ReaderGone`], or what the file behind standard output refused.
pub fn line(text: Arguments<'_>) -> anyhow::Result<()> {
    write(format_args!("{text}\n"))
}

/// Prints text that ends its own lines.
///
/// # Errors
/// As [`line()`].
pub fn write(text: Arguments<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
    }
}
