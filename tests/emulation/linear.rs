//! A linear layer executed by the emulation with what the plain harness has no word for: a tile of
//! one's choice, outputs with heads apart, rows that arrive while the kernel runs.

use seqpar::kernel::TensorView;
use seqpar::kernel::cuda::gemm::{self, Heads, tiles::Tile};
use seqpar::kernel::cuda::{self, Gate, Gates, Launch};
use seqpar::kernel::spec::{Gemm, Kernel, Mode, QkNormRope};

use super::accesses::{Declared, assert_declared};
use super::kernels::Stored;
use super::{Device, Emulator, Options, Outcome};
use crate::support::Rng;
use crate::support::tensors::Values;

/// How the rows of `a` come.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// They are there: one launch a piece.
    Pieces,
    /// They are there: one launch, every flag set.
    Preset,
    /// One launch; another agent writes the pieces in an order of this seed, all but one of them
    /// if `withheld`.
    Scripted { seed: u64, withheld: Option<usize> },
}

#[derive(Clone, Debug)]
pub struct Linear {
    pub device: cuda::Device,
    pub options: Options,
    pub tile: Option<Tile>,
    /// Outputs are `[B, rows, H, D]` with a gap after each head.
    pub head_dim: Option<usize>,
    pub arrival: Arrival,
    pub first_piece: usize,
    pub epoch: u32,
}

/// Longest wait for a gate in an emulated launch.
const TIMEOUT_NS: u64 = 1_000_000;

/// All operands of the kernel after the launches, what they said, and the status words.
pub struct Ran {
    pub results: Vec<Values>,
    pub outcomes: Vec<Outcome>,
    pub status: [u32; 4],
    /// Piece of each chunk of a gated launch.
    pub pieces: Vec<usize>,
}

impl Ran {
    /// The operands of a launch of which the emulation reported nothing.
    pub fn clean(self, what: &str) -> Vec<Values> {
        for outcome in &self.outcomes {
            assert!(outcome.messages.is_empty(), "{what}\n{}", outcome.messages.join("\n"));
        }
        assert_eq!(self.status[0], 0, "{what}: a gate did not open");
        self.results
    }
}

pub fn run(spec: &Gemm, inputs: &[Values], how: &Linear) -> Ran {
    run_with(spec, inputs, how, None)
}

/// With the transform of heads in the epilogue, and for each piece what `QkNormRope` reads beside q
/// and k; then in one launch.
pub fn run_with(spec: &Gemm, inputs: &[Values], how: &Linear, transform: Option<(&QkNormRope, &[Vec<Values>])>) -> Ran {
    let device = Emulator::shared().device();
    let kernel = Kernel::Gemm(spec.clone());
    let specs = kernel.operands();
    let late = matches!(how.arrival, Arrival::Scripted { .. });
    let stored: Vec<Stored> = specs
        .iter()
        .zip(inputs)
        .map(|(operand, values)| match (operand.name, how.head_dim) {
            ("a", _) => Stored::new(&device, values, operand, false, late),
            ("out", Some(dim)) => Stored::new(&device, &heads(values, dim), operand, true, true),
            _ => Stored::new(&device, values, operand, false, operand.mode == Mode::Write),
        })
        .collect();
    let views: Vec<Vec<TensorView>> = stored.iter().map(|s| vec![s.view]).collect();
    let status = device.upload(&[0; 16], "status");
    let mut declared = Declared::of(specs.iter().zip(&views));
    let mut ran = Ran { results: Vec::new(), outcomes: Vec::new(), status: [0; 4], pieces: Vec::new() };
    if let Arrival::Pieces = how.arrival {
        for piece in 0..spec.chunks.len() {
            let launches = gemm::linear(spec, piece, &views, &how.device, how.tile).unwrap_or_else(|e| panic!("{e}"));
            ran.outcomes.extend(launches.iter().map(|launch| device.run(launch, &how.options, None)));
        }
    } else {
        let stale = how.epoch.wrapping_sub(1).to_ne_bytes().repeat(spec.chunks.len());
        let preset = how.epoch.to_ne_bytes().repeat(spec.chunks.len());
        let flags = device.upload(if late { &stale } else { &preset }, "flags");
        let gate = |piece: usize| Some(Gate { flag: flags + 4 * piece as u64, epoch: how.epoch });
        let arrivals: Vec<Option<Gate>> = (0..spec.chunks.len()).map(gate).collect();
        let gates = Gates { arrivals: &arrivals, first_piece: how.first_piece, status, timeout_ns: TIMEOUT_NS };
        let made = match transform {
            None => gemm::gated(spec, &views, &gates, &how.device, how.tile),
            Some((transform, tables)) => {
                let tables = Tables::new(&device, transform, tables);
                let read = tables.weights.iter().chain(&tables.cos).chain(&tables.sin).flatten();
                read.for_each(|view| declared.add(Mode::Read, view));
                gemm::projection(spec, &views, transform, &tables.heads(), Some(&gates), &how.device, how.tile)
            }
        };
        let (launch, pieces) = made.unwrap_or_else(|e| panic!("{e}"));
        ran.pieces = pieces;
        declared.flags.add(flags, 4 * spec.chunks.len() as u64);
        let rows: Vec<usize> = (0..specs.len()).filter(|&i| specs[i].name == "a").collect();
        let sources: Vec<Stored> =
            rows.iter().map(|&i| Stored::new(&device, &inputs[i], &specs[i], false, false)).collect();
        let targets: Vec<TensorView> = rows.iter().map(|&i| stored[i].view).collect();
        ran.outcomes.push(launch_gated(&device, &launch, how, &sources, &targets, &arrivals));
    }
    let word = |bytes: &[u8]| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let words = device.read(status, 16);
    ran.status = std::array::from_fn(|i| word(&words[4 * i..]));
    let clean = ran.outcomes.iter().all(|outcome| outcome.messages.is_empty());
    if ran.status[0] == 0 {
        assert_declared(|| format!("{} {how:?}", kernel.name()), &declared, &ran.outcomes);
    }
    ran.results = stored.iter().zip(inputs).map(|(s, v)| Values { shape: v.shape, ..s.values(&device) }).collect();
    if clean {
        stored.iter().zip(&specs).for_each(|(s, o)| s.assert_gaps_untouched(&device, &kernel.name(), o.name));
    }
    ran
}

