//! Threads that stay awake between tasks. A training step has hundreds of parallel
//! kernels, each some hundred microseconds long, and to wake a sleeping thread takes a
//! good part of that; so both sides look for the next word for a while before they sleep.

use std::any::Any;
use std::hint::spin_loop;
use std::mem::transmute;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle, Thread, current, park};
use std::time::{Duration, Instant};

/// How long a thread looks for a word before it sleeps.
const AWAKE: Duration = Duration::from_micros(100);

/// Workers beside the thread that calls them.
#[derive(Debug)]
pub(super) struct Team {
    workers: Vec<(Arc<Seat>, JoinHandle<()>)>,
    progress: Arc<Progress>,
    /// Held by the call that the workers work for.
    turn: Mutex<()>,
}

/// Where a worker gets its orders.
#[derive(Debug, Default)]
struct Seat {
    called: AtomicBool,
    /// None where the worker shall leave.
    order: Mutex<Option<Order>>,
}

/// How far the workers are.
#[derive(Debug, Default)]
struct Progress {
    busy: AtomicUsize,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What a worker does: the work's parts from `first` on, every `step`th of `parts`.
#[derive(Debug)]
struct Order {
    work: Work,
    first: usize,
    step: usize,
    parts: usize,
    caller: Thread,
}

/// A closure of the caller, who waits until all workers are done with it.
#[derive(Debug)]
struct Work(*const (dyn Fn(usize) + Sync));

// SAFETY: what is pointed to may be called from any thread.
unsafe impl Send for Work {}

impl Team {
    /// So many workers, which sleep until they are called.
    ///
    /// # Errors
    /// A thread that cannot be started; those before it leave.
    pub fn new(workers: usize) -> std::io::Result<Team> {
        let mut team = Team { workers: Vec::new(), progress: Arc::default(), turn: Mutex::new(()) };
        for number in 1..=workers {
            let (seat, progress) = (Arc::new(Seat::default()), team.progress.clone());
            let own = seat.clone();
            let name = format!("kernel-{number}");
            let handle = Builder::new().name(name).spawn(move || work(&own, &progress))?;
            team.workers.push((seat, handle));
        }
        Ok(team)
    }

    /// Calls `work` with each number below `parts`, in turn by the calling thread and
    /// the workers, and waits for all. A call while the workers are busy with another
    /// does all parts itself. A panic of a part ends its thread's share, and goes on here
    /// when the other shares are done.
    pub fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return (0..parts).for_each(work),
        };
        let workers = &self.workers[..self.workers.len().min(parts.saturating_sub(1))];
        let step = workers.len() + 1;
        // SAFETY: only the lifetime is forgotten, and this call does not end, not by a
        // panic either, before no worker holds the pointer any more.
        let pointer = unsafe { transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        self.progress.busy.store(workers.len(), Ordering::Relaxed);
        for (number, (seat, handle)) in workers.iter().enumerate() {
            let order = Order { work: Work(pointer), first: number + 1, step, parts, caller: current() };
            seat.call(Some(order), handle.thread());
        }
        let own = catch_unwind(AssertUnwindSafe(|| (0..parts).step_by(step).for_each(work)));
        wait_until(|| self.progress.busy.load(Ordering::Acquire) == 0);
        let panicked = self.progress.panicked.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(panic) = own.err().or(panicked) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for (seat, handle) in self.workers.drain(..) {
            seat.call(None, handle.thread());
            // A worker's panics were handed to its callers.
            let _ = handle.join();
        }
    }
}

impl Seat {
    fn call(&self, order: Option<Order>, worker: &Thread) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
        self.called.store(true, Ordering::Release);
        worker.unpark();
    }
}

/// The life of a worker.
fn work(seat: &Seat, progress: &Progress) {
    loop {
        wait_until(|| seat.called.load(Ordering::Acquire));
        seat.called.store(false, Ordering::Relaxed);
        let order = seat.order.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Order { work, first, step, parts, caller }) = order else { return };
        let all = AssertUnwindSafe(|| {
            for part in (first..parts).step_by(step) {
                // SAFETY: the caller waits for this worker.
                unsafe { (*work.0)(part) };
            }
        });
        if let Err(panic) = catch_unwind(all) {
            *progress.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        if progress.busy.fetch_sub(1, Ordering::AcqRel) == 1 {
            caller.unpark();
        }
    }
}

/// Waits for a word that another thread gives and then unparks this one.
fn wait_until(given: impl Fn() -> bool) {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if given() {
                return;
            }
            spin_loop();
        }
        if start.elapsed() > AWAKE {
            break;
        }
    }
    while !given() {
        park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each part was done.
    fn done(team: &Team, parts: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        team.run(parts, &|part| {
            counts[part].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn each_part_is_done_once_whether_workers_are_awake_or_asleep() {
        for workers in [0, 1, 3] {
            let team = Team::new(workers).unwrap();
            for round in 0..2000 {
                let parts = round % 7;
                assert_eq!(done(&team, parts), vec![1; parts], "round {round}");
                if round % 100 == 0 {
                    std::thread::sleep(2 * AWAKE);
                }
            }
        }
    }

    #[test]
    fn a_caller_that_sleeps_is_woken() {
        let team = Team::new(2).unwrap();
        let slow = AtomicUsize::new(0);
        team.run(3, &|part| {
            if part > 0 {
                std::thread::sleep(20 * AWAKE);
                slow.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(slow.into_inner(), 2);
    }

    #[test]
    fn calls_within_calls_and_beside_each_other_do_all_parts() {
        let team = Team::new(1).unwrap();
        let inner = AtomicUsize::new(0);
        team.run(2, &|_| {
            inner.fetch_add(done(&team, 5).iter().sum(), Ordering::Relaxed);
        });
        assert_eq!(inner.into_inner(), 10);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..500).for_each(|_| assert_eq!(done(&team, 4), [1; 4])));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_after_the_other_shares_and_the_team_goes_on() {
        for guilty in 0..4 {
            let team = Team::new(3).unwrap();
            let others = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(4, &|part| {
                    assert_ne!(part, guilty);
                    std::thread::sleep(AWAKE);
                    others.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert!(result.is_err());
            assert_eq!(others.into_inner(), 3);
            assert_eq!(done(&team, 4), [1; 4]);
        }
    }
}
