//! The first failure is the last thing that happens to a family.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use seqpar::comm::nccl::{Communicator, abort_all};
use seqpar::error::FailureKind;

use crate::fake::*;
use crate::groups::{send_something, stream};
use crate::stalls::unless_stalled;

/// Every call that a communicator has, in turn, a thousand in all.
fn a_thousand_calls(communicator: &mut Communicator, first: &str) {
    let mut took = Vec::new();
    for call in 0..1000 {
        let begin = Instant::now();
        let result = match call % 6 {
            0 => communicator.async_error(),
            1 => send_something(communicator, &stream(1)),
            2 => communicator.split(Some(0), 0, &config(), SECOND).map(drop),
            // SAFETY: addresses are numbers to the fake.
            3 => unsafe { communicator.register(4096, 64) }.map(drop),
            // SAFETY: as above.
            4 => unsafe { communicator.register_window(4096, 64, false) }.map(drop),
            _ => communicator.allocate(64).map(drop),
        };
        took.push(begin.elapsed());
        let FailureKind::Poisoned { first_cause } = kind(result) else { panic!("call {call}") };
        assert_eq!(first_cause, first, "call {call}");
    }
    took.sort();
    // The machine may take a core away now and then.
    assert!(took[989] < Duration::from_millis(1), "{:?}", took[989]);
    assert!(took[999] < Duration::from_millis(100), "{:?}", took[999]);
}

#[test]
fn after_any_failure_every_call_names_the_first_cause() {
    unless_stalled(|| {
        let calls: [(&str, i32); 8] = [
            ("ncclGroupStart", 1),
            ("ncclSend", 2),
            ("ncclSend", 4),
            ("ncclGroupEnd", 3),
            ("ncclGroupEnd", 5),
            ("ncclCommGetAsyncError", 6),
            ("ncclCommGetAsyncError", 99),
            ("ncclGroupEnd", -3),
        ];
        for (function, code) in calls {
            let fake = Fake::new();
            let mut communicator = fake.communicator();
            let mut part = communicator.split(Some(0), 0, &config(), SECOND).unwrap().unwrap();
            fake.fail(function, code);
            let first = failure(send_something(&mut communicator, &stream(1))).to_string();
            assert!(first.contains(function) || code == 1, "{first}");
            fake.fail("", 0);
            let asked = fake.count("ncclCommGetAsyncError");
            a_thousand_calls(&mut communicator, &first);
            a_thousand_calls(&mut part, &first);
            assert_eq!(fake.count("ncclCommGetAsyncError"), asked, "NCCL was asked again");
            assert!(matches!(kind(part.finalize(SECOND)), FailureKind::Poisoned { .. }));
            fake.wait_for("ncclCommAbort", 1);
            drop(communicator);
            fake.wait_for("ncclCommAbort", 2);
            fake.assert_lawful();
        }
    });
}

#[test]
fn listeners_are_told_once_before_anything_is_aborted() {
    let fake = Arc::new(Fake::new());
    let mut communicator = fake.communicator();
    let part = communicator.split(Some(0), 0, &config(), SECOND).unwrap().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    for listener in 0..2 {
        let (fake, told) = (fake.clone(), told.clone());
        communicator.at_failure(move || told.lock().unwrap().push((listener, fake.count("ncclCommAbort"))));
    }
    abort_all(&[part.abort_handle(), communicator.abort_handle()], "a test").unwrap();
    assert_eq!(fake.count("ncclCommAbort"), 2);
    assert_eq!(*told.lock().unwrap(), [(0, 0), (1, 0)]);
    assert!(matches!(kind(communicator.async_error()), FailureKind::Poisoned { .. }));
    assert_eq!(told.lock().unwrap().len(), 2);
    fake.assert_lawful();
}

#[test]
fn codes_beyond_the_header_are_numbers() {
    for code in [8, 9, 99, -1, i32::MIN] {
        let fake = Fake::new();
        let mut communicator = fake.communicator();
        fake.set("state", code.into());
        let failed = failure(send_something(&mut communicator, &stream(1)));
        let FailureKind::Library { call: "ncclCommGetAsyncError", code: kept, why } = failed.kind else {
            panic!("{failed}")
        };
        assert_eq!(kept, code);
        assert!(why.contains(if code == 8 { "ncclTimeout" } else { "unknown" }), "{why}");
    }
}

#[test]
fn what_nccls_threads_meet_is_told_at_the_op_that_was_issued_last() {
    unless_stalled(|| {
        for code in [2, 3, 6] {
            let fake = Fake::new();
            let mut communicator = fake.communicator();
            let watcher = communicator.abort_handle();
            send_something(&mut communicator, &stream(1)).unwrap();
            send_something(&mut communicator, &stream(1)).unwrap();
            watcher.async_error().unwrap();
            fake.set("state", code);
            let failed = failure(std::thread::spawn(move || watcher.async_error()).join().unwrap());
            assert!(
                matches!(&failed.kind, FailureKind::PeerLost { how } if how.contains("peer or network")),
                "{failed}"
            );
            assert_eq!((failed.seq, failed.op.as_str(), failed.rank), (Some(1), "something", 1));
            a_thousand_calls(&mut communicator, &failed.to_string());
        }
    });
}

#[test]
fn a_failed_init_says_what_nccl_said() {
    let fake = Fake::new();
    fake.fail("ncclCommInitRankConfig", 4);
    let failed = kind(fake.try_communicator(SECOND));
    assert!(matches!(failed, FailureKind::Library { call: "ncclCommInitRankConfig", code: 4, .. }));
    fake.fail("", 0);
    fake.set("null_comm", 1);
    assert!(matches!(kind(fake.try_communicator(SECOND)), FailureKind::Library { code: 0, .. }));
    assert_eq!(fake.count("ncclCommAbort"), 0);
}
