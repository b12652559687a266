//! Plans of a world: described, checked, asked.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use super::abi::{Buffer, Problem, Summary};
use super::handle::{Handle, Held, give, held, take};
use super::problem;
use super::read::{check_pointer, fill, growing, store, store_numbers, store_text};
use super::status::{Fault, Outcome, Status, guard, guard_destroy};
use super::tensor::dtype_code;
use crate::plan::{Checked, Plan, Role, check_world, dump};

/// The plans of all ranks.
#[derive(Debug)]
pub struct OfPlans {
    plans: Vec<Plan>,
    pub(super) strategy: &'static str,
    /// Names of each rank's buffers and of their tensors.
    names: Vec<Vec<(CString, Option<CString>)>>,
    checked: OnceLock<Vec<Checked<Plan>>>,
}

/// `seqpar_plans`.
pub type Plans = Handle<OfPlans>;

impl Held for OfPlans {
    const NAME: &'static str = "seqpar_plans";
}

impl OfPlans {
    /// The plans, once the law has been asked.
    pub(super) fn checked(&self) -> Outcome<&[Checked<Plan>]> {
        let checked = self.checked.get().map(Vec::as_slice);
        checked.ok_or_else(|| Fault::argument("these plans were not checked: call seqpar_plans_check first"))
    }

    fn plan(&self, rank: usize) -> Outcome<&Plan> {
        self.plans.get(rank).ok_or_else(|| no_rank(rank, self.plans.len()))
    }

    fn checked_plan(&self, rank: usize) -> Outcome<&Checked<Plan>> {
        self.checked()?.get(rank).ok_or_else(|| no_rank(rank, self.plans.len()))
    }

    fn buffer(&self, rank: usize, index: usize) -> Outcome<&crate::plan::Buffer> {
        let buffers = &self.plan(rank)?.buffers;
        buffers
            .get(index)
            .ok_or_else(|| Fault::argument(format!("buffer {index} of rank {rank}: it has {}", buffers.len())))
    }
}

/// What is said of a rank that is none.
pub(super) fn no_rank(rank: usize, world: usize) -> Fault {
    Fault::argument(format!("rank {rank} of {world} ranks: count from 0"))
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_describe(problem: *const Problem, plans: *mut *mut Plans) -> Status {
    guard(|| {
        check_pointer(plans, "plans")?;
        let (list, strategy) = problem::plans(&growing(problem)?)?;
        let text = |text: &str| CString::new(text).map_err(|_| Fault::argument("a name with a 0 in it"));
        let name = |buffer: &crate::plan::Buffer| {
            let tensor = buffer.placement.as_ref().map(|placement| text(&placement.tensor)).transpose()?;
            Ok((text(&buffer.name)?, tensor))
        };
        let names = list.iter().map(|plan| plan.buffers.iter().map(name).collect()).collect::<Outcome<_>>()?;
        give(OfPlans { plans: list, strategy, names, checked: OnceLock::new() }, plans)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_check(plans: *mut Plans) -> Status {
    guard(|| {
        let plans = held(plans.cast_const())?;
        if plans.checked.get().is_none() {
            let checked = check_world(plans.plans.clone())?;
            // Another thread may have been first, with the same result.
            let _ = plans.checked.set(checked);
        }
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_destroy(plans: *mut Plans) {
    guard_destroy(|| drop(take(plans)));
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_world(plans: *const Plans, ranks: *mut usize) -> Status {
    guard(|| store(ranks, held(plans)?.plans.len(), "ranks"))
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_summary(plans: *const Plans, rank: usize, summary: *mut Summary) -> Status {
    guard(|| {
        let plans = held(plans)?;
        let plan = plans.checked_plan(rank)?;
        let value = Summary {
            struct_bytes: 0,
            buffers: plan.buffers.len() as u64,
            ops: plan.ops.len() as u64,
            streams: plan.streams.len() as u64,
            bytes_sent: plan.bytes_sent(),
            messages_sent: plan.messages_sent(),
            arena_bytes: plan.memory().arena_bytes as u64,
            peak_bytes: plan.memory().peak_bytes as u64,
            flops: plan.flops(),
            hash: dump::hash(plan),
        };
        fill(summary, &value)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_buffer(
    plans: *const Plans,
    rank: usize,
    index: usize,
    buffer: *mut Buffer,
) -> Status {
    guard(|| {
        let plans = held(plans)?;
        let of = plans.buffer(rank, index)?;
        let (name, tensor) = &plans.names[rank][index];
        let value = Buffer {
            struct_bytes: 0,
            name: name.as_ptr(),
            tensor: tensor.as_ref().map_or(std::ptr::null(), |tensor| tensor.as_ptr()),
            role: match of.role {
                Role::Input => 0,
                Role::Output => 1,
                Role::Temp => 2,
            },
            dtype: dtype_code(of.dtype),
            dims: of.dims.map(|n| n as i64),
            tensor_dims: of.placement.as_ref().map_or([0; 4], |placement| placement.dims.map(|n| n as i64)),
            bytes: of.bytes() as u64,
        };
        fill(buffer, &value)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_placement(
    plans: *const Plans,
    rank: usize,
    index: usize,
    dimension: i32,
    indices: *mut i64,
    capacity: usize,
    count: *mut usize,
) -> Status {
    guard(|| {
        let plans = held(plans)?;
        let buffer = plans.buffer(rank, index)?;
        let dimension = usize::try_from(dimension).ok().filter(|&dimension| dimension < 4);
        let dimension = dimension.ok_or_else(|| Fault::argument("a dimension that is none: use 0 to 3"))?;
        let Some(placement) = &buffer.placement else {
            return Err(Fault::argument(format!("buffer {} is a temporary: it holds no tensor", buffer.name)));
        };
        match &placement.index[dimension] {
            Some(map) => store_numbers(map.indices().map(|i| i as i64), indices, capacity, count),
            None => store_numbers(0..placement.dims[dimension] as i64, indices, capacity, count),
        }
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_plans_json(
    plans: *const Plans,
    rank: usize,
    text: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
) -> Status {
    guard(|| store_text(&dump::json(held(plans)?.checked_plan(rank)?), text, capacity, bytes))
}
