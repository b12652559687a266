//! Mistakes around asynchronous copies and warpgroup multiplies.

use seqpar::kernel::cuda::{Swizzle, TensorMap};

use crate::emulation::Options;
use crate::faults::{expect, expect_with};
use crate::probe::Probe;
use crate::support::Rng;
use crate::wgmma;

fn tensor(kernel: &'static str) -> Probe {
    let map = TensorMap {
        address: 0,
        rank: 2,
        dims: [64, 16, 1, 1, 1],
        strides_bytes: [128, 0, 0, 0],
        boxes: [64, 8, 1, 1, 1],
        swizzle: Swizzle::B128,
    };
    Probe {
        shared: 4096,
        input: vec![3; 512],
        out_words: 512,
        args: [2, 0, 4, 0, 0, 0],
        bytes: 1024,
        map: Some(map),
        ..Probe::new(kernel, 64)
    }
}

#[test]
fn cp_async() {
    for unit in [4, 8, 16] {
        let words = 32 * unit as usize;
        let args = [unit, 0, 0, 0, 0, 0];
        let probe = Probe { input: vec![5; words], out_words: words, args, ..Probe::new("cp_async", 64) };
        expect(
            &probe,
            &[(1, "cp.async of thread"), (2, "cp.async of thread"), (3, "race at shared"), (4, "cp.async of thread")],
        );
        expect(&probe, &[(5, "cp.async of thread")]);
    }
}

#[test]
fn tensor_loads() {
    let plain = Probe { args: [1, 0, 0, 0, 0, 0], map: None, input: vec![3; 256], ..tensor("load") };
    for probe in [tensor("load"), plain.clone()] {
        expect(
            &probe,
            &[
                (1, "a copy into mbarrier"),
                (2, "too few bytes expected"),
                (3, "0 of 1 arrivals and 16 bytes outstanding"),
                (4, "was not fenced after its init"),
                (5, "a copy into mbarrier|uninitialised shared"),
                (6, "without synchronising with its init"),
                (9, "holds no initialised mbarrier"),
                (10, "more arrivals than its count 1"),
                (11, "WAR race at shared|RAW race at shared|DEADLOCK"),
            ],
        );
    }
    expect(&tensor("load"), &[(8, "is not aligned to")]);
    let outside = Probe { args: [1, 16, 0, 0, 0, 0], ..plain };
    let said = outside.run(&Options::seeded(2)).outcome.messages.join("\n");
    assert!(said.contains("global read out of bounds"), "{said}");
}

#[test]
fn an_early_arrival_completes_the_phase_before_the_copy() {
    let said = tensor("load").faulty(7).run(&Options::seeded(1)).outcome.messages.join("\n");
    assert!(said.contains("a copy into mbarrier") || said.contains("outstanding"), "{said}");
}

#[test]
fn tensor_stores() {
    let tensor = Probe { map_out: true, input: vec![3; 256], ..tensor("store") };
    let plain = Probe { args: [1, 0, 0, 0, 0, 0], map: None, input: vec![3; 256], ..tensor.clone() };
    for probe in [tensor, plain] {
        expect(
            &probe,
            &[
                (1, "missing fence.proxy.async"),
                (2, "a thread ends with a bulk store that it did not wait for"),
                (3, "race at shared|uninitialised shared"),
                (4, "WAR race at shared"),
                (5, "a thread ends with a bulk store that it did not wait for"),
                (6, "missing fence.proxy.async"),
            ],
        );
    }
}

#[test]
fn a_store_is_visible_after_the_full_wait_only() {
    let probe =
        Probe { blocks: 2, input: vec![9; 64], out_words: 128, bytes: 256, ..Probe::new("store_then_flag", 32) };
    let faults = [(1, "race in global memory"), (2, "race in global memory")];
    for fault in faults {
        // The reader may come first in some schedules of the second: then it reads what nobody wrote.
        expect_with(&probe, &[(fault.0, "global memory")], |options| Options { resident: 2, ..options });
    }
}

#[test]
fn multiplies() {
    let probe = |form, swizzle| wgmma::case("wgmma_n64", 64, form, [swizzle, swizzle], false, &mut Rng(7)).probe;
    expect(
        &probe(0, 3),
        &[
            (1, "missing fence.proxy.async"),
            (2, "no wgmma.fence came before"),
            (3, "accumulators were written while an instruction owned them"),
            (4, "WAR race at shared"),
            (5, "different shapes or descriptors"),
            (6, "does not start at a boundary of its swizzle pattern"),
            (7, "reserved bits of the descriptor"),
            (8, "a warp ends with wgmma that it did not wait for"),
            (9, "a warp ends with wgmma that it did not wait for"),
            (10, "a warp ends with wgmma that it did not wait for"),
            (11, "no wgmma.fence came before"),
            (12, "race at shared|uninitialised shared"),
        ],
    );
    expect(
        &probe(4, 2),
        &[
            (2, "no wgmma.fence"),
            (1, "missing fence.proxy.async"),
            (4, "race at shared"),
            (13, "registers of A were written while an instruction read them"),
        ],
    );
    expect(&probe(3, 1), &[(12, "race at shared|uninitialised shared"), (6, "does not start at a boundary")]);
}
