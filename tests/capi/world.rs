//! A world of plans through the ABI: whole tensors are scattered by what the ABI says of each buffer,
//! and gathered by it.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;

use seqpar::capi::abi::{Buffer, Problem, Summary};
use seqpar::capi::plans::{
    Plans, seqpar_plans_buffer, seqpar_plans_check, seqpar_plans_describe, seqpar_plans_destroy,
    seqpar_plans_placement, seqpar_plans_summary, seqpar_plans_world,
};
use seqpar::capi::run::{seqpar_bind, seqpar_finish, seqpar_prepared_destroy, seqpar_run};
use seqpar::capi::world::Prepared;
use seqpar::dtype::Dtype;
use seqpar::exec::HostTensor;

use crate::kernels::sized;
use crate::ok;
use crate::support::Tensors;
use crate::support::tensors::for_each_index;

/// Described and checked plans.
pub(crate) struct World(pub(crate) *mut Plans);

/// An input or output of one rank.
pub(crate) struct Bound {
    pub(crate) rank: usize,
    pub(crate) index: usize,
    pub(crate) tensor: String,
    pub(crate) writes: bool,
    dtype: Dtype,
    dims: [usize; 4],
    tensor_dims: [usize; 4],
    pub(crate) bytes: usize,
    /// Global index of each local one, by dimension.
    indices: [Vec<usize>; 4],
}

impl World {
    pub(crate) fn new(problem: &Problem) -> Self {
        let mut plans = null_mut();
        // SAFETY: both places are alive; what was made is alive until drop.
        unsafe {
            ok(seqpar_plans_describe(problem, &mut plans));
            ok(seqpar_plans_check(plans));
        }
        Self(plans)
    }

    pub(crate) fn ranks(&self) -> usize {
        let mut ranks = 0;
        // SAFETY: alive.
        ok(unsafe { seqpar_plans_world(self.0, &mut ranks) });
        ranks
    }

    pub(crate) fn summary(&self, rank: usize) -> Summary {
        let mut summary: Summary = sized();
        // SAFETY: alive.
        ok(unsafe { seqpar_plans_summary(self.0, rank, &mut summary) });
        summary
    }

    /// All inputs and outputs of one rank.
    pub(crate) fn bound_of(&self, rank: usize) -> Vec<Bound> {
        (0..self.summary(rank).buffers as usize).filter_map(|index| self.buffer(rank, index)).collect()
    }

    pub(crate) fn bound(&self) -> Vec<Bound> {
        (0..self.ranks()).flat_map(|rank| self.bound_of(rank)).collect()
    }

