//! A kernel spec executed by the emulation: operands in device memory with gaps around them, the
//! launches of `kernel::cuda`, results read back.

use seqpar::dtype::{Dtype, bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};
use seqpar::kernel::TensorView;
use seqpar::kernel::cuda::{self, Arch, AttentionOptions};
use seqpar::kernel::spec::{Kernel, Mode, Operand};

use super::accesses::{Declared, assert_declared};
use super::{Device, Emulator, Options, Outcome};
use crate::support::Rng;
use crate::support::tensors::{Values, assert_same, concat, for_each_index};

/// Operands that the kernels take as one tensor.
const WHOLE: [&str; 7] = ["k", "v", "mask", "key_len", "lse", "m", "l"];

/// How a kernel is launched; nothing here may change a bit, except the architecture.
#[derive(Clone, Debug)]
pub struct How {
    pub device: cuda::Device,
    pub options: Options,
    /// Operands are boxes inside larger buffers.
    pub strided: bool,
    /// The rows of this operand begin anywhere.
    pub ragged: Option<&'static str>,
    /// Operands are cut into several tensors along dimension 1, at places drawn from this seed.
    pub split: Option<u64>,
    /// The first operand has the memory of the second.
    pub alias: Option<(usize, usize)>,
    /// The launches run twice, the second time as dependents of the first, whose results they
    /// overwrite: they have to wait for it.
    pub twice: bool,
    /// Query rows of a block of attention on sm_90a; `None`: the best by the cost model.
    pub row_tile: Option<u32>,
}

impl How {
    pub fn seeded(arch: Arch, seed: u64) -> Self {
        let device = cuda::Device { arch, sms: 1 + (seed % 5) as u32 };
        Self {
            device,
            options: Options::seeded(seed),
            strided: false,
            ragged: None,
            split: None,
            alias: None,
            twice: false,
            row_tile: None,
        }
    }

    pub fn random(arch: Arch, rng: &mut Rng) -> Self {
        let how = Self::seeded(arch, rng.next() % 1000);
        Self { strided: rng.chance(50), split: rng.chance(30).then(|| rng.next()), ..how }
    }
}

/// All operands after the launch; a report fails the test.
pub fn emulate(kernel: &Kernel, inputs: &[Values], how: &How) -> Vec<Values> {
    let (results, outcomes) = emulate_outcome(Emulator::shared(), kernel, inputs, how);
    for outcome in outcomes {
        assert!(outcome.messages.is_empty(), "{} {how:?}\n{}", kernel.name(), outcome.messages.join("\n"));
    }
    results
}

/// All operands after the launch, and what each launch said.
pub fn emulate_outcome(
    emulator: &Emulator,
    kernel: &Kernel,
    inputs: &[Values],
    how: &How,
) -> (Vec<Values>, Vec<Outcome>) {
    let device = emulator.device();
    let specs = kernel.operands();
    assert_eq!(specs.len(), inputs.len(), "{}", kernel.name());
    let mut rng = Rng(how.split.unwrap_or(0));
    let mut stored: Vec<Vec<Stored>> = Vec::new();
    for (i, (spec, values)) in specs.iter().zip(inputs).enumerate() {
        let poisoned = spec.mode == Mode::Write && how.alias.is_none_or(|(operand, _)| operand != i);
        let cuts = how.split.is_some() && !WHOLE.contains(&spec.name);
        let parts = if cuts { cut(values, &mut rng) } else { vec![values.clone()] };
        // Operands have different strides, so that none can stand for another's. Kernels want rows at
        // multiples of 16 bytes, except for what ends a linear layer.
        let gap = if how.strided { 8 * (1 + i % 4) } else { 0 } + usize::from(how.ragged == Some(spec.name));
        stored.push(parts.iter().map(|part| Stored::with_gap(&device, part, gap, spec.name, poisoned)).collect());
    }
    let mut views: Vec<Vec<TensorView>> =
        stored.iter().map(|parts| parts.iter().map(|part| part.view).collect()).collect();
    if let Some((operand, memory_of)) = how.alias {
        views[operand] = views[memory_of].clone();
    }
    let mut outcomes = Vec::new();
    for piece in 0..kernel.pieces() {
        let mine = |spec: &Operand| spec.piece.is_none_or(|of| of as usize == piece);
        let views: Vec<Vec<TensorView>> =
            specs.iter().zip(&views).map(|(spec, v)| if mine(spec) { v.clone() } else { Vec::new() }).collect();
        let launches = match kernel {
            Kernel::Attention(spec) => {
                let options = AttentionOptions { row_tile: how.row_tile, ..AttentionOptions::default() };
                cuda::attention_launches(spec, &views, &how.device, &options)
            }
            _ => cuda::launches(kernel, piece, &views, &how.device),
        };
        let launches = launches.unwrap_or_else(|e| panic!("{e}"));
        let first = outcomes.len();
        for (turn, launch) in (0..1 + usize::from(how.twice)).flat_map(|turn| launches.iter().map(move |l| (turn, l))) {
            let outcome = device.run(launch, &Options { dependent: turn > 0, ..how.options }, None);
            let failed = !outcome.messages.is_empty();
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        let what = || format!("{} piece {piece} {how:?}", kernel.name());
        assert_declared(what, &Declared::of(specs.iter().zip(&views)), &outcomes[first..]);
    }
    let clean = outcomes.iter().all(|o| o.messages.is_empty());
    let mut results = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let memory = match how.alias {
            Some((operand, memory_of)) if operand == i => memory_of,
            _ => i,
        };
        let parts: Vec<Values> = stored[memory].iter().map(|part| part.values(&device)).collect();
        let result = concat(1, &parts);
        let written = spec.mode.writes() || how.alias.is_some_and(|(_, memory_of)| memory_of == i);
        if clean {
            if !written {
                assert_same(&format!("{}: {} is only read", kernel.name(), spec.name), &result, &inputs[i]);
            }
            stored[memory].iter().for_each(|part| part.assert_gaps_untouched(&device, &kernel.name(), spec.name));
        }
        results.push(result);
    }
    (results, outcomes)
}

