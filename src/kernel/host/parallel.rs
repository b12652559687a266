//! A parallel loop over independent items. Which thread runs an item changes no bit; a panic in
//! any of them reaches the caller.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Below this many floating-point operations (or bytes) a kernel stays on its caller's thread.
pub(super) const WORTH_THREADS: f64 = 4e6;

/// Threads to use for `work` operations in `items` items.
pub(super) fn threads_for(threads: usize, work: f64, items: usize) -> usize {
    if work < WORTH_THREADS { 1 } else { threads.clamp(1, items.max(1)) }
}

/// Runs `body(scratch, item)` for each item, with a scratch of its own on each thread.
pub(super) fn for_each<S>(
    threads: usize,
    items: usize,
    scratch: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut own = scratch();
        loop {
            // Relaxed: the counter only hands out numbers; the scope's end orders the results.
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            body(&mut own, item);
        }
    };
    if items == 0 {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 1..threads.min(items) {
            scope.spawn(work);
        }
        work();
    });
}
