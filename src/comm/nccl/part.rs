use crate::dtype::Dtype;
use crate::ffi::nccl::abi::*;

/// One op of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it does.
    pub kind: PartKind,
    /// Elements, counted as NCCL does: of one rank's piece for AllGather, ReduceScatter and AllToAll.
    pub elems: usize,
    /// Their type.
    pub dtype: Dtype,
    /// The rank sent to or received from, or the root.
    pub peer: Option<usize>,
}

/// Kinds of ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartKind {
    /// To one rank.
    Send,
    /// From one rank.
    Recv,
    /// Every rank's piece to every rank.
    AllGather,
    /// Every rank receives one piece of the sum.
    ReduceScatter,
    /// Every rank receives the sum.
    AllReduce,
    /// From one rank to all.
    Broadcast,
    /// A piece from every rank to every rank.
    AllToAll,
}

impl PartKind {
    /// Name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Recv => "recv",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllReduce => "all_reduce",
            Self::Broadcast => "broadcast",
            Self::AllToAll => "all_to_all",
        }
    }
}

pub(super) fn dtype_code(dtype: Dtype) -> ncclDataType_t {
    match dtype {
        Dtype::F32 => ncclFloat32,
        Dtype::F16 => ncclFloat16,
        Dtype::Bf16 => ncclBfloat16,
        Dtype::I32 => ncclInt32,
        Dtype::U8 => ncclUint8,
    }
}
