//! One attention through every strategy: given q, k, v also reach the strategies that need
//! weights, as x = (q, k, v) behind an identity projection, which is exact.
#![allow(dead_code, unreachable_pub)]

use seqpar::dtype::Dtype;
use seqpar::exec::Report;
use seqpar::exec::host::{HostOptions, HostTensor};
use seqpar::mesh::Mesh;
use seqpar::plan::{Placement, Plan, Role};
use seqpar::shard::Shard;
use seqpar::strategy::{self, AttentionProblem, LayerProblem, Options, Strategy};

use super::{Rng, Tensors, bytes, floats, integers, run};

/// A strategy and a mesh it runs on.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub strategy: Strategy,
    pub mesh: Mesh,
}

/// Every strategy over `ranks`, usp with every pair of degrees.
pub fn worlds(ranks: usize) -> Vec<World> {
    let mut list = Vec::new();
    for strategy in Strategy::ALL {
        let degrees: Vec<(usize, usize)> = match strategy {
            Strategy::Single if ranks > 1 => Vec::new(),
            Strategy::Ring => vec![(1, ranks)],
            Strategy::Usp => (1..=ranks).filter(|u| ranks.is_multiple_of(*u)).map(|u| (u, ranks / u)).collect(),
            _ => vec![(ranks, 1)],
        };
        list.extend(degrees.into_iter().map(|(u, r)| World { strategy, mesh: Mesh::new(u, r).unwrap() }));
    }
    list
}

impl World {
    pub fn name(&self) -> String {
        format!("{} {}x{}", self.strategy.name(), self.mesh.ulysses, self.mesh.ring)
    }

    pub fn keeps_bits(&self) -> bool {
        self.strategy.keeps_bits(&self.mesh)
    }
}

/// q, k, v of image and text and what limits the keys; how they are cut is not part of it.
#[derive(Clone, Debug)]
pub struct Given {
    pub problem: AttentionProblem,
    pub inputs: Tensors,
}

impl Given {
    /// `value(name, [b, n, h, d])` fills q, k, v (and text_q, text_k, text_v), all of `heads`.
    pub fn new(
        [batch, tokens, heads, head_dim]: [usize; 4],
        text: usize,
        value: impl Fn(&str, [usize; 4]) -> f32,
    ) -> Self {
        let shard = Shard::even(1, tokens, tokens, text, false).unwrap();
        let (key_mask, key_len) = (false, false);
        let dtype = Dtype::F32;
        let problem = AttentionProblem { dtype, batch, heads, kv_heads: heads, head_dim, shard, key_mask, key_len };
        let mut inputs = Tensors::new();
        for (prefix, rows) in [("", tokens), ("text_", text)] {
            for name in ["q", "k", "v"] {
                let name = format!("{prefix}{name}");
                if rows > 0 {
                    let tensor = filled([batch, rows, heads, head_dim], |at| value(&name, at));
                    inputs.insert(name, tensor);
                }
            }
        }
        Self { problem, inputs }
    }

    /// Normal values everywhere.
    pub fn random(rng: &mut Rng, dims: [usize; 4], text: usize) -> Self {
        let mut given = Self::new(dims, text, |_, _| 0.0);
        for tensor in given.inputs.values_mut() {
            *tensor = rng.tensor(Dtype::F32, tensor.dims, 1.0);
        }
        given
    }

    /// With a mask; `keep(b, j)` for key j, text first.
    pub fn masked(mut self, keep: impl Fn(usize, usize) -> bool) -> Self {
        let [batch, tokens, _, _] = self.inputs["q"].dims;
        let keys = tokens + self.inputs.get("text_q").map_or(0, |text| text.dims[1]);
        let mask: Vec<u8> = (0..batch * keys).map(|i| u8::from(keep(i / keys, i % keys))).collect();
        self.inputs.insert("key_mask".into(), bytes([batch, keys, 1, 1], &mask));
        self.problem.key_mask = true;
        self
    }

