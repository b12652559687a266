//! Mistakes in barriers, warps, transaction barriers, shared memory and registers.

use crate::emulation::Options;
use crate::probe::{Probe, schedules};

/// The probe is clean; with each fault every schedule reports a message that holds the text (one of them, between bars).
#[track_caller]
pub(crate) fn expect(probe: &Probe, faults: &[(i32, &str)]) {
    expect_with(probe, faults, |options| options);
}

#[track_caller]
pub(crate) fn expect_with(probe: &Probe, faults: &[(i32, &str)], how: impl Fn(Options) -> Options) {
    for options in schedules().into_iter().map(how) {
        let ran = probe.run(&options);
        let said = ran.outcome.messages.join("\n");
        assert!(said.is_empty(), "the correct {} is reported: {options:?}\n{said}", probe.kernel);
        for (fault, text) in faults {
            let said = probe.faulty(*fault).run(&options).outcome.messages.join("\n");
            assert!(
                text.split('|').any(|t| said.contains(t)),
                "fault {fault} of {}: wanted {text:?}: {options:?}\n{said}",
                probe.kernel
            );
        }
    }
}

#[test]
fn barriers_and_warps() {
    let with = |kernel, threads, words| Probe { input: vec![7; 256], out_words: words, ..Probe::new(kernel, threads) };
    expect(&with("neighbour", 32, 32), &[(1, "RAW race at shared")]);
    expect(&with("divergent", 32, 32), &[(1, "divergent warp")]);
    expect(
        &with("block_barrier", 128, 128),
        &[
            (1, "RAW race at shared"),
            (2, "bar.sync 0 (96 of 128 threads are there)"),
            (3, "__syncthreads (lanes 0xffff0000 of 0xffffffff are there)"),
        ],
    );
    expect(
        &with("named_barrier", 256, 256),
        &[
            (1, "bar.sync 1 (128 of 256 threads are there)"),
            (2, "RAW race at shared"),
            (3, "while one of|bar.sync 1 (128 of 256 threads are there)"),
            (4, "WAR race at shared|bar.sync 1 (128 of 256 threads are there)"),
        ],
    );
}

#[test]
fn registers() {
    let probe = Probe { input: vec![7; 256], out_words: 256, ..Probe::new("registers", 256) };
    expect_with(
        &probe,
        &[
            (1, "setmaxnreg.inc (no registers are free)"),
            (2, "setmaxnreg.dec 232 above the warp's 168 registers"),
            (3, "setmaxnreg: the warps of warpgroup 0 ask for different"),
            (4, "setmaxnreg.inc 96 below the warp's 168 registers"),
            (5, "setmaxnreg 20: from 24 to 256"),
        ],
        |options| Options { registers: 168, ..options },
    );
}

#[test]
fn transaction_barriers() {
    let phases = Probe { ..Probe::new("phases", 64) };
    expect(
        &phases,
        &[
            (1, "race at shared|uninitialised shared"),
            (2, "1 of 65 arrivals and 0 bytes outstanding"),
            (3, "RAW race at shared|uninitialised shared"),
            (5, "which holds a live mbarrier"),
            (5, "was overwritten"),
            (6, "holds no initialised mbarrier"),
            (7, "without synchronising with its init"),
        ],
    );
    expect(&Probe::new("test_wait", 64), &[(1, "holds a live mbarrier")]);
    expect(&Probe { out_words: 32, ..Probe::new("lane_waits", 64) }, &[(1, "RAW race at shared|uninitialised shared")]);
}

/// A lane falls behind in random schedules only: it has not seen a phase when the next but one begins.
#[test]
fn a_lane_that_misses_a_phase() {
    let ring = Probe { out_words: 1, ..Probe::new("ring", 64) };
    for options in (0..8).map(Options::seeded) {
        let said = |probe: &Probe| probe.run(&options).outcome.messages.join("\n");
        assert_eq!(said(&ring), "", "{options:?}");
        assert!(said(&ring.faulty(1)).contains("DEADLOCK"), "{options:?}");
    }
}

#[test]
fn matrices() {
    let load =
        Probe { input: vec![1; 128], out_words: 128, args: [2, 1, 0, 16, 0, 0], ..Probe::new("load_matrix", 32) };
    expect(&load, &[(1, "RAW race at shared"), (2, "is not aligned to 16")]);
    expect(&Probe { kernel: "store_matrix", ..load }, &[(1, "RAW race at shared")]);
}

#[test]
fn bounds_alignment_and_unwritten_memory() {
    let clean = Probe { args: [3, 4, 5, 6, 0, 0], shared: 256, ..Probe::new("access", 32) };
    expect(&clean, &[(1, "read of uninitialised shared memory")]);
    let reports = |args: [i32; 6], text: &str| {
        let said = Probe { args, ..clean.clone() }.run(&Options::seeded(3)).outcome.messages.join("\n");
        assert!(said.contains(text), "{args:?}: wanted {text:?}\n{said}");
    };
    for index in [64, 100, -1, -9, 16000, -16000] {
        reports([index, 4, 5, 6, 0, 0], "shared write out of bounds");
        reports([3, index, 5, 6, 0, 0], "global read out of bounds");
        reports([3, 4, index, 6, 0, 0], "global write out of bounds");
    }
    let wide = Probe { input: vec![1; 256], out_words: 256, ..Probe::new("wide_access", 32) };
    for at in [2, 4, 8, 12] {
        expect(
            &Probe { args: [at, 0, 0, 0, 0, 0], ..wide.clone() },
            &[(1, "misaligned"), (2, "misaligned"), (3, "misaligned"), (4, "misaligned")],
        );
    }
}

#[test]
fn unwritten_global_memory() {
    let device = crate::emulation::Emulator::probes().device();
    let input = device.alloc(256, "in");
    device.write(input, &[1; 16]);
    let probe = Probe { args: [3, 4, 5, 6, 0, 0], ..Probe::new("access", 32) };
    let said = probe.run_on(&device, input, &Options::seeded(1), None).outcome.messages.join("\n");
    assert!(said.contains("read of uninitialised global memory: in[byte 16 of 256]"), "{said}");
    let probe = Probe { args: [3, 3, 5, 6, 0, 0], ..probe };
    assert!(probe.run_on(&device, input, &Options::seeded(1), None).outcome.messages.is_empty());
}

#[test]
fn shared_high_water_mark() {
    for word in [0, 3, 63] {
        let probe = Probe { args: [word, 4, 5, 6, 0, 0], shared: 1024, ..Probe::new("access", 32) };
        assert_eq!(probe.run(&Options::seeded(1)).outcome.counters.shared_high, 4 * word as u64 + 4);
    }
}
