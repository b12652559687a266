//! Tests of time on a machine that others use as well.
//!
//! What is to happen within a time happens later where the machine gives its cores to others. A test of
//! time that fails then has shown nothing, and is tried again; on a machine that keeps time a failure is
//! one at once, so that what fails now and then by a fault of ours is not hidden.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TRIES: u32 = 5;

/// A thread that wakes so much later than it asked for was kept from a core.
const STALL: Duration = Duration::from_millis(10);

/// In the environment of a process that does the body of a test: its parent tries again.
const CHILDREN: [&str; 2] = ["SEQPAR_TEST_MOCK", "SEQPAR_TEST_GUARDED"];

/// Runs `body`; where it panics and the machine stalled meanwhile, again, five times at most.
pub(crate) fn unless_stalled(body: impl Fn()) {
    if CHILDREN.iter().any(|name| std::env::var_os(name).is_some()) {
        return body();
    }
    for tried in 1..=TRIES {
        let (result, stall) = longest_stall(|| catch_unwind(AssertUnwindSafe(&body)));
        match result {
            Ok(()) => return,
            Err(why) if tried == TRIES || stall < STALL => resume_unwind(why),
            Err(_) => println!("note: tried again, since the machine stalled for {stall:?}"),
        }
        // Who took the cores may do so for a while.
        sleep(Duration::from_millis(500) * tried);
    }
}

/// Runs `body`, and how much too late a thread beside it woke at worst.
fn longest_stall<T>(body: impl FnOnce() -> T) -> (T, Duration) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let gauge = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Acquire) {
                let (asked, begin) = (Duration::from_millis(1), Instant::now());
                sleep(asked);
                longest = longest.max(begin.elapsed().saturating_sub(asked));
            }
            longest
        });
        let result = body();
        over.store(true, Ordering::Release);
        (result, gauge.join().unwrap_or_default())
    })
}
