//! The CUDA source of the linear layers, executed by the emulation: against float64, all tiles bit
//! for bit, rows that arrive in any order or not at all, the fused projection against its chain.

use crate::emulation::linear::{Arrival, Linear, run, run_with};
use crate::emulation::{How, Options, archs, emulate, head_dims, is_tile_chosen};
use crate::support::Rng;
use crate::support::tensors::{
    Values, assert_all_same, assert_close, assert_same, half_ulp, largest, random_operands, truth,
};
use crate::{HALVES, fresh};
use seqpar::dtype::Dtype;
use seqpar::kernel::cuda::gemm::tiles::{Shape, Tile, estimates};
use seqpar::kernel::cuda::{Arch, Device};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel, Modulation, QkNormRope, RopePairs};

const EPILOGUES: [Epilogue; 7] = [
    Epilogue::None,
    Epilogue::Gelu,
    Epilogue::Silu,
    Epilogue::Residual,
    Epilogue::GatedResidual(Modulation::PerSample),
    Epilogue::GatedResidual(Modulation::PerFrame),
    Epilogue::GatedResidual(Modulation::PerToken),
];

fn tiles(arch: Arch) -> Vec<Tile> {
    let shape = Shape { rows: vec![1], cols: vec![1], k: 8 };
    let tiles = estimates(&Device { arch, sms: 1 }, &shape, None).into_iter().map(|e| e.tile);
    tiles.filter(|tile| is_tile_chosen(tile.rows, tile.cols)).collect()
}

fn layer(dtype: Dtype, chunks: &[usize], k: usize, parts: &[usize]) -> Gemm {
    Gemm {
        dtype,
        out_dtype: dtype,
        batch: 1,
        chunks: chunks.to_vec(),
        k,
        parts: parts.to_vec(),
        bias: true,
        epilogue: Epilogue::None,
    }
}

fn plainly(arch: Arch, seed: u64) -> Linear {
    Linear {
        device: Device { arch, sms: 1 + (seed % 4) as u32 },
        // What 384 threads start with, for the pool that setmaxnreg deals out.
        options: Options { registers: if arch == Arch::Sm90 { 168 } else { 0 }, ..Options::seeded(seed) },
        tile: None,
        head_dim: None,
        arrival: Arrival::Pieces,
        first_piece: 0,
        epoch: 7,
    }
}

/// Against float64: the sum's error, what rounding it before the epilogue may cost, one rounding.
fn assert_true(spec: &Gemm, inputs: &[Values], got: &[Values]) {
    let kernel = Kernel::Gemm(spec.clone());
    let want = truth(&kernel, inputs);
    let plain = Gemm { epilogue: Epilogue::None, ..spec.clone() };
    let plain_kernel = Kernel::Gemm(plain.clone());
    let mut of_plain =
        kernel.operands().into_iter().zip(inputs).filter(|(o, _)| !["residual", "gate", "frame"].contains(&o.name));
    let plain_inputs: Vec<Values> = of_plain.by_ref().map(|(_, v)| v.clone()).collect();
    let sums = truth(&plain_kernel, &plain_inputs);
    let sums_of = |name: &str| {
        plain_kernel
            .operands()
            .iter()
            .zip(&sums)
            .filter(|(o, _)| o.name == name)
            .map(|(_, s)| s.clone())
            .collect::<Vec<_>>()
    };
    let steepest = if let Epilogue::GatedResidual(_) = spec.epilogue { 2.5 } else { 1.2 };
    let rounded = spec.epilogue != Epilogue::None;
    let outs =
        kernel.operands().iter().enumerate().filter(|(_, o)| o.name == "out").map(|(i, _)| i).collect::<Vec<_>>();
    for (i, sums) in outs.into_iter().zip(sums_of("out")) {
        let arithmetic = 1e-5 * largest(&want[i]).max(1.0);
        let tolerance =
            |j: usize| arithmetic + if rounded { steepest * half_ulp(spec.out_dtype, sums[j]) } else { 0.0 };
        assert_close(&format!("operand {i} of {spec:?}"), &got[i], &want[i], tolerance);
    }
}

