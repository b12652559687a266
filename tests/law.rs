//! The law, rule by rule: each broken plan is refused by an error that names the op.
//! (design: drop a wait, swap two collectives, change one count, move a region …)

use seqpar::dtype::Dtype::{self, F32};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Mode, Pack};
use seqpar::plan::lower::{Command, EventId, Gates, Lowered, lower};
use seqpar::plan::memory::check_memory;
use seqpar::plan::*;
use seqpar::{Error, Result};

const ROWS: [usize; 4] = [1, 4, 1, 8];

/// A pack kernel that copies `[1, 4, 1, 8]`.
fn pack() -> Kernel {
    Kernel::Pack(Pack { src_dtype: F32, dst_dtype: F32, copies: vec![ROWS] })
}

fn input(b: &mut Builder, name: &str) -> View {
    b.buffer(name, Role::Input, F32, ROWS, None)
}

fn output(b: &mut Builder, name: &str) -> View {
    b.buffer(name, Role::Output, F32, ROWS, None)
}

/// The error of a refused plan, which names `op` and says `what`.
#[track_caller]
fn refused<T>(result: Result<T>, op: &str, what: &str) {
    match result {
        Ok(_) => panic!("accepted; expected op {op:?} to be refused with {what:?}"),
        Err(Error::Law { op: named, why, .. }) => {
            assert_eq!(named, op, "{why}");
            assert!(why.contains(what), "{why:?} does not say {what:?}");
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// One rank: x is packed to a, read from two streams, joined, packed to y.
fn diamond() -> Plan {
    let mut b = Builder::new(0, 1);
    let (main, side) = (b.stream("main"), b.stream("side"));
    let (x, y) = (input(&mut b, "x"), output(&mut b, "y"));
    let [a, c, d, e] = ["a", "c", "d", "e"].map(|name| b.temp(name, F32, ROWS));
    b.kernel(main, "load", pack(), &[vec![x], vec![a]]);
    b.kernel(main, "left", pack(), &[vec![a], vec![c]]);
    b.kernel(side, "right", pack(), &[vec![a], vec![d]]);
    b.kernel(side, "right2", pack(), &[vec![d], vec![e]]);
    let halves = |v: View, i: usize| v.rows(2 * i..2 * i + 2);
    b.kernel(main, "join", pack(), &[vec![halves(c, 0), halves(e, 1)], vec![y]]);
    b.finish()
}

#[test]
fn a_diamond_is_lawful_and_its_waits_are_the_fewest() {
    let plan = check(diamond()).unwrap();
    let lowered = plan.lowered(Gates::Flags);
    let waits: usize = lowered.streams.iter().flatten().filter(|c| matches!(c, Command::Wait(_))).count();
    assert_eq!((waits, lowered.events), (2, 2));
    assert_eq!(plan.memory().arena_bytes, 4 * 128);
}
