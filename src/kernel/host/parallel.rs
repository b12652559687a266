//! A parallel loop over independent items, on scoped threads.
//!
//! Items share no sum, so neither the number of threads nor the order changes a bit. Small work
//! stays on the caller's thread: starting a thread costs tens of microseconds.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Work, in rough operations, below which one thread is faster.
const THREADED_OPS: f64 = 4e6;

/// Runs `work(scratch, item)` for every item below `items`; each thread has a scratch of its own.
/// A panic of any thread reaches the caller.
pub(super) fn for_each<S>(
    threads: usize,
    ops: f64,
    items: usize,
    scratch: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) + Sync,
) {
    let threads = if ops < THREADED_OPS { 1 } else { threads.min(items) };
    if threads <= 1 {
        let mut own = scratch();
        (0..items).for_each(|item| work(&mut own, item));
        return;
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut own = scratch();
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                return;
            }
            work(&mut own, item);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
}
