//! Operands of a kernel in device memory, filled with random normal values.

use std::sync::OnceLock;

use seqpar::Result;
use seqpar::cuda::{DeviceMemory, Stream};
use seqpar::dtype::{Dtype, bf16_from_f32};
use seqpar::kernel::TensorView;
use seqpar::kernel::spec::Kernel;

pub(crate) struct Operands {
    kernel: Kernel,
    memory: Vec<DeviceMemory>,
}

impl Operands {
    pub(crate) fn new(kernel: &Kernel, stream: &Stream) -> Result<Self> {
        // Values repeat after a prime number of them, so that no two rows are alike.
        static VALUES: OnceLock<Vec<f32>> = OnceLock::new();
        let values = VALUES.get_or_init(|| normal(1_000_003));
        let mut memory = Vec::new();
        for operand in kernel.operands() {
            let bytes = DeviceMemory::new(operand.bytes() as usize)?;
            if operand.mode.reads() {
                let elems = operand.shape.iter().product::<usize>();
                let scale = if operand.name == "w" { 1.0 / (operand.shape[3] as f32).sqrt() } else { 1.0 };
                let data: Vec<u8> = match operand.dtype {
                    Dtype::Bf16 => {
                        (0..elems).flat_map(|i| bf16_from_f32(values[i % values.len()] * scale).to_ne_bytes()).collect()
                    }
                    _ => vec![0; operand.bytes() as usize],
                };
                bytes.write(0, &data, stream)?;
            }
            memory.push(bytes);
        }
        Ok(Self { kernel: kernel.clone(), memory })
    }

    /// Views of the operands of a piece; those of others are empty.
    pub(crate) fn views(&self, piece: usize) -> Vec<Vec<TensorView>> {
        let operands = self.kernel.operands();
        let mine = operands.iter().map(|o| o.piece.is_none_or(|of| of as usize == piece));
        let all = self.all();
        mine.zip(all).map(|(mine, views)| if mine { views } else { Vec::new() }).collect()
    }

    /// Views of all operands.
    pub(crate) fn all(&self) -> Vec<Vec<TensorView>> {
        let view = |(operand, memory): (seqpar::kernel::spec::Operand, &DeviceMemory)| {
            let [_, n, h, d] = operand.shape;
            vec![TensorView {
                address: memory.address(),
                dtype: operand.dtype,
                shape: operand.shape,
                strides: [n * h * d, h * d, d, 1],
            }]
        };
        self.kernel.operands().into_iter().zip(&self.memory).map(view).collect()
    }
}

fn normal(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut pair = || {
        let (a, b) = (uniform().max(1e-300), uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    };
    (0..count).map(|_| pair()).collect()
}
