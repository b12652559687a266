//! What only the sm_90a attention has: three row tiles, key segments behind gates, one launch for
//! all of them. The rest of its proof is `tests/emulated/attention.rs`, which runs both paths.

use crate::emulation::accesses::{Declared, assert_declared};
use crate::emulation::kernels::Stored;
use crate::emulation::{Device, Emulator, How, Options, emulate, head_dims};
use crate::support::Rng;
use crate::support::tensors::{Values, assert_all_same, assert_close, assert_same, random_operands, truth};
use crate::{HALVES, fresh};
use seqpar::dtype::Dtype;
use seqpar::kernel::TensorView;
use seqpar::kernel::cuda::{self, Arch, AttentionOptions, Gate};
use seqpar::kernel::spec::{Attention, Kernel, KeySegment, Mode};

/// Head dims and key-tile widths.
fn heads() -> Vec<(usize, usize)> {
    let keys = [(64, 128), (72, 112), (96, 96), (128, 176)];
    keys.into_iter().filter(|(dim, _)| !head_dims([*dim]).is_empty()).collect()
}

fn plain(dtype: Dtype, head_dim: usize, queries: usize, keys: &[usize]) -> Attention {
    Attention {
        dtype,
        batch: 1,
        heads: 1,
        kv_heads: 1,
        head_dim,
        first_head: 0,
        first_kv_head: 0,
        group: 1,
        scale: 1.0 / (head_dim as f32).sqrt(),
        queries: vec![queries],
        keys: keys.iter().map(|&len| KeySegment { len, base: 0, stream: 1 }).collect(),
        key_mask: false,
        key_len: false,
        carry_in: false,
        carry_out: false,
    }
}

fn row_tiles(head_dim: usize) -> &'static [u32] {
    if head_dim > 96 { &[64, 128] } else { &[64, 128, 192] }
}

/// Registers of a thread at launch: what `setmaxnreg` moves between the warpgroups.
fn registers(rows: u32) -> usize {
    if rows == 128 { 168 } else { 128 }
}

fn how(rng: &mut Rng, head_dim: usize, rows: u32) -> How {
    let how = How::random(Arch::Sm90, rng);
    // The small variant of head dim 128 has registers enough and moves none.
    let registers = if head_dim > 96 && rows == 64 { 0 } else { registers(rows) };
    How { row_tile: Some(rows), options: Options { registers, ..how.options }, ..how }
}

/// Sizes around every edge of key and row tiles: uniform weights must give exactly 1, which shows
/// any key too many or too few; random ones must be near float64.
#[test]
fn sizes_around_every_tile_edge() {
    let mut rng = fresh("attention sm90 edges");
    for (dim, keys) in heads() {
        for &rows in row_tiles(dim) {
            for (by_keys, by_rows) in [(-1, -1), (0, 0), (1, 1), (-1, 1), (1, -1)] {
                let tiles = rng.within(1, 2) as i64;
                let len = (tiles * keys as i64 + by_keys) as usize;
                let queries = (i64::from(rows) + by_rows) as usize;
                let spec = plain(HALVES[rng.below(2)], dim, queries, &[len]);
                let kernel = Kernel::Attention(spec.clone());
                let mut inputs = random_operands(&kernel, &mut rng);
                let label = format!("{rows} rows, {spec:?}");
                let got = emulate(&kernel, &inputs, &how(&mut rng, dim, rows));
                let want = truth(&kernel, &inputs);
                let unit = if spec.dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / 2048.0 };
                assert_close(&format!("out, {label}"), &got[1], &want[1], |_| 0.6 * unit * 4.0);
                assert_close(&format!("lse, {label}"), &got[2], &want[2], |_| 2e-5);
                inputs[0] = inputs[0].map(|_, _| 0.0);
                inputs[4] = inputs[4].map(|_, _| 1.0);
                let got = emulate(&kernel, &inputs, &how(&mut rng, dim, rows));
                assert!(got[1].data.iter().all(|&x| x == 1.0), "uniform weights, {label}");
                assert_close(&label, &got[2], &vec![(len as f64).ln(); queries], |_| 1e-6 * (len as f64).ln().max(1.0));
            }
        }
    }
}

