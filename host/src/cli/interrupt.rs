//! Ctrl-C, and being told to end: SIGINT, SIGTERM and SIGUSR1, which Slurm sends before a
//! job's time is over. They are noted, and the process that trains looks for them after
//! each step; the one that waits for it hands them on, as only a terminal and Slurm tell
//! both.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};

use super::terminal;

/// Told to end before it was done: the same command goes on. It is sysexits.h's
/// `EX_TEMPFAIL`, a failure that is over when one tries again.
pub const TRY_AGAIN: u8 = 75;

/// The first signal that came, or 0.
static CAME: AtomicI32 = AtomicI32::new(0);
/// The process that signals are handed on to, or 0.
static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    let first = CAME.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok();
    // Whoever does not want to wait for the step presses Ctrl-C again. The process that trains
    // may have got the first one twice; it ends with this one.
    if !first && signal == libc::SIGINT && CHILD.load(Ordering::SeqCst) != 0 {
        end_by(signal);
    }
    hand_on();
}

/// Hands on the signal that came. A handler may do that.
fn hand_on() {
    let (signal, child) = (CAME.load(Ordering::SeqCst), CHILD.load(Ordering::SeqCst));
    if signal != 0 && child != 0 {
        // SAFETY: the call touches no memory. The process is a child that nobody has waited
        // for, so that its number is no other's.
        unsafe { libc::kill(child, signal) };
    }
}

/// From now on signals are kept for [`came`], unless whoever started the program wants one
/// to be ignored, as a shell does of what runs in the background.
pub fn watch() {
    let handler: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1] {
        // SAFETY: the handler loads and stores atomics, and sends a signal.
        unsafe {
            if libc::signal(signal, handler as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

/// The first signal that came.
pub fn came() -> Option<libc::c_int> {
    Some(CAME.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// Waits for a child that gets the signals that come meanwhile.
///
/// # Errors
/// The child cannot be waited for.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    CHILD.store(child.id() as i32, Ordering::SeqCst);
    // One that came before the child was known.
    hand_on();
    // It stays known to the system, and its number its own, until nothing is handed on.
    let ended = loop {
        // SAFETY: the structure is one of integers, and it is the call that fills it.
        let waited = unsafe {
            let mut information: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, child.id(), &mut information, libc::WEXITED | libc::WNOWAIT)
        };
        match io::Error::last_os_error() {
            _ if waited == 0 => break Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => break Err(error),
        }
    };
    CHILD.store(0, Ordering::SeqCst);
    ended.and_then(|()| child.wait())
}

/// Says a last line, and ends: after Ctrl-C as one who did not watch for it would have
/// ended, so that a shell knows what has happened, else with [`TRY_AGAIN`].
pub fn end(line: &str) -> ! {
    terminal::note(line);
    if came() == Some(libc::SIGINT) {
        end_by(libc::SIGINT);
    }
    std::process::exit(TRY_AGAIN.into())
}

/// Ends as one who did not watch for a signal. A handler may do that; the signal comes when
/// it has returned.
fn end_by(signal: libc::c_int) {
    // SAFETY: the default handler takes the place of ours; no memory is touched.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}
