//! Locks that tell which ranks of a host live.

use std::path::Path;
use std::time::{Duration, Instant};

use seqpar::comm::watchdog::{Life, Presence};

use super::dogs::scratch;
use super::stalls::unless_stalled;

#[test]
fn a_lock_is_one_ranks_and_is_free_again_when_it_ends() {
    unless_stalled(|| {
        let folder = scratch("lock");
        let first = Presence::hold(&folder, 3).unwrap();
        let begin = Instant::now();
        let error = Presence::hold(&folder, 3).unwrap_err().to_string();
        assert!(error.contains("another process has it"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(2));
        drop(first);
        Presence::hold(&folder, 3).unwrap();
        assert!(Presence::hold(Path::new("/proc/no/such/folder"), 0).is_err());
    });
}

/// What a rank's file says to another one, where this process holds its lock or not.
fn seen(name: &str, text: &str, locked: bool) -> Life {
    let folder = scratch(name);
    let own = Presence::hold(&folder, 0).unwrap();
    std::fs::write(folder.join("rank-1.alive"), text).unwrap();
    let other = std::fs::File::open(folder.join("rank-1.alive")).unwrap();
    if locked {
        other.lock().unwrap();
    }
    own.observer()(1)
}

#[test]
fn a_lock_says_nothing_of_other_machines_and_the_process_more_than_a_lock() {
    let folder = scratch("own");
    let _own = Presence::hold(&folder, 0).unwrap();
    let text = std::fs::read_to_string(folder.join("rank-0.alive")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [host, space, process] = lines[..] else { panic!("{text}") };
    let pid = process.split(' ').next().unwrap();
    assert_eq!(pid, std::process::id().to_string());
    assert_eq!(seen("lives", &text, true), Life::Alive);
    assert_eq!(seen("ended", &text, false), Life::Gone("its process has ended".into()));
    assert_eq!(seen("elsewhere", &text.replace(host, "another machine"), false), Life::Unknown);
    assert_eq!(seen("half", host, false), Life::Unknown);
    // A child that was forked off keeps the lock; the number of its parent has passed to another.
    let later = format!("{host}\n{space}\n{pid} 1\n");
    assert_eq!(seen("forked", &later, true), Life::Gone(format!("its process {pid} has ended")));
    // In another container the number means another process, and only the lock counts.
    let other = format!("{host}\nanother space\n{pid} 1\n");
    assert_eq!(seen("container", &other, true), Life::Alive);
}
