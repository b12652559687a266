//! A test's body in a process group of its own, which does not outlive it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::stalls::unless_stalled;

const INSIDE: &str = "SEQPAR_TEST_GUARDED";
pub const LIMIT: Duration = Duration::from_secs(180);

/// Runs the test that the closure belongs to again, alone and in a process group of its own; fails
/// if it takes longer than [`LIMIT`], or leaves a process behind. Where the machine stalls it is tried again.
pub fn guarded<F: FnOnce()>(body: F) {
    guarded_for(LIMIT, body);
}

pub fn guarded_for<F: FnOnce()>(limit: Duration, body: F) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let closure = std::any::type_name::<F>();
    let (_, test) = closure.trim_end_matches("::{{closure}}").split_once("::").unwrap();
    unless_stalled(|| in_a_group(test, limit));
}

fn in_a_group(test: &str, limit: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let group = child.id() as libc::pid_t;
    let mut output = child.stdout.take().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    // Not joined: a child that was left keeps the pipe open.
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = output.read_to_string(&mut text);
        let _ = tell.send(text);
    });
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > limit {
            end(group);
            child.wait().unwrap();
            panic!("{test} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // A child that was just reaped by nobody may stay in the table for a moment.
    let ended = Instant::now();
    while is_there(group) {
        if ended.elapsed() > Duration::from_secs(2) {
            end(group);
            panic!("{test} leaves a process behind");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = told.recv_timeout(Duration::from_secs(2)).unwrap();
    assert!(text.contains("1 passed"), "{test}: {status}\n{text}");
    // The harness says "test ... " on the same line.
    text.lines().filter_map(|line| line.find("note: A").map(|at| &line[at..])).for_each(|note| println!("{note}"));
}

fn is_there(group: libc::pid_t) -> bool {
    // SAFETY: asks only.
    unsafe { libc::kill(-group, 0) == 0 }
}

fn end(group: libc::pid_t) {
    // SAFETY: the group is our own child's.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

#[test]
#[should_panic(expected = "leaves a process behind")]
fn a_process_left_behind_is_a_failure() {
    guarded(|| drop(Command::new("sleep").arg("30").stdout(Stdio::null()).spawn().unwrap()));
}

#[test]
#[should_panic(expected = "does not end")]
fn a_test_that_hangs_is_a_failure() {
    guarded_for(Duration::from_millis(300), || std::thread::sleep(Duration::from_secs(30)));
}
