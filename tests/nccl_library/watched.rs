//! A communicator under a watchdog.

use std::sync::Arc;

use seqpar::comm::watchdog::{Options, Watchdog};
use seqpar::error::{Failure, FailureKind};
use seqpar::rendezvous::MemoryStore;

use crate::fake::*;
use crate::groups::{send_something, stream};

/// Ops that are issued while the watchdog fails do not hear of it in the rank's place: the first
/// `check` names the cause as it is.
#[test]
fn the_first_failure_is_for_the_one_who_asks() {
    for _ in 0..20 {
        let fake = Fake::new();
        let mut communicator = fake.communicator();
        let options = Options { period: std::time::Duration::from_millis(5), ..Options::default() };
        let dog = Watchdog::start(Arc::new(MemoryStore::default()), 1, 4, options, None).unwrap();
        let watch = communicator.watch(&dog, &[0, 1, 2, 3], || u64::MAX).unwrap();
        send_something(&mut communicator, &stream(1)).unwrap();
        let kind = FailureKind::PeerLost { how: "says the test".into() };
        let (comm, op) = (String::new(), String::new());
        dog.fail(Failure { kind, rank: 1, comm, seq: None, op, culprits: vec![3], elapsed_ms: 0 });
        while send_something(&mut communicator, &stream(1)).is_ok() {}
        let first = failure(watch.check());
        assert!(matches!(first.kind, FailureKind::PeerLost { .. }), "{first}");
        let later = failure(watch.check());
        assert!(matches!(later.kind, FailureKind::Poisoned { .. }), "{later}");
        watch.close();
    }
}
