//! Exchange within a warp, barriers, transaction barriers, flags and atomics.

use crate::probe::{Case, Probe, conform};
use crate::support::Rng;

#[test]
fn exchange_and_barriers_conform() {
    conform(&cases());
}

pub(crate) fn cases() -> Vec<Case> {
    let mut rng = Rng(47);
    let mut random = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.next() as u32).collect() };
    let v = random(64);
    let by_lane = |f: &dyn Fn(usize, usize) -> u32| (0..64).map(|i| f(i / 32 * 32, i % 32)).collect::<Vec<_>>();
    let exchange = |args: [i32; 6]| Probe { input: v.clone(), args, ..Probe::new("exchange", 64) };
    let mut all = Vec::new();
    for mask in [1, 2, 4, 8, 16, 31] {
        let want = by_lane(&|warp, lane| v[warp + (lane ^ mask)]);
        all.push(Case::bits(format!("shfl.bfly {mask}"), exchange([0, mask as i32, 0, 0, 0, 0]), want));
    }
    for (factor, offset) in [(0, 5), (1, 1), (3, 7), (2, 31)] {
        let want = by_lane(&|warp, lane| v[warp + (lane * factor + offset) % 32]);
        let args = [1, factor as i32, offset as i32, 0, 0, 0];
        all.push(Case::bits(format!("shfl.idx {factor} {offset}"), exchange(args), want));
    }
    let vote = |warp: usize| (0..32).fold(0, |bits, lane| bits | (v[warp + lane] & 1) << lane);
    all.push(Case::bits("vote.ballot", exchange([2, 0, 0, 0, 0, 0]), by_lane(&|warp, _| vote(warp))));
    all.push(Case::bits("elect.sync", exchange([3, 0, 0, 0, 0, 0]), vec![1; 64]));

    let (a, b) = (random(32), random(128));
    let neighbour = (0..32).map(|i| a[i ^ 1]).collect();
    all.push(Case::bits("bar.warp.sync", Probe { input: a, out_words: 32, ..Probe::new("neighbour", 32) }, neighbour));
    let reversed = b.iter().rev().copied().collect();
    let probe = Probe { input: b, out_words: 128, ..Probe::new("block_barrier", 128) };
    all.push(Case::bits("bar.sync 0", probe, reversed));
    let c = random(256);
    let want = c[..128].iter().rev().chain(c[128..].iter().rev()).copied().collect();
    let probe = Probe { input: c, out_words: 256, ..Probe::new("named_barrier", 256) };
    all.push(Case::bits("bar.sync and bar.arrive", probe, want));
    let d = random(256);
    let probe = Probe { input: d.clone(), out_words: 256, ..Probe::new("registers", 256) };
    all.push(Case::bits("setmaxnreg", probe, d));

    let want = (0..64).map(|i| v[(i + 4) % 64].wrapping_add(4)).collect();
    all.push(Case::bits("mbarrier phases", Probe { input: v.clone(), ..Probe::new("phases", 64) }, want));
    let want = v.iter().map(|x| x.wrapping_add(6)).collect();
    all.push(Case::bits(
        "mbarrier.test_wait and inval",
        Probe { input: v.clone(), ..Probe::new("test_wait", 64) },
        want,
    ));
    let probe = Probe { input: v.clone(), out_words: 32, ..Probe::new("lane_waits", 64) };
    all.push(Case::bits("mbarrier of one lane", probe, v[..32].to_vec()));

    let parts = random(5 * 32);
    let mut want: Vec<u32> = (0..32).map(|i| (0..5).fold(0u32, |sum, b| sum.wrapping_add(parts[b * 32 + i]))).collect();
    want.extend(&parts);
    let probe = Probe { blocks: 5, input: parts, out_words: 32 * 6, ..Probe::new("last_block", 32) };
    all.push(Case::bits("atom.add", probe, want));
    all.push(Case::bits("atom.cas", Probe { out_words: 1, ..Probe::new("claim", 64) }, vec![1]));
    let e = random(1);
    let probe = Probe { input: e.clone(), out_words: 1, flag: vec![1], ..Probe::new("bounded_wait", 32) };
    all.push(Case::bits("ld.acquire.sys of a set flag", probe, e));
    let f = random(256);
    let probe = Probe { input: f[..128].to_vec(), out_words: 128, ..Probe::new("wide_access", 32) };
    all.push(Case::bits("16-byte loads and stores", probe, f[..128].to_vec()));
    all
}