    fn buffer(&self, rank: usize, index: usize) -> Option<Bound> {
        let mut buffer: Buffer = sized();
        // SAFETY: alive.
        ok(unsafe { seqpar_plans_buffer(self.0, rank, index, &mut buffer) });
        if buffer.role == 2 {
            assert!(buffer.tensor.is_null());
            return None;
        }
        let indices = |dimension| {
            let mut count = 0;
            // SAFETY: no room is given.
            ok(unsafe { seqpar_plans_placement(self.0, rank, index, dimension, null_mut(), 0, &mut count) });
            let mut indices = vec![0i64; count];
            // SAFETY: there is room for `count`.
            ok(unsafe {
                seqpar_plans_placement(self.0, rank, index, dimension, indices.as_mut_ptr(), count, &mut count)
            });
            indices.into_iter().map(|i| i as usize).collect::<Vec<_>>()
        };
        Some(Bound {
            rank,
            index,
            // SAFETY: a string that lives as long as the plans.
            tensor: unsafe { CStr::from_ptr(buffer.tensor) }.to_str().unwrap().into(),
            writes: buffer.role == 1,
            dtype: [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::I32, Dtype::U8][buffer.dtype as usize],
            dims: buffer.dims.map(|n| n as usize),
            tensor_dims: buffer.tensor_dims.map(|n| n as usize),
            bytes: buffer.bytes as usize,
            indices: [0, 1, 2, 3].map(indices),
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { seqpar_plans_destroy(self.0) };
    }
}

impl Bound {
    /// Calls `f(local, global)` with byte offsets of every element.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let size = self.dtype.bytes();
        let flat =
            |dims: [usize; 4], i: [usize; 4]| (((i[0] * dims[1] + i[1]) * dims[2] + i[2]) * dims[3] + i[3]) * size;
        for_each_index(self.dims, |local| {
            let global = [0, 1, 2, 3].map(|d: usize| self.indices[d][local[d]]);
            f(flat(self.dims, local), flat(self.tensor_dims, global));
        });
    }

    pub(crate) fn scattered(&self, inputs: &Tensors) -> Vec<u8> {
        let size = self.dtype.bytes();
        let mut bytes = vec![0xff; self.bytes];
        if !self.writes {
            let tensor = &inputs[&self.tensor];
            assert_eq!((tensor.dtype, tensor.dims), (self.dtype, self.tensor_dims), "{}", self.tensor);
            self.for_each(|local, global| {
                bytes[local..local + size].copy_from_slice(&tensor.bytes[global..global + size]);
            });
        }
        bytes
    }
}

/// The global outputs, from what each of `bound` holds.
pub(crate) fn gathered(bound: &[(&Bound, Vec<u8>)]) -> Tensors {
    let mut outputs: BTreeMap<String, (HostTensor, Vec<bool>)> = BTreeMap::new();
    for (of, bytes) in bound.iter().filter(|(of, _)| of.writes) {
        let size = of.dtype.bytes();
        let (tensor, seen) = outputs.entry(of.tensor.clone()).or_insert_with(|| {
            let tensor = HostTensor::zeros(of.dtype, of.tensor_dims);
            let seen = vec![false; tensor.bytes.len()];
            (tensor, seen)
        });
        of.for_each(|local, global| {
            let element = &bytes[local..local + size];
            assert!(
                !seen[global] || tensor.bytes[global..global + size] == *element,
                "{} differs over ranks",
                of.tensor
            );
            tensor.bytes[global..global + size].copy_from_slice(element);
            seen[global] = true;
        });
    }
    let whole = |(name, (tensor, seen)): (String, (HostTensor, Vec<bool>))| {
        assert!(seen.iter().step_by(tensor.dtype.bytes()).all(|seen| *seen), "{name} has a hole");
        (name, tensor)
    };
    outputs.into_iter().map(whole).collect()
}

/// A prepared world of this test.
pub(crate) struct Ready(pub(crate) *mut Prepared);

impl Drop for Ready {
    fn drop(&mut self) {
        // SAFETY: made by a prepare function.
        unsafe { seqpar_prepared_destroy(self.0) };
    }
}

impl Ready {
    pub(crate) fn bind(&self, bound: &Bound, data: *mut c_void) {
        // SAFETY: the caller's memory outlives the runs.
        ok(unsafe { seqpar_bind(self.0, bound.rank, bound.index, data, bound.bytes) });
    }

    pub(crate) fn run(&self, stream: *mut c_void) {
        // SAFETY: what is bound is alive.
        ok(unsafe { seqpar_run(self.0, stream) });
        // SAFETY: alive.
        ok(unsafe { seqpar_finish(self.0) });
    }

    /// Runs twice on memory of the host.
    pub(crate) fn run_on_host(&self, world: &World, inputs: &Tensors) -> Tensors {
        let bound = world.bound();
        let mut memory: Vec<Vec<u128>> = Vec::new();
        for of in &bound {
            let mut words = vec![u128::MAX; of.bytes.div_ceil(16) + 1];
            bytemuck::cast_slice_mut::<u128, u8>(&mut words)[..of.bytes].copy_from_slice(&of.scattered(inputs));
            memory.push(words);
        }
        for (of, words) in bound.iter().zip(&mut memory) {
            self.bind(of, words.as_mut_ptr().cast());
        }
        self.run(null_mut());
        self.run(null_mut());
        let bytes = |words: &Vec<u128>, count: usize| bytemuck::cast_slice::<u128, u8>(words)[..count].to_vec();
        let held: Vec<_> = bound.iter().zip(&memory).map(|(of, words)| (of, bytes(words, of.bytes))).collect();
        gathered(&held)
    }
}

/// A text that a function writes in two calls.
pub(crate) fn text(mut ask: impl FnMut(*mut c_char, usize, *mut usize) -> i32) -> String {
    let mut bytes = 0;
    ok(ask(null_mut(), 0, &mut bytes));
    let mut buffer = vec![0x55u8; bytes + 1];
    ok(ask(buffer.as_mut_ptr().cast(), buffer.len(), &mut bytes));
    assert_eq!((buffer.len(), buffer.pop()), (bytes + 1, Some(0)));
    String::from_utf8(buffer).unwrap()
}
