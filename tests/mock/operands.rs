//! A kernel's operands in device memory, each a whole tensor, and its launches through the driver.

use seqpar::cuda::{DeviceMemory, Stream};
use seqpar::error::Result;
use seqpar::exec::cuda::Kernels;
use seqpar::kernel::TensorView;
use seqpar::kernel::cuda::{Launch, launches};
use seqpar::kernel::spec::{Kernel, Mode, Operand};

use crate::emulation::kernels::{element, value};
use crate::support::tensors::Values;

pub struct Operands {
    memory: Vec<DeviceMemory>,
    pub views: Vec<Vec<TensorView>>,
    specs: Vec<Operand>,
}

impl Operands {
    /// What a kernel only writes stays undefined.
    pub fn new(kernel: &Kernel, inputs: &[Values], stream: &Stream) -> Result<Self> {
        let specs = kernel.operands();
        let (mut memory, mut views) = (Vec::new(), Vec::new());
        for (spec, values) in specs.iter().zip(inputs) {
            let bytes: Vec<u8> = values.data.iter().flat_map(|&x| element(values.dtype, x)).collect();
            let of = DeviceMemory::new(bytes.len())?;
            if spec.mode != Mode::Write {
                of.write(0, &bytes, stream)?;
            }
            let [_, n, h, d] = values.shape;
            let strides = [n * h * d, h * d, d, 1];
            views.push(vec![TensorView { address: of.address(), dtype: values.dtype, shape: values.shape, strides }]);
            memory.push(of);
        }
        Ok(Self { memory, views, specs })
    }

    /// The launches of all pieces.
    pub fn launches(&self, kernel: &Kernel, kernels: &Kernels) -> Result<Vec<Launch>> {
        let mut all = Vec::new();
        for piece in 0..kernel.pieces() {
            let mine = |spec: &Operand| spec.piece.is_none_or(|of| of as usize == piece);
            let of_piece = |(spec, views): (_, &Vec<_>)| if mine(spec) { views.clone() } else { Vec::new() };
            let views: Vec<Vec<TensorView>> = self.specs.iter().zip(&self.views).map(of_piece).collect();
            all.extend(launches(kernel, piece, &views, &kernels.device())?);
        }
        Ok(all)
    }

    pub fn read(&self, operand: usize, stream: &Stream) -> Result<Values> {
        let TensorView { dtype, shape, .. } = self.views[operand][0];
        let mut bytes = vec![0; self.memory[operand].bytes()];
        self.memory[operand].read(0, &mut bytes, stream)?;
        let data = bytes.chunks(dtype.bytes()).map(|element| value(dtype, element)).collect();
        Ok(Values { dtype, shape, data })
    }
}

/// Launches all of them on one stream.
pub fn run(kernels: &Kernels, launches: &[Launch], stream: &Stream) -> Result<()> {
    for launch in launches {
        let params = kernels.encode(launch)?;
        // SAFETY: the operands are alive until the streams were synchronised; unordered accesses
        // are what a test looks for.
        unsafe { kernels.launch(launch, &params, stream)? };
    }
    Ok(())
}