/// Masks, key lengths, empty segments, grouped heads, padded head dims: every row tile, bit for bit.
#[test]
fn row_tiles_are_bit_equal() {
    let mut rng = fresh("attention sm90 row tiles");
    for dim in head_dims([64, 72, 96, 128, 16, 56, 88, 104]) {
        for masked in [false, true] {
            let keys = [rng.within(1, 20), 0, rng.within(180, 360), rng.within(1, 200)];
            let spec = Attention {
                batch: 2,
                heads: 3,
                kv_heads: 2,
                first_head: 3,
                first_kv_head: 1,
                group: 2,
                queries: vec![rng.within(1, 40), rng.within(100, 230)],
                key_mask: masked,
                key_len: masked,
                ..plain(HALVES[rng.below(2)], dim, 0, &keys)
            };
            let kernel = Kernel::Attention(spec);
            let inputs = random_operands(&kernel, &mut rng);
            let first = emulate(&kernel, &inputs, &how(&mut rng, dim, 64));
            for &rows in &row_tiles(dim)[1..] {
                let got = emulate(&kernel, &inputs, &how(&mut rng, dim, rows));
                assert_all_same(&format!("{rows} rows against 64"), &kernel, &got, &first);
            }
        }
    }
}

/// A mask that removes nothing, or whole segments, against the launch without them: the masked
/// softmax does what the other does.
#[test]
fn masks_and_shorter_segments_are_the_same() {
    let mut rng = fresh("attention sm90 masks");
    for (dim, keys) in heads() {
        let (long, short) = (2 * keys + 5, keys + 3);
        let spec = plain(Dtype::Bf16, dim, 70, &[long, 9]);
        let kernel = Kernel::Attention(spec.clone());
        let inputs = random_operands(&kernel, &mut rng);
        let rows = row_tiles(dim)[rng.below(row_tiles(dim).len())];
        let cut = Attention { keys: plain(Dtype::Bf16, dim, 0, &[short, 9]).keys, ..spec.clone() };
        let mut cut_inputs = inputs.clone();
        (cut_inputs[3], cut_inputs[4]) = (inputs[3].slice(1, 0, short), inputs[4].slice(1, 0, short));
        let want = emulate(&Kernel::Attention(cut), &cut_inputs, &how(&mut rng, dim, rows));
        let masked = Kernel::Attention(Attention { key_mask: true, ..spec });
        let mask = |len: usize, kept: usize| {
            Values::filled(Dtype::U8, [1, len, 1, 1], 1.0).map(|[_, n, ..], _| f32::from(u8::from(n < kept)))
        };
        // What is masked holds NaN.
        let poison = |v: &Values| v.map(|[_, n, ..], x| if n < short { x } else { f32::NAN });
        let [q, out, lse, k0, v0, k1, v1] = <[Values; 7]>::try_from(inputs).unwrap_or_else(|_| unreachable!());
        let masked_inputs = [q, out, lse, poison(&k0), poison(&v0), mask(long, short), k1, v1, mask(9, 9)];
        let got = emulate(&masked, &masked_inputs, &how(&mut rng, dim, rows));
        assert_same("out", &got[1], &want[1]);
        assert_same("lse", &got[2], &want[2]);
    }
}

/// Tiles without keys follow each other fast: no lane may miss a phase.
#[test]
fn many_tiles_without_keys() {
    let mut rng = fresh("attention sm90 empty tiles");
    let spec = Attention { heads: 12, kv_heads: 12, ..plain(Dtype::Bf16, 72, 64, &[0]) };
    let kernel = Kernel::Attention(spec);
    let inputs = random_operands(&kernel, &mut rng);
    for seed in 0..20 {
        let device = cuda::Device { arch: Arch::Sm90, sms: 1 };
        let how = How { row_tile: Some(64), device, ..How::seeded(Arch::Sm90, rng.next() % 1000 + seed) };
        let got = emulate(&kernel, &inputs, &how);
        assert!(got[1].data.iter().all(|&x| x == 0.0) && got[2].data.iter().all(|&x| x == f32::NEG_INFINITY));
    }
}

/// No lane of the masking warp may miss a phase of the keys, which pass on before their mask is there.
#[test]
fn many_masked_tiles() {
    let mut rng = fresh("attention sm90 masked tiles");
    let spec = Attention { heads: 12, kv_heads: 12, key_mask: true, ..plain(Dtype::Bf16, 72, 9, &[230]) };
    let kernel = Kernel::Attention(spec);
    let inputs = random_operands(&kernel, &mut rng);
    let mut first: Option<Vec<Values>> = None;
    for seed in 0..4 {
        let device = cuda::Device { arch: Arch::Sm90, sms: 1 };
        let how = How { row_tile: Some(64), device, ..How::seeded(Arch::Sm90, rng.next() % 1000 + seed) };
        let got = emulate(&kernel, &inputs, &how);
        assert_all_same("schedules", &kernel, &got, first.get_or_insert_with(|| got.clone()));
    }
}

