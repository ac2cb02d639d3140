//! What users see: results on the standard output, everything else on the
//! standard error, and the one place where errors are printed.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::config::ConfigError;

/// Writes a result to the standard output. A reader that has gone away, as
/// `head` does, is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// Writes a line of progress to the standard error.
pub fn note(line: &str) {
    // Where nobody reads progress, the work goes on.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A heading among the lines of progress.
pub fn heading(line: &str) {
    note(&styled(line, "1"));
}

/// A sentence that the user should read.
pub fn warning(sentence: &str) {
    note(&format!("{} {sentence}", styled("warning:", "1;33")));
}

/// Prints an error with its causes. The exit code is 2 for what the user has
/// given and 1 for what has failed.
pub fn report(error: &anyhow::Error) -> ExitCode {
    note(&format!("{} {error}", styled("error:", "1;31")));
    for cause in error.chain().skip(1) {
        note(&format!("  because: {cause}"));
    }
    let wrong_config = error.chain().any(|cause| cause.is::<ConfigError>());
    ExitCode::from(if wrong_config { 2 } else { 1 })
}

/// Text in a style of the terminal, where the standard error is one that shows it.
fn styled(text: &str, style: &str) -> String {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    match io::stderr().is_terminal() && !refused {
        true => format!("\x1b[{style}m{text}\x1b[0m"),
        false => text.into(),
    }
}

/// Columns of the terminal that results go to; none where it is no terminal.
pub fn width() -> Option<usize> {
    comfy_table::Table::new().width().map(usize::from)
}