fn launch_gated(
    device: &Device<'_>,
    launch: &Launch,
    how: &Linear,
    sources: &[Stored],
    targets: &[TensorView],
    arrivals: &[Option<Gate>],
) -> Outcome {
    let Arrival::Scripted { seed, withheld } = how.arrival else { return device.run(launch, &how.options, None) };
    let mut order: Vec<usize> = (0..targets.len()).filter(|&piece| Some(piece) != withheld).collect();
    let mut rng = Rng(seed);
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let mut send = || {
        let Some(piece) = order.pop() else { return false };
        let (target, bytes) = (&targets[piece], targets[piece].shape.iter().product::<usize>() * 2);
        device.external_write(target.address, &device.read(sources[piece].view.address, bytes));
        if let Some(gate) = arrivals[piece] {
            device.external_release(gate.flag, gate.epoch);
        }
        true
    };
    device.run(launch, &how.options, Some(&mut send))
}

/// Columns as heads of `dim`.
fn heads(values: &Values, dim: usize) -> Values {
    let [b, n, _, cols] = values.shape;
    Values { shape: [b, n, cols / dim, dim], ..values.clone() }
}

/// What `QkNormRope` reads beside q and k, in device memory.
struct Tables {
    weights: Vec<Vec<TensorView>>,
    cos: Vec<Vec<TensorView>>,
    sin: Vec<Vec<TensorView>>,
}

impl Tables {
    fn new(device: &Device<'_>, transform: &QkNormRope, pieces: &[Vec<Values>]) -> Self {
        let operands = Kernel::QkNormRope(transform.clone()).operands().split_off(2);
        let of = |name: &str, values: &[Values]| -> Vec<TensorView> {
            let own = operands.iter().zip(values).filter(|(operand, _)| operand.name == name);
            // Sines have another row stride than cosines.
            own.map(|(operand, values)| Stored::new(device, values, operand, operand.name == "sin", false).view)
                .collect()
        };
        Self {
            weights: ["q_weight", "k_weight"].map(|name| of(name, &pieces[0])).to_vec(),
            cos: pieces.iter().map(|values| of("cos", values)).collect(),
            sin: pieces.iter().map(|values| of("sin", values)).collect(),
        }
    }

    fn heads(&self) -> Heads<'_> {
        Heads { q_weight: &self.weights[0], k_weight: &self.weights[1], cos: &self.cos, sin: &self.sin }
    }
}
