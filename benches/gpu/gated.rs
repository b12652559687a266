//! The projection whose rows arrive while it runs: a second stream raises the chunks' flags at the
//! times at which a link of 380 GB/s would have delivered them. Beside it the same launch with all
//! flags set; the regret is what arrival costs beyond the later of compute and the last arrival
//! with the work left then.

use std::time::{Duration, Instant};

use seqpar::Result;
use seqpar::cuda::{DeviceMemory, Event, Priority, Stream, write_value};
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::Kernels;
use seqpar::kernel::cuda::{Gate, Gates, Launch, gemm};
use seqpar::kernel::spec::{Epilogue, Gemm, Kernel};

use crate::operands::Operands;

const LINK_BYTES_PER_S: f64 = 380e9;
const ROUNDS: usize = 15;

pub(crate) struct Gated {
    pub(crate) name: String,
    spec: Gemm,
}

pub(crate) fn all() -> Vec<Gated> {
    let shapes = [(2, 1152, 1728), (2, 3072, 4608), (4, 3072, 2304), (8, 4096, 1536)];
    let case = |&(ranks, hidden, cols): &(usize, usize, usize)| {
        let rows = 16384 / ranks;
        let whole = Gemm::linear(Dtype::Bf16, 1, rows, hidden, cols, true, Epilogue::None);
        Gated { name: format!("gated_p{ranks}_k{hidden}_n{cols}"), spec: Gemm { chunks: vec![rows; ranks], ..whole } }
    };
    shapes.iter().map(case).collect()
}

impl Gated {
    pub(crate) fn measure(&self, kernels: &Kernels, stream: &Stream) -> Result<String> {
        let ranks = self.spec.chunks.len();
        let operands = Operands::new(&Kernel::Gemm(self.spec.clone()), stream)?;
        let flags = DeviceMemory::new(4 * ranks + 16)?;
        let chunk_s = (self.spec.chunks[0] * self.spec.k * 2) as f64 / LINK_BYTES_PER_S;
        let arrivals: Vec<f64> = (0..ranks).map(|i| i as f64 * chunk_s).collect();
        let (ready, _) = self.timed(kernels, stream, &operands, &flags, &vec![0.0; ranks])?;
        let (arriving, late) = self.timed(kernels, stream, &operands, &flags, &arrivals)?;
        // Each chunk's share of the work can start when it is there.
        let share = ready / ranks as f64;
        let bound = (0..ranks).map(|i| late[i] + share * (ranks - i) as f64).fold(ready, f64::max);
        Ok(format!(
            "{{\"case\":\"{}\",\"us\":{:.2},\"ready_us\":{:.2},\"bound_us\":{:.2},\"regret\":{:.4}}}",
            self.name,
            arriving * 1e6,
            ready * 1e6,
            bound * 1e6,
            arriving / bound - 1.0
        ))
    }

    /// Median seconds of a run, and when its flags were really raised.
    fn timed(
        &self,
        kernels: &Kernels,
        stream: &Stream,
        operands: &Operands,
        flags: &DeviceMemory,
        arrivals: &[f64],
    ) -> Result<(f64, Vec<f64>)> {
        let outside = Stream::new(Priority::High)?;
        let (begin, end) = (Event::new(true)?, Event::new(true)?);
        let mut rounds: Vec<(f64, Vec<f64>)> = Vec::new();
        for epoch in 1..=(ROUNDS as u32 + 3) {
            let (launch, params) = self.launch(kernels, operands, flags, epoch)?;
            stream.synchronize()?;
            begin.record(stream)?;
            // SAFETY: operands and flags live until the end of the measurement.
            unsafe { kernels.launch(&launch, &params, stream) }?;
            end.record(stream)?;
            let start = Instant::now();
            let mut late = Vec::new();
            for (chunk, &at) in arrivals.iter().enumerate() {
                while start.elapsed() < Duration::from_secs_f64(at) {
                    std::hint::spin_loop();
                }
                // SAFETY: a word of `flags`.
                unsafe { write_value(flags.address() + 4 * chunk as u64, epoch, &outside) }?;
                late.push(start.elapsed().as_secs_f64());
            }
            stream.synchronize()?;
            // Without the arrivals asked for, what the host took to raise flags is no delay.
            let late = if arrivals.iter().all(|at| *at == 0.0) { vec![0.0; late.len()] } else { late };
            rounds.push((f64::from(end.milliseconds_since(&begin)?) / 1e3, late));
        }
        rounds.drain(..3);
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(rounds.swap_remove(ROUNDS / 2))
    }

    fn launch(
        &self,
        kernels: &Kernels,
        operands: &Operands,
        flags: &DeviceMemory,
        epoch: u32,
    ) -> Result<(Launch, Vec<u8>)> {
        let gate = |chunk: usize| Some(Gate { flag: flags.address() + 4 * chunk as u64, epoch });
        let arrivals: Vec<Option<Gate>> = (0..self.spec.chunks.len()).map(gate).collect();
        let gates = Gates { arrivals: &arrivals, first_piece: 0, status: 0, timeout_ns: 1_000_000_000 };
        let (launch, _) = gemm::gated(&self.spec, &operands.all(), &gates, &kernels.device(), None)?;
        let params = kernels.encode(&launch)?;
        Ok((launch, params))
    }
}
