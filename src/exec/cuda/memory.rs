//! Where the buffers of a rank lie on the device, and what an access of an op sees of them.

use crate::cuda::DeviceMemory;
use crate::error::{Error, Result};
use crate::kernel::TensorView;
use crate::plan::memory::Memory;
use crate::plan::{Access, Plan, Role};

/// What the kernels' vector loads need of bound memory.
const ALIGNMENT_BYTES: u64 = 16;

/// Device addresses of all buffers of a rank.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    of: Vec<u64>,
}

impl Addresses {
    /// Temporaries in the arena, inputs and outputs where `bound` says.
    pub(super) fn new(plan: &Plan, memory: &Memory, arena: &DeviceMemory, bound: &[Option<u64>]) -> Result<Self> {
        let mut of = Vec::new();
        for (id, buffer) in plan.buffers.iter().enumerate() {
            of.push(match (buffer.role, memory.offsets.get(id).copied().flatten()) {
                (Role::Temp, Some(offset)) => arena.address() + offset as u64,
                (Role::Temp, None) => return Err(unbound(plan, &buffer.name)),
                _ => {
                    let address = bound.get(id).copied().flatten().ok_or_else(|| unbound(plan, &buffer.name))?;
                    if buffer.bytes() > 0 && (address == 0 || !address.is_multiple_of(ALIGNMENT_BYTES)) {
                        return Err(Error::Bind(format!(
                            "buffer {} of rank {} at {address:#x}: give memory aligned to {ALIGNMENT_BYTES} bytes",
                            buffer.name, plan.rank
                        )));
                    }
                    address
                }
            });
        }
        Ok(Self { of })
    }

    /// The elements that an access sees.
    pub(super) fn view(&self, plan: &Plan, access: &Access) -> Result<TensorView> {
        let buffer = plan.buffer(access.buffer);
        let contiguous = access.region.is_contiguous(buffer.dims);
        let strides = if access.shape == access.region.extents() {
            row_major(buffer.dims)
        } else if contiguous && access.shape.iter().product::<usize>() == access.region.elems() {
            row_major(access.shape)
        } else {
            return Err(Error::Shape(format!(
                "rank {}: sees {:?} of buffer {} as {:?}",
                plan.rank,
                access.region.extents(),
                buffer.name,
                access.shape
            )));
        };
        let offset = if access.region.is_empty() { 0 } else { access.region.offset(buffer.dims) };
        let address = self.of[access.buffer.0 as usize] + (offset * buffer.dtype.bytes()) as u64;
        Ok(TensorView { address, dtype: buffer.dtype, shape: access.shape, strides })
    }

    /// First byte and length of an access, which must be one run.
    pub(super) fn run(&self, plan: &Plan, access: &Access) -> Result<(u64, usize)> {
        let view = self.view(plan, access)?;
        if !access.region.is_contiguous(plan.buffer(access.buffer).dims) {
            let name = &plan.buffer(access.buffer).name;
            return Err(Error::Shape(format!("rank {}: a part of buffer {name} is no contiguous run", plan.rank)));
        }
        Ok((view.address, plan.access_bytes(access)))
    }
}

fn row_major(dims: [usize; 4]) -> [usize; 4] {
    [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1]
}

fn unbound(plan: &Plan, name: &str) -> Error {
    Error::Bind(format!("buffer {name} of rank {} is not bound", plan.rank))
}