/// A value as the bytes of an element, and back.
pub fn element(dtype: Dtype, value: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => value.to_ne_bytes().to_vec(),
        Dtype::F16 => f16_from_f32(value).to_ne_bytes().to_vec(),
        Dtype::Bf16 => bf16_from_f32(value).to_ne_bytes().to_vec(),
        Dtype::I32 => (value as i32).to_ne_bytes().to_vec(),
        _ => vec![value as u8],
    }
}

pub fn value(dtype: Dtype, b: &[u8]) -> f32 {
    match dtype {
        Dtype::F32 => f32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        Dtype::I32 => i32::from_ne_bytes([b[0], b[1], b[2], b[3]]) as f32,
        Dtype::F16 => f16_to_f32(u16::from_ne_bytes([b[0], b[1]])),
        Dtype::Bf16 => bf16_to_f32(u16::from_ne_bytes([b[0], b[1]])),
        _ => f32::from(b[0]),
    }
}

/// Cuts along dimension 1 into up to three parts.
fn cut(values: &Values, rng: &mut Rng) -> Vec<Values> {
    let rows = values.shape[1];
    let mut cuts: Vec<usize> = (0..rng.below(3)).map(|_| rng.within(0, rows)).collect();
    cuts.extend([0, rows]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| values.slice(1, pair[0], pair[1] - pair[0])).collect()
}

/// One tensor in device memory; what is around its elements is undefined.
pub struct Stored {
    pub view: TensorView,
    address: u64,
    bytes: usize,
}

impl Stored {
    /// With gaps of 8 elements if strided.
    pub fn new(device: &Device<'_>, values: &Values, spec: &Operand, strided: bool, poisoned: bool) -> Self {
        Self::with_gap(device, values, if strided { 8 } else { 0 }, spec.name, poisoned)
    }

    /// With `gap` elements behind each row, and where heads are a dimension of their own 8 or 12
    /// behind each of them.
    fn with_gap(device: &Device<'_>, values: &Values, gap: usize, name: &str, poisoned: bool) -> Self {
        let shape = values.shape;
        let strided = gap > 0;
        let row = shape[2] * shape[3];
        // Heads of half a vector more begin aligned all the same.
        let head_gap = if shape[3] % 8 == 4 { 12 } else { 8 };
        let (head_gap, row_gap) = if strided && shape[2] > 1 { (head_gap, 8 + gap) } else { (0, gap) };
        let head = shape[3] + head_gap;
        let row_stride = if row == 1 { 1 } else { head * shape[2] + row_gap };
        let strides = [row_stride * (shape[1] + usize::from(strided)), row_stride, head, 1];
        let first = if strided && row > 1 { row_stride } else { 0 };
        let bytes = (first + strides[0] * shape[0]) * values.dtype.bytes();
        let address = device.alloc(bytes, name);
        let view = TensorView {
            address: address + (first * values.dtype.bytes()) as u64,
            dtype: values.dtype,
            shape,
            strides,
        };
        let stored = Self { view, address, bytes };
        if !poisoned && shape[3] > 0 {
            for (run, data) in values.data.chunks(shape[3]).enumerate() {
                let (h, rest) = (run % shape[2], run / shape[2]);
                let bytes: Vec<u8> = data.iter().flat_map(|&x| element(values.dtype, x)).collect();
                device.write(stored.at([rest / shape[1], rest % shape[1], h, 0]), &bytes);
            }
        }
        stored
    }

    fn at(&self, index: [usize; 4]) -> u64 {
        let offset: usize = index.iter().zip(self.view.strides).map(|(i, s)| i * s).sum();
        self.view.address + (offset * self.view.dtype.bytes()) as u64
    }

    pub fn values(&self, device: &Device<'_>) -> Values {
        let bytes = device.read(self.address, self.bytes);
        let mut data = Vec::new();
        for_each_index(self.view.shape, |index| {
            data.push(value(self.view.dtype, &bytes[(self.at(index) - self.address) as usize..]));
        });
        Values { dtype: self.view.dtype, shape: self.view.shape, data }
    }

    pub fn assert_gaps_untouched(&self, device: &Device<'_>, kernel: &str, operand: &str) {
        let mut bytes = device.read(self.address, self.bytes);
        for_each_index(self.view.shape, |index| {
            let at = (self.at(index) - self.address) as usize;
            bytes[at..at + self.view.dtype.bytes()].fill(0xff);
        });
        assert!(bytes.iter().all(|&b| b == 0xff), "{kernel} wrote beside {operand}{:?}", self.view.shape);
    }
}
