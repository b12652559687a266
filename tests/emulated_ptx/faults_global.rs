//! Mistakes between blocks, launches and other agents of the machine.

use crate::emulation::{Emulator, Options};
use crate::faults::{expect, expect_with};
use crate::probe::{Probe, bytes, schedules};

fn resident(blocks: usize) -> impl Fn(Options) -> Options {
    move |options| Options { resident: blocks, ..options }
}

#[test]
fn blocks_hand_over_by_release_and_acquire() {
    for atomics in [0, 1] {
        let probe = Probe { blocks: 2, out_words: 128, args: [atomics, 0, 0, 0, 0, 0], ..Probe::new("hand_over", 64) };
        // Without the acquire the reader may come first: then it reads what nobody wrote.
        expect_with(&probe, &[(1, "global memory"), (2, "global memory"), (3, "global memory")], resident(2));
    }
    let probe = Probe { blocks: 5, input: vec![1; 160], out_words: 192, ..Probe::new("last_block", 32) };
    expect_with(&probe, &[(1, "RAW race in global memory"), (2, "RAW race in global memory")], resident(3));
    expect(&probe, &[(1, "RAW race in global memory"), (2, "RAW race in global memory")]);
}

#[test]
fn blocks_that_touch_one_word() {
    let device = Emulator::probes().device();
    let input = device.upload(&bytes(&[1; 4]), "in");
    for options in schedules() {
        for (fault, text) in [(1, "WAW race in global memory"), (3, "race in global memory")] {
            let probe = Probe { blocks: 2, out_words: 1, fault, ..Probe::new("same_word", 32) };
            let said = probe.run_on(&device, input, &options, None).outcome.messages.join("\n");
            assert!(said.contains(text), "fault {fault} {options:?}: {said}");
        }
    }
}

#[test]
fn blocks_that_wait_for_blocks_that_are_not_resident() {
    let probe = Probe { blocks: 4, out_words: 4, ..Probe::new("chain", 32) };
    expect_with(&probe, &[], resident(4));
    for options in schedules() {
        let ran = probe.run(&Options { resident: 3, ..options });
        let said = ran.outcome.messages.join("\n");
        assert!(said.contains("DEADLOCK") && said.contains("1 block has not started"), "{said}");
    }
}

#[test]
fn another_agent_writes_a_chunk() {
    let probe = Probe { shared: 4096, out_words: 64, bytes: 256, ..Probe::new("gated_load", 32) };
    let run = |fault: i32, options: &Options| {
        let mut step = 0;
        probe.faulty(fault).run_with(options, |device, input, flag| {
            step += 1;
            match step {
                1 => device.external_write(input, &[4; 256]),
                2 => device.external_release(flag, 1),
                _ => return false,
            }
            true
        })
    };
    for options in schedules() {
        let ran = run(0, &options);
        assert!(ran.outcome.messages.is_empty(), "{:?}", ran.outcome.messages);
        assert_eq!(ran.out, vec![0x0404_0404; 64]);
        for fault in [1, 3] {
            let said = run(fault, &options).outcome.messages.join("\n");
            assert!(said.contains("fence.proxy.async after acquiring it"), "fault {fault} {options:?}: {said}");
        }
    }
}

#[test]
fn a_flag_that_is_never_set() {
    let bounded = Probe { out_words: 1, args: [3_000_000, 0, 0, 0, 0, 0], ..Probe::new("bounded_wait", 32) };
    let endless = Probe { args: [0; 6], ..bounded.clone() };
    for options in schedules() {
        let ran = bounded.run(&options);
        assert!(ran.outcome.messages.is_empty(), "{:?}", ran.outcome.messages);
        assert_eq!(ran.out, [0xdead]);
        let said = endless.run(&options).outcome.messages.join("\n");
        assert!(said.contains("DEADLOCK") && said.contains("threads 0 wait for a flag"), "{said}");
    }
}

/// With `dependent` nothing that an earlier launch wrote may be touched before the wait.
#[test]
fn a_dependent_launch_waits_for_the_one_before() {
    for options in schedules() {
        for (fault, text) in [(0, ""), (1, "grid_dependency_wait"), (2, "grid_dependency_wait")] {
            let device = Emulator::probes().device();
            let input = device.upload(&bytes(&[1; 64]), "in");
            let first = Probe { out_words: 32, ..Probe::new("neighbour", 32) };
            let before = first.run_on(&device, input, &options, None);
            assert!(before.outcome.messages.is_empty());
            let output = before.address;
            let second = Probe { fault, out_words: 32, ..Probe::new("dependent", 32) };
            let ran = second.run_on(&device, output, &Options { dependent: true, ..options }, None);
            let said = ran.outcome.messages.join("\n");
            assert!(if text.is_empty() { said.is_empty() } else { said.contains(text) }, "fault {fault}: {said}");
        }
    }
}