    /// The plans of `world` under `shard`, and what they are fed.
    pub fn plans(&self, world: World, shard: Shard, options: &Options) -> (Vec<Plan>, Tensors) {
        let problem = AttentionProblem { shard, ..self.problem.clone() };
        if !world.strategy.needs_weights() {
            return (strategy::attention(&problem, world.strategy, &world.mesh, options).unwrap(), self.inputs.clone());
        }
        let (heads, kv_heads, d) = (problem.heads, problem.kv_heads, problem.head_dim);
        let (queries, hidden) = (heads * d, (heads + 2 * kv_heads) * d);
        let layer = LayerProblem {
            attention: problem,
            hidden,
            qkv_bias: false,
            proj_bias: false,
            text_weights: false,
            qk_norm: None,
            rope: None,
            mlp: None,
        };
        let identity = |rows: usize, cols: usize| filled([1, rows, 1, cols], |[_, i, _, j]| f32::from(i == j));
        let mut inputs = Tensors::new();
        inputs.insert("x".into(), stacked(&self.inputs, ""));
        if self.inputs.contains_key("text_q") {
            inputs.insert("text_x".into(), stacked(&self.inputs, "text_"));
        }
        inputs.insert("qkv_weight".into(), identity(hidden, hidden));
        inputs.insert("proj_weight".into(), identity(hidden, queries));
        for limit in ["key_mask", "key_len"] {
            inputs.extend(self.inputs.get(limit).map(|tensor| (limit.to_string(), tensor.clone())));
        }
        (strategy::layer(&layer, world.strategy, &world.mesh, options).unwrap(), inputs)
    }

    /// `out` and `text_out` `[B, rows, H, D]` of one run.
    pub fn run(&self, world: World, shard: Shard, options: &Options, host: HostOptions) -> (Tensors, Report) {
        let (plans, inputs) = self.plans(world, shard, options);
        let (mut got, report) = run(plans, &inputs, host);
        got.remove("lse");
        if world.strategy.needs_weights() {
            let [_, _, heads, d] = self.inputs["q"].dims;
            got.values_mut().for_each(|tensor| *tensor = first_columns(tensor, heads, d));
        }
        (got, report)
    }
}

/// A f32 tensor from the value at `[i, j, k, l]`.
pub fn filled(dims: [usize; 4], value: impl Fn([usize; 4]) -> f32) -> HostTensor {
    let at = |i: usize| {
        let l = i % dims[3];
        let k = i / dims[3] % dims[2];
        let j = i / dims[3] / dims[2] % dims[1];
        [i / dims[3] / dims[2] / dims[1], j, k, l]
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|i| value(at(i))).collect();
    floats(Dtype::F32, dims, &values)
}

/// q, k and v side by side: `[B, n, 1, (H + 2·Hkv)·D]`.
fn stacked(inputs: &Tensors, prefix: &str) -> HostTensor {
    let parts = ["q", "k", "v"].map(|name| &inputs[&format!("{prefix}{name}")]);
    let [batch, rows, ..] = parts[0].dims;
    let values = parts.map(HostTensor::to_f32);
    let widths = parts.map(|part| part.dims[2] * part.dims[3]);
    let mut all = Vec::new();
    for row in 0..batch * rows {
        for (values, width) in values.iter().zip(widths) {
            all.extend_from_slice(&values[row * width..(row + 1) * width]);
        }
    }
    floats(Dtype::F32, [batch, rows, 1, widths.iter().sum()], &all)
}

fn first_columns(tensor: &HostTensor, heads: usize, d: usize) -> HostTensor {
    let [batch, rows, _, hidden] = tensor.dims;
    let values: Vec<f32> = tensor.to_f32().chunks(hidden).flat_map(|row| row[..heads * d].to_vec()).collect();
    floats(tensor.dtype, [batch, rows, heads, d], &values)
}

/// Makes a buffer of one rank an output tensor of its own, so that a test sees what it holds.
pub fn expose(plan: &mut Plan, buffer: &str, tensor: &str) {
    let id = plan.buffer_named(buffer).unwrap_or_else(|| panic!("no buffer {buffer} on rank {}", plan.rank));
    let buffer = &mut plan.buffers[id.0 as usize];
    buffer.role = Role::Output;
    let index = [None, None, None, None];
    buffer.placement = Some(Placement { tensor: tensor.into(), dims: buffer.dims, index });
}

/// A tensor for every input that the plans name: normal values, scaled down for matrices;
/// integers are class labels below `classes`.
pub fn random_inputs(plans: &[Plan], rng: &mut Rng, classes: usize) -> Tensors {
    let mut tensors = Tensors::new();
    for buffer in plans.iter().flat_map(|plan| &plan.buffers).filter(|b| b.role == Role::Input) {
        let Some(Placement { tensor, dims, .. }) = &buffer.placement else { continue };
        if tensors.contains_key(tensor) {
            continue;
        }
        let value = match buffer.dtype {
            Dtype::I32 => {
                let labels: Vec<i32> = (0..dims.iter().product()).map(|_| rng.below(classes) as i32).collect();
                integers(*dims, &labels)
            }
            Dtype::U8 => bytes(*dims, &vec![1; dims.iter().product()]),
            dtype => {
                let is_matrix = dims[0] == 1 && dims[1] > 1 && dims[3] > 1;
                rng.tensor(dtype, *dims, if is_matrix { 1.0 / (dims[3] as f32).sqrt() } else { 0.5 })
            }
        };
        tensors.insert(tensor.clone(), value);
    }
    tensors
}