#[test]
fn every_epilogue_equals_float64() {
    let mut rng = fresh("gemm epilogues");
    for arch in archs() {
        for epilogue in EPILOGUES {
            for f32_out in [false, true] {
                let dtype = HALVES[rng.below(2)];
                let cols = [8 * rng.within(1, 40), rng.within(1, 200)][rng.below(2)];
                let spec = Gemm {
                    out_dtype: if f32_out { Dtype::F32 } else { dtype },
                    batch: rng.within(1, 2),
                    bias: rng.chance(70),
                    epilogue,
                    ..layer(dtype, &[rng.within(1, 140), rng.within(0, 70)], 8 * rng.within(1, 20), &[cols])
                };
                let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
                let got = emulate(&Kernel::Gemm(spec.clone()), &inputs, &How::random(arch, &mut rng));
                assert_true(&spec, &inputs, &got);
            }
        }
    }
}

#[test]
fn every_tile_gives_the_bits_of_float64_rounded_and_of_the_others() {
    let mut rng = fresh("gemm tiles");
    let rows = [1, 63, 64, 65, 127, 128, 129];
    let cols = [1, 8, 17, 63, 65, 127, 129, 143, 145, 191, 193, 255, 257];
    let depths = [8, 16, 24, 32, 40, 56, 64, 72, 128, 136, 200];
    let mut cases: Vec<[usize; 3]> = rows.iter().map(|&m| [m, cols[rng.below(13)], depths[rng.below(11)]]).collect();
    cases.extend(cols.map(|n| [rows[rng.below(7)], n, depths[rng.below(11)]]));
    cases.extend(depths.map(|k| [rows[rng.below(7)], cols[rng.below(13)], k]));
    for arch in archs() {
        for &[m, n, k] in &cases {
            let spec = Gemm { batch: 2, ..layer(HALVES[rng.below(2)], &[m], k, &[n]) };
            let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
            let mut first: Option<Vec<Values>> = None;
            for tile in tiles(arch) {
                let how = Linear { tile: Some(tile), ..plainly(arch, rng.next() % 1000) };
                let got = run(&spec, &inputs, &how).clean(&format!("{spec:?} {how:?}"));
                match &first {
                    None => assert_true(&spec, &inputs, &got),
                    Some(first) => assert_all_same(&tile.name(), &Kernel::Gemm(spec.clone()), &got, first),
                }
                first.get_or_insert(got);
            }
        }
    }
}

#[test]
fn heads_of_any_width_equal_plain_columns() {
    let mut rng = fresh("gemm head widths");
    for arch in archs() {
        for head_dim in [4, 12, 20, 36, 72] {
            let spec = layer(HALVES[rng.below(2)], &[70], 72, &[3 * head_dim, 5 * head_dim]);
            let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
            let tiles = tiles(arch);
            let tile = Some(tiles[rng.below(tiles.len())]);
            let plain = Linear { tile, ..plainly(arch, rng.next() % 99) };
            let by_head = Linear { head_dim: Some(head_dim), ..plain.clone() };
            let what = format!("{spec:?} {by_head:?}");
            let [plain, by_head] = [plain, by_head].map(|how| run(&spec, &inputs, &how).clean(&what));
            assert_all_same(&what, &Kernel::Gemm(spec.clone()), &by_head, &plain);
        }
    }
}

#[test]
fn twenty_schedules_are_clean_and_equal() {
    let mut rng = fresh("gemm schedules");
    for arch in archs() {
        for tile in tiles(arch) {
            let epilogue = EPILOGUES[rng.below(7)];
            let spec = Gemm { batch: 2, epilogue, ..layer(HALVES[rng.below(2)], &[70, 33], 136, &[152]) };
            let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
            let how = |seed| Linear { tile: Some(tile), ..plainly(arch, seed) };
            let first = run(&spec, &inputs, &how(0));
            let conflicts: u64 = first.outcomes.iter().map(|o| o.counters.matrix_conflicts).sum();
            assert_eq!(conflicts, 0, "{}: rows of ldmatrix or stmatrix in one bank", tile.name());
            let first = first.clean(&format!("{spec:?}"));
            assert_true(&spec, &inputs, &first);
            for seed in 1..20 {
                let again = run(&spec, &inputs, &how(seed)).clean(&format!("seed {seed} of {spec:?}"));
                assert_all_same("schedules", &Kernel::Gemm(spec.clone()), &again, &first);
            }
        }
    }
}

