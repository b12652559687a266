//! Ops within a rank: kernels, copies, calls of the embedding framework.

use super::super::finish::nanoseconds;
use super::{Call, Resolver};
use crate::error::{Error, Result};
use crate::kernel::TensorView;
use crate::kernel::cuda::{self, Gate, Gates, gemm};
use crate::kernel::spec::{Epilogue, Gemm, Kernel, Operand, Pack};
use crate::plan::lower::EventId;
use crate::plan::{OpId, OpKind};

impl Resolver<'_> {
    pub(super) fn kernel(&mut self, at: (usize, usize), op: OpId, gates: &[(u16, EventId)]) -> Result<()> {
        let prepared = self.prepared;
        let plan = &prepared.rank(at.0).plan;
        let kernel = plan.kernel(op).ok_or_else(|| Error::Unsupported("is no kernel".into()))?;
        let mut operands: Vec<Vec<TensorView>> = kernel.operands().iter().map(|_| Vec::new()).collect();
        for access in plan.accesses(op) {
            let view = self.home(at.0).addresses.view(plan, access)?;
            let operand = operands.get_mut(access.operand as usize);
            operand.ok_or_else(|| Error::Unsupported(format!("has no operand {}", access.operand)))?.push(view);
        }
        if let Kernel::Gemm(spec) = kernel
            && spec.k == 0
        {
            return self.empty_sums(at, op, spec, kernel.operands().iter().zip(&operands));
        }
        if let Kernel::Attention(_) = kernel {
            self.gather_keys(at, op, kernel, &mut operands)?;
        }
        if let (Kernel::Gemm(spec), false, true) = (kernel, gates.is_empty(), prepared.waits_inside()) {
            let one_each = (0..kernel.pieces()).all(|piece| gates.iter().filter(|g| g.0 as usize == piece).count() < 2);
            if one_each {
                let mut arrivals = vec![None; kernel.pieces()];
                for (piece, flag) in gates {
                    arrivals[*piece as usize] = Some(Gate { flag: self.flag(at.0, *flag), epoch: 1 });
                }
                let gates = Gates {
                    arrivals: &arrivals,
                    first_piece: arrivals.iter().position(Option::is_none).unwrap_or(0),
                    status: self.home(at.0).status + 16 * u64::from(op.0),
                    timeout_ns: nanoseconds(prepared.options.deadline),
                };
                // More chunks than one launch holds wait in the stream, as other kernels do.
                if let Ok((launch, _)) = gemm::gated(spec, &operands, &gates, &self.device(), None) {
                    return self.launch(at, op, &launch);
                }
            }
        }
        // One launch a piece, each behind its own flags.
        let specs = kernel.operands();
        for piece in 0..kernel.pieces() {
            for (_, flag) in gates.iter().filter(|(of, _)| *of as usize == piece) {
                let address = self.flag(at.0, *flag);
                self.push(at, Some(op), Call::WaitFlag(address));
            }
            let mine = |i: usize| specs[i].piece.is_none_or(|of| of as usize == piece);
            let own: Vec<Vec<TensorView>> = operands
                .iter()
                .enumerate()
                .map(|(i, views)| if mine(i) { views.clone() } else { Vec::new() })
                .collect();
            for launch in cuda::launches(kernel, piece, &own, &self.device())? {
                self.launch(at, op, &launch)?;
            }
        }
        Ok(())
    }

    /// Sums over no channels, of a rank without heads: zeros. It reads nothing, so it has no gates.
    fn empty_sums<'a>(
        &mut self,
        at: (usize, usize),
        op: OpId,
        spec: &Gemm,
        operands: impl Iterator<Item = (&'a Operand, &'a Vec<TensorView>)>,
    ) -> Result<()> {
        // Those are 0 at 0.
        let is_zero = matches!(spec.epilogue, Epilogue::None | Epilogue::Gelu | Epilogue::Silu) && !spec.bias;
        if !is_zero {
            return Err(Error::Unsupported("a linear layer over no channels with a bias or a residual".into()));
        }
        let written = operands.filter(|(operand, _)| operand.mode.writes());
        for (to, bytes) in written.flat_map(|(_, views)| views).flat_map(contiguous_runs) {
            self.push(at, Some(op), Call::Clear { to, bytes });
        }
        Ok(())
    }

    /// Keys, values and masks that come in several tensors, packed into one: key tiles are cut
    /// from a segment's start, wherever its parts came from.
    fn gather_keys(
        &mut self,
        at: (usize, usize),
        op: OpId,
        kernel: &Kernel,
        operands: &mut [Vec<TensorView>],
    ) -> Result<()> {
        for (spec, views) in kernel.operands().iter().zip(operands) {
            let filled = views.iter().filter(|view| !view.shape.contains(&0)).count();
            if !["k", "v", "mask"].contains(&spec.name) || filled < 2 {
                continue;
            }
            let whole = TensorView {
                address: self.scratch(spec.bytes() as usize)?,
                dtype: spec.dtype,
                shape: spec.shape,
                strides: [
                    spec.shape[1] * spec.shape[2] * spec.shape[3],
                    spec.shape[2] * spec.shape[3],
                    spec.shape[3],
                    1,
                ],
            };
            self.pack(at, op, std::mem::replace(views, vec![whole]), vec![whole])?;
        }
        Ok(())
    }

    fn pack(&mut self, at: (usize, usize), op: OpId, from: Vec<TensorView>, to: Vec<TensorView>) -> Result<()> {
        let [first, ..] = to.as_slice() else { return Ok(()) };
        let rows = to.iter().map(|view| view.shape[1]).sum();
        let shape = [first.shape[0], rows, first.shape[2], first.shape[3]];
        let kernel = Kernel::Pack(Pack { src_dtype: first.dtype, dst_dtype: first.dtype, copies: vec![shape] });
        for launch in cuda::launches(&kernel, 0, &[from, to], &self.device())? {
            self.launch(at, op, &launch)?;
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, at: (usize, usize), op: OpId) -> Result<()> {
        let plan = &self.prepared.rank(at.0).plan;
        let views = plan.accesses(op).iter().map(|access| self.home(at.0).addresses.view(plan, access));
        let views: Vec<TensorView> = views.collect::<Result<_>>()?;
        match views.as_slice() {
            [] => Ok(()),
            [from, to] if from.shape == to.shape && from.dtype == to.dtype => self.pack(at, op, vec![*from], vec![*to]),
            _ => Err(Error::Shape("a copy has one source and one target, equal in shape and dtype".into())),
        }
    }

    pub(super) fn external(&mut self, at: (usize, usize), op: OpId) -> Result<()> {
        let rank = self.prepared.rank(at.0);
        let OpKind::External(index) = rank.plan.op(op).kind else { return Ok(()) };
        let name = rank.plan.externals.get(index as usize).map(String::as_str).unwrap_or_default();
        let call = self.prepared.externals.get(name).cloned();
        let call = call.ok_or_else(|| {
            Error::Bind(format!("the plan calls \"{name}\": register it with Prepared::external before binding"))
        })?;
        let parts = rank.plan.accesses(op).iter().map(|access| self.home(at.0).addresses.view(&rank.plan, access));
        let parts = parts.collect::<Result<_>>()?;
        self.push(at, Some(op), Call::External { call, parts });
        Ok(())
    }
}

/// Address and bytes of the runs of memory that make up a tensor.
fn contiguous_runs(view: &TensorView) -> Vec<(u64, usize)> {
    let (mut outer, mut elems) = (4, 1);
    while outer > 0 && (view.shape[outer - 1] <= 1 || view.strides[outer - 1] == elems) {
        elems *= view.shape[outer - 1];
        outer -= 1;
    }
    let mut starts = vec![0];
    for (extent, stride) in view.shape.into_iter().zip(view.strides).take(outer) {
        starts = starts.into_iter().flat_map(|start| (0..extent).map(move |i| start + i * stride)).collect();
    }
    let size = view.dtype.bytes();
    starts.into_iter().map(|start| (view.address + (start * size) as u64, elems * size)).collect()
}
