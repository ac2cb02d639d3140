//! Ctrl-C during a run. The cell's process, which gets it too, ends; this one says how to
//! go on before it ends the same way, so that a shell knows what has happened.

use std::sync::atomic::{AtomicBool, Ordering};

use super::terminal;

static CAME: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    CAME.store(true, Ordering::SeqCst);
}

/// From now on an interrupt is kept for [`came`], unless whoever started the program wants
/// it to be ignored, as a shell does of what runs in the background.
pub fn watch() {
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: the handler does nothing but store to an atomic.
    unsafe {
        if libc::signal(libc::SIGINT, handler as libc::sighandler_t) == libc::SIG_IGN {
            libc::signal(libc::SIGINT, libc::SIG_IGN);
        }
    }
}

/// Whether there was an interrupt.
pub fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

/// Says a last line, and ends as one who did not watch would have ended.
pub fn end(line: &str) -> ! {
    terminal::note(line);
    // SAFETY: the default handler takes the place of ours; no memory is touched.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL);
        libc::raise(libc::SIGINT);
    }
    std::process::exit(128 + libc::SIGINT)
}