/// Overlapped, with all flags set, and in launches of their own: the same bits.
#[test]
fn rows_may_arrive_in_any_order() {
    let mut rng = fresh("gemm arrivals");
    for arch in archs() {
        for tile in tiles(arch) {
            let parts = [72 * rng.within(1, 2), 72, 72];
            let chunks = [rng.within(1, 140), 0, 64, rng.within(1, 60)];
            let spec = Gemm { batch: rng.within(1, 2), ..layer(Dtype::Bf16, &chunks, 136, &parts) };
            let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
            let how =
                Linear { tile: Some(tile), head_dim: rng.chance(50).then_some(72), ..plainly(arch, rng.next() % 99) };
            let alone = run(&spec, &inputs, &how).clean("chunked");
            assert_true(&spec, &inputs, &alone);
            // An epoch is reached by a value after it, also where the counter has wrapped around.
            for (i, epoch) in [7, 0, 1, 0x8000_0000, u32::MAX].into_iter().enumerate() {
                let how =
                    Linear { first_piece: i % 4, epoch, options: Options::seeded(rng.next() % 99), ..how.clone() };
                let scripted = Arrival::Scripted { seed: rng.next(), withheld: None };
                for arrival in [Arrival::Preset, scripted] {
                    let how = Linear { arrival, ..how.clone() };
                    let got = run(&spec, &inputs, &how).clean(&format!("{spec:?} {how:?}"));
                    assert_all_same("gated", &Kernel::Gemm(spec.clone()), &got, &alone);
                }
            }
        }
    }
}