#[test]
fn a_real_head_and_the_bytes_of_shared_memory() {
    let mut rng = fresh("attention sm90 real head");
    let kernel = Kernel::Attention(plain(Dtype::Bf16, 72, 1024, &[1024]));
    let inputs = random_operands(&kernel, &mut rng);
    let want = truth(&kernel, &inputs);
    let how = How { options: Options { resident: 1, ..Options::seeded(rng.next() % 99) }, ..how(&mut rng, 72, 192) };
    let (got, outcomes) = crate::emulation::emulate_outcome(Emulator::shared(), &kernel, &inputs, &how);
    assert!(outcomes[0].messages.is_empty(), "{}", outcomes[0].messages.join("\n"));
    assert_close("out", &got[1], &want[1], |_| 0.6 * 4.0 / 256.0);
    assert!(outcomes[0].counters.wgmma > 0 && outcomes[0].counters.tma > 0);
}

/// A launch with a flag for each key segment.
struct Gated<'a> {
    device: Device<'a>,
    spec: Attention,
    stored: Vec<Stored>,
    flags: u64,
    status: u64,
}

const EPOCH: u32 = 0xffff_fffe;

impl<'a> Gated<'a> {
    fn new(spec: Attention, inputs: &[Values]) -> Gated<'a> {
        let device = Emulator::shared().device();
        let operands = Kernel::Attention(spec.clone()).operands();
        let store = |(o, v)| Stored::new(&device, v, o, false, o.mode == Mode::Write);
        let stored = operands.iter().zip(inputs).map(store).collect();
        // Old epochs, one of them after a wrap around of the counter.
        let flags: Vec<u8> = (0..spec.keys.len()).flat_map(|_| (EPOCH - 1).to_ne_bytes()).collect();
        let (flags, status) = (device.upload(&flags, "flags"), device.upload(&[0; 16], "status"));
        Self { device, spec, stored, flags, status }
    }

    fn launch(&self, gated: bool, rows: u32, sms: u32) -> cuda::Launch {
        let views: Vec<Vec<TensorView>> = self.stored.iter().map(|s| vec![s.view]).collect();
        let gate = |i: usize| Some(Gate { flag: self.flags + 4 * i as u64, epoch: EPOCH });
        let options = AttentionOptions {
            row_tile: Some(rows),
            gates: if gated { (0..self.spec.keys.len()).map(gate).collect() } else { Vec::new() },
            status: self.status,
            timeout_ns: 1_000_000,
        };
        let device = cuda::Device { arch: Arch::Sm90, sms };
        cuda::attention_launches(&self.spec, &views, &device, &options).unwrap().remove(0)
    }

    /// Runs it while the given segments arrive, in this order, whenever all blocks wait.
    fn run(&self, arriving: &[usize], rows: u32, seed: u64) -> crate::emulation::Outcome {
        let mut waiting = arriving.iter().rev().copied().collect::<Vec<_>>();
        // The values of a segment are not there before its flag.
        let first = 3;
        let per_segment = self.spec.key_operands();
        let mut held = Vec::new();
        for segment in 0..self.spec.keys.len() {
            for operand in first + segment * per_segment..first + (segment + 1) * per_segment {
                let stored = &self.stored[operand];
                let bytes = stored.view.shape.iter().product::<usize>() * stored.view.dtype.bytes();
                held.push((segment, stored.view.address, self.device.read(stored.view.address, bytes)));
                self.device.mark(stored.view.address, bytes, false);
            }
        }
        let mut arrive = || {
            let Some(segment) = waiting.pop() else { return false };
            for (_, address, bytes) in held.iter().filter(|h| h.0 == segment) {
                self.device.external_write(*address, bytes);
            }
            // Beyond the epoch is open too: the next run's chunk may be here already.
            self.device.external_release(self.flags + 4 * segment as u64, EPOCH.wrapping_add(segment as u32));
            true
        };
        let sms = 3;
        let options = Options { resident: 3, ..Options::seeded(seed) };
        self.device.run(&self.launch(true, rows, sms), &options, Some(&mut arrive))
    }

    fn declared(&self) -> Declared {
        let views: Vec<Vec<TensorView>> = self.stored.iter().map(|s| vec![s.view]).collect();
        let mut declared = Declared::of(Kernel::Attention(self.spec.clone()).operands().iter().zip(&views));
        declared.flags.add(self.flags, 4 * self.spec.keys.len() as u64);
        declared
    }
}

fn gated_spec(rng: &mut Rng, dim: usize, keys: usize) -> Attention {
    let lens = [keys + 7, 3, 2 * keys, keys - 1];
    Attention { queries: vec![150, 5], key_mask: rng.chance(50), ..plain(Dtype::Bf16, dim, 0, &lens) }
}

#[test]
fn segments_that_arrive_in_any_order_give_the_same_bits() {
    let mut rng = fresh("attention sm90 gates");
    for (dim, keys) in heads() {
        for &rows in row_tiles(dim) {
            let spec = Attention { queries: vec![150], ..gated_spec(&mut rng, dim, keys) };
            let kernel = Kernel::Attention(spec.clone());
            let inputs = random_operands(&kernel, &mut rng);
            let want = emulate(&kernel, &inputs, &how(&mut rng, dim, rows));
            let mut order = vec![0, 1, 2, 3];
            for i in (1..4).rev() {
                order.swap(i, rng.below(i + 1));
            }
            let gated = Gated::new(spec, &inputs);
            let outcome = gated.run(&order, rows, rng.next() % 1000);
            assert!(outcome.messages.is_empty(), "{order:?}\n{}", outcome.messages.join("\n"));
            assert_same("out", &gated.stored[1].values(&gated.device), &want[1]);
            assert_same("lse", &gated.stored[2].values(&gated.device), &want[2]);
            assert_eq!(gated.device.read(gated.status, 16), [0; 16]);
            assert_declared(|| format!("{order:?}"), &gated.declared(), &[outcome]);
        }
    }
}

#[test]
fn a_flag_that_is_never_set_ends_in_the_report_and_in_no_result() {
    let mut rng = fresh("attention sm90 time-out");
    for (dim, keys) in heads() {
        for &rows in row_tiles(dim) {
            let spec = Attention { queries: vec![150], ..gated_spec(&mut rng, dim, keys) };
            let kernel = Kernel::Attention(spec.clone());
            let inputs = random_operands(&kernel, &mut rng);
            let gated = Gated::new(spec, &inputs);
            let lost = rng.below(4);
            let others: Vec<usize> = (0..4).filter(|&i| i != lost).collect();
            let outcome = gated.run(&others, rows, rng.next() % 1000);
            assert!(outcome.messages.is_empty(), "lost {lost}\n{}", outcome.messages.join("\n"));
            let status = gated.device.read(gated.status, 16);
            let field = |i: usize| u32::from_ne_bytes([status[i], status[i + 1], status[i + 2], status[i + 3]]);
            assert_eq!([field(0), field(4), field(8), field(12)], [1, lost as u32, EPOCH, EPOCH - 1]);
            let out = &gated.stored[1];
            let bytes = out.view.shape.iter().product::<usize>() * 2;
            assert_eq!(gated.device.unwritten_bytes(out.view.address, bytes), bytes as u64, "a result was stored");
        }
    }
}

/// What the cost model says of sizes where the answer is plain, and that it can be printed.
#[test]
fn the_row_tile_follows_the_work() {
    let device = cuda::Device { arch: Arch::Sm90, sms: 132 };
    let best = |batch_heads: usize, queries: usize, dim: usize| {
        let spec = Attention { batch: batch_heads, ..plain(Dtype::Bf16, dim, queries, &[1024]) };
        let choices = cuda::attention_row_tiles(&spec, &device).unwrap();
        assert!(choices[0].to_string().contains(&format!("{} rows", choices[0].rows)));
        assert!(choices.windows(2).all(|pair| pair[0].cost <= pair[1].cost));
        choices[0].rows
    };
    // Long sequences: the widest tile. Few short ones: tiles for every SM.
    assert_eq!(best(32, 16384, 72), 192);
    assert_eq!(best(32, 16384, 128), 128);
    assert_eq!(best(132, 64, 72), 64);
    // 32 heads of 1024 rows: some SM gets two tiles of 192 rows, or two of 128.
    assert_eq!(best(32, 1024, 72), 128);
}