/// A gate that never opens ends in the report of a bounded wait; nothing is computed from rows that
/// have not come, and what has come before is right.
#[test]
fn a_flag_that_is_never_set_ends_in_a_report() {
    let mut rng = fresh("gemm lost flag");
    for arch in archs() {
        for tile in tiles(arch) {
            let spec = layer(Dtype::Bf16, &[40, 130, 64], 72, &[144, 72]);
            let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
            let whole = run(&spec, &inputs, &Linear { tile: Some(tile), ..plainly(arch, 3) }).clean("chunked");
            for withheld in 0..3 {
                let arrival = Arrival::Scripted { seed: rng.next(), withheld: Some(withheld) };
                let first_piece = rng.below(3);
                let how = Linear { tile: Some(tile), arrival, first_piece, ..plainly(arch, rng.next() % 99) };
                let ran = run(&spec, &inputs, &how);
                let [code, wait, expected, seen] = ran.status;
                assert_eq!((code, expected, seen), (1, 7, 6), "{how:?}");
                assert_eq!(ran.pieces[wait as usize], withheld, "{how:?}");
                for outcome in &ran.outcomes {
                    assert!(outcome.messages.is_empty(), "{how:?}\n{}", outcome.messages.join("\n"));
                }
                for (i, operand) in Kernel::Gemm(spec.clone()).operands().iter().enumerate() {
                    let Some(piece) = operand.piece.filter(|_| operand.name == "out") else { continue };
                    let written = |x: &f32| !x.is_nan();
                    if piece as usize == withheld {
                        assert!(!ran.results[i].data.iter().any(written), "{how:?}: a result without rows");
                    } else if piece as usize == first_piece {
                        assert_same("the rows that had come", &ran.results[i], &whole[i]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_and_a_column_are_alone() {
    let mut rng = fresh("gemm alone");
    for arch in archs() {
        let spec = Gemm { batch: 2, epilogue: Epilogue::Gelu, ..layer(Dtype::Bf16, &[131], 200, &[260]) };
        let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
        let all = emulate(&Kernel::Gemm(spec.clone()), &inputs, &How::random(arch, &mut rng));
        for (row, col) in [(0, 0), (64, 129), (130, 259)] {
            let one = Gemm { batch: 1, chunks: vec![1], parts: vec![1], ..spec.clone() };
            let mut alone = inputs.clone();
            alone[0] = inputs[0].slice(1, col, 1);
            alone[1] = inputs[1].slice(3, col, 1);
            alone[2] = inputs[2].slice(0, 1, 1).slice(1, row, 1);
            alone[3] = inputs[3].slice(0, 1, 1).slice(1, row, 1).slice(3, col, 1);
            let got = emulate(&Kernel::Gemm(one), &alone, &How::seeded(arch, rng.next() % 99));
            assert_same("alone", &got[3], &all[3].slice(0, 1, 1).slice(1, row, 1).slice(3, col, 1));
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows_and_columns() {
    let mut rng = fresh("gemm nan");
    for arch in archs() {
        let epilogue = Epilogue::GatedResidual(Modulation::PerToken);
        let spec = Gemm { batch: 2, epilogue, ..layer(Dtype::Bf16, &[70], 72, &[150]) };
        let kernel = Kernel::Gemm(spec);
        let clean = random_operands(&kernel, &mut rng);
        let mut dirty = clean.clone();
        dirty[2] = clean[2].map(|[b, n, _, k], x| match [b, n, k] {
            [0, 69, 71] => f32::NAN,
            [1, 3, 0] => f32::INFINITY,
            _ => x,
        });
        dirty[0] = clean[0].map(|[_, c, _, k], x| if [c, k] == [149, 5] { f32::NAN } else { x });
        let how = How::seeded(arch, rng.next() % 99);
        let (want, got) = (emulate(&kernel, &clean, &how), emulate(&kernel, &dirty, &how));
        let strip = |v: &Values| {
            v.map(|[b, n, _, c], x| if [b, n] == [0, 69] || [b, n] == [1, 3] || c == 149 { 0.0 } else { x })
        };
        assert_same("the others", &strip(&got[3]), &strip(&want[3]));
        assert!(got[3].slice(0, 0, 1).slice(1, 69, 1).data.iter().all(|x| x.is_nan()));
        assert!(got[3].slice(3, 149, 1).data.iter().all(|x| x.is_nan()));
    }
}

#[test]
fn the_output_may_be_the_residual() {
    let mut rng = fresh("gemm in place");
    for arch in archs() {
        let epilogue = Epilogue::GatedResidual(Modulation::PerSample);
        let spec = Gemm { batch: 2, epilogue, ..layer(Dtype::F16, &[130], 72, &[264]) };
        let kernel = Kernel::Gemm(spec);
        let inputs = random_operands(&kernel, &mut rng);
        let how = How::seeded(arch, 5);
        let apart = emulate(&kernel, &inputs, &how);
        let in_place = emulate(&kernel, &inputs, &How { alias: Some((3, 4)), ..how });
        assert_same("in place", &in_place[3], &apart[3]);
    }
}

/// What a layer ends with may begin anywhere, each of it alone.
#[test]
fn one_ragged_operand_changes_no_bit() {
    let mut rng = fresh("gemm ragged");
    for arch in archs() {
        for epilogue in EPILOGUES[4..].iter().copied() {
            let spec = Gemm { batch: 2, epilogue, ..layer(Dtype::Bf16, &[9], 16, &[72]) };
            let kernel = Kernel::Gemm(spec);
            let inputs = random_operands(&kernel, &mut rng);
            let how = How::seeded(arch, rng.next() % 99);
            let plain = emulate(&kernel, &inputs, &how);
            for ragged in ["out", "residual", "gate"] {
                let got = emulate(&kernel, &inputs, &How { ragged: Some(ragged), ..how.clone() });
                assert_all_same(ragged, &kernel, &got, &plain);
            }
        }
    }
}

#[test]
fn a_dependent_launch_waits_for_the_one_before() {
    let mut rng = fresh("gemm dependent");
    for arch in archs() {
        let kernel = Kernel::Gemm(layer(Dtype::Bf16, &[70], 72, &[150]));
        let inputs = random_operands(&kernel, &mut rng);
        emulate(&kernel, &inputs, &How { twice: true, ..How::random(arch, &mut rng) });
    }
}

#[test]
fn a_real_shape() {
    let mut rng = fresh("gemm real shape");
    for arch in archs() {
        let spec = layer(Dtype::Bf16, &[512, 512], 1152, &[384, 384, 384]);
        let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
        let mut how = plainly(arch, 11);
        how.device.sms = 4;
        how.options.resident = 4;
        how.arrival = Arrival::Scripted { seed: 3, withheld: None };
        let got = run(&spec, &inputs, &how).clean("real shape");
        // Against float64 on some rows of the second chunk.
        let some = Gemm { chunks: vec![9], ..spec.clone() };
        let first = 2 * spec.parts.len() + 1 + spec.parts.len();
        let rows = |v: &Values| v.slice(1, 100, 9);
        let pick = |all: &[Values]| -> Vec<Values> {
            all[..6].iter().cloned().chain(all[first..first + 4].iter().map(rows)).collect()
        };
        let (inputs, got) = (pick(&inputs), pick(&got));
        assert_true(&some, &inputs, &got);
        // Roundings cancel: the mean error is a small share of the largest possible one.
        let want = truth(&Kernel::Gemm(some), &inputs);
        let share = |i: usize| {
            let error = |j: usize| (f64::from(got[i].data[j]) - want[i][j]) / half_ulp(Dtype::Bf16, want[i][j]);
            (0..want[i].len()).map(error).sum::<f64>() / want[i].len() as f64
        };
        let mean = (7..10).map(share).sum::<f64>() / 3.0;
        assert!(mean.abs() < 0.04, "mean error of {mean} half units on {arch:?}");
    }
}

/// One wave of narrow tiles where wide ones would leave multiprocessors idle; else wide ones, which
/// load less for each product.
#[test]
fn the_choice_of_tiles_can_be_read() {
    let device = Device { arch: Arch::Sm90, sms: 132 };
    let of = |rows, cols| estimates(&device, &Shape { rows: vec![rows], cols: vec![cols], k: 1152 }, None);
    assert_eq!(of(1024, 1152)[0].tile.cols, 128);
    assert_eq!(of(65536, 8192)[0].tile.cols, 256);
    let line = of(65536, 8192)[0].to_string();
    assert!(line.starts_with("gemm_sm90 m128n256: 16384 tiles in 125 waves, "), "{line}");
}

/// The projection with QK norm and rotary embedding in its epilogue is the layer, then QkNormRope.
#[test]
fn the_fused_projection_equals_the_chain() {
    let mut rng = fresh("gemm projection");
    for arch in archs() {
        let tiles_of = |dim| head_tiles(arch, dim).into_iter().map(move |tile| (dim, tile));
        let drawn = head_dims([64, 72, 96, 128]).into_iter().flat_map(tiles_of).map(|(dim, tile)| (dim, tile, false));
        // Where a lane turns halves that another has normed.
        let exchanged = head_dims([72]).into_iter().flat_map(tiles_of).map(|(dim, tile)| (dim, tile, true));
        for (head_dim, tile, exchanged) in drawn.chain(exchanged) {
            let (heads, kv_heads) = (rng.within(1, 3), rng.within(1, 2));
            let parts = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
            let spec = Gemm { batch: 2, ..layer(HALVES[rng.below(2)], &[135, 33], 72, &parts) };
            let inputs = random_operands(&Kernel::Gemm(spec.clone()), &mut rng);
            // Seldom without: a second row tile is what it takes to confuse the rows of tables.
            let turns = [Some(RopePairs::Interleaved), Some(RopePairs::Halves)];
            let rope = match rng.chance(20) {
                _ if exchanged => turns[1],
                true => None,
                false => turns[rng.below(2)],
            };
            let norm_eps = (exchanged || rope.is_none() || rng.chance(70)).then_some(1e-6);
            let transform =
                QkNormRope { dtype: spec.dtype, batch: 2, rows: 135, heads, kv_heads, head_dim, norm_eps, rope };
            let tables = [135, 33].map(|rows| tables(&QkNormRope { rows, ..transform.clone() }, &mut rng));
            // Each piece has tables of its own; the weights are those of the first.
            let weights = usize::from(norm_eps.is_some()) * 2;
            let tables: Vec<Vec<Values>> =
                tables.iter().map(|t| tables[0][..weights].iter().chain(&t[weights..]).cloned().collect()).collect();
            let how = Linear {
                tile: Some(tile),
                head_dim: rng.chance(50).then_some(head_dim),
                arrival: Arrival::Scripted { seed: rng.next(), withheld: None },
                first_piece: 1,
                ..plainly(arch, rng.next() % 99)
            };
            let what = format!("{transform:?} {how:?}");
            let fused = run_with(&spec, &inputs, &how, Some((&transform, &tables))).clean(&what);
            let plain = Linear { tile: None, head_dim: None, arrival: Arrival::Pieces, ..how };
            let mut chain = run(&spec, &inputs, &plain).clean(&what);
            for (piece, tables) in tables.iter().enumerate() {
                let (q, rows) = (6 + piece * 4 + 1, spec.chunks[piece]);
                let kernel = Kernel::QkNormRope(QkNormRope { rows, ..transform.clone() });
                let shaped = |v: &Values, heads| Values { shape: [2, rows, heads, head_dim], ..v.clone() };
                let mut operands = vec![shaped(&chain[q], heads), shaped(&chain[q + 1], kv_heads)];
                operands.extend(tables.iter().cloned());
                let after = emulate(&kernel, &operands, &How::seeded(arch, 3));
                chain[q].data.clone_from(&after[0].data);
                chain[q + 1].data.clone_from(&after[1].data);
            }
            assert_all_same(&what, &Kernel::Gemm(spec), &fused, &chain);
        }
    }
}

fn head_tiles(arch: Arch, dim: usize) -> Vec<Tile> {
    let shape = Shape { rows: vec![1], cols: vec![1], k: 8 };
    estimates(&Device { arch, sms: 1 }, &shape, Some(dim)).into_iter().map(|e| e.tile).collect()
}

/// The operands of QkNormRope after q and k.
fn tables(transform: &QkNormRope, rng: &mut Rng) -> Vec<Values> {
    random_operands(&Kernel::QkNormRope(transform.clone()), rng).split_off(2)
}
