//! A diffusion transformer from a checkpoint: what its inputs must be, and calls of it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use seqpar::dit::{self, Config, DitProblem, FileTensor, Weights, patch};
use seqpar::dtype::Dtype;
use seqpar::mesh::Mesh;
use seqpar::shard::Split;
use seqpar::strategy::Options;

use crate::args::RunArgs;
use crate::choice;
use crate::engine::{self, Facts, Tensors, World};
use crate::fault::{Fault, Result};
use crate::run::Launch;
use crate::tensors::{TensorFile, f32_bytes, float_dtype};

/// A checkpoint in memory.
pub(crate) struct Model {
    path: PathBuf,
    weights: Weights,
}

impl Model {
    /// Reads a checkpoint whose arithmetic is to be done in `dtype`.
    pub(crate) fn read(path: &Path, dtype: Dtype) -> Result<Self> {
        let file = TensorFile::read(path)?;
        let odd = RefCell::new(None);
        let loaded = Weights::load(dtype, &file.metadata, |name| {
            let tensor = file.tensors.get(name)?;
            let Some(dtype) = float_dtype(tensor.dtype) else {
                let why = format!("is {:?}: weights are F32, F16 or BF16", tensor.dtype);
                odd.borrow_mut().get_or_insert_with(|| file.fault(name, why));
                return None;
            };
            Some(FileTensor { shape: tensor.shape.clone(), dtype, bytes: tensor.bytes.clone() })
        });
        match (odd.into_inner(), loaded) {
            (Some(fault), _) => Err(fault),
            (None, Ok(weights)) => Ok(Self { path: path.to_path_buf(), weights }),
            (None, Err(error)) => Err(Fault::file(path, error)),
        }
    }

    fn config(&self) -> &Config {
        &self.weights.config
    }

    pub(crate) fn out_channels(&self) -> usize {
        self.config().out_channels
    }

    /// The null class.
    pub(crate) fn null_class(&self) -> i32 {
        self.config().classes as i32
    }

    /// Extents of `count` latents.
    pub(crate) fn latent_dims(&self, count: usize) -> [usize; 4] {
        let Config { channels, input_size, .. } = *self.config();
        [count, channels, input_size, input_size]
    }

    /// The extents of tensor `latent [B, C, S, S]` and the values of tensor `class [B]`.
    pub(crate) fn start(&self, input: &TensorFile, latent: &str, class: &str) -> Result<([usize; 4], Vec<i32>)> {
        let [batch, ..] = input.dims::<4>(latent, "[B, C, S, S]")?;
        let dims = self.latent_dims(batch);
        input.need_shape(latent, "[B, C, S, S] of this model", &dims)?;
        input.need_shape(class, "[B]", &[batch])?;
        let classes = self.classes(&input.i64_values(class)?).map_err(|why| input.fault(class, why))?;
        Ok((dims, classes))
    }

    /// Class numbers of the model.
    pub(crate) fn classes(&self, values: &[i64]) -> std::result::Result<Vec<i32>, String> {
        let null = self.null_class();
        let checked = values.iter().map(|&value| match i32::try_from(value) {
            Ok(class) if (0..=null).contains(&class) => Ok(class),
            _ => Err(format!("has the value {value}: classes are 0 to {}, and {null} is the null class", null - 1)),
        });
        checked.collect()
    }

    /// The launch that the flags ask for.
    pub(crate) fn launch(&self, args: &RunArgs, batch: usize) -> Result<Launch> {
        let (tokens, heads, ranks) = (self.config().tokens(), self.config().heads, args.spread.ranks);
        if ranks > tokens {
            return Err(Fault::Usage(format!(
                "--ranks {ranks}, but {} has {tokens} image tokens: use at most {tokens}",
                self.path.display()
            )));
        }
        let problem = self.problem(batch, ranks);
        Launch::new(args, heads, heads, |machine| {
            let build =
                |strategy, mesh: &Mesh, rank| dit::plan_rank(&problem, strategy, mesh, &Options::default(), rank);
            choice::pick(&args.spread, machine, &problem.attention()?, build)
        })
    }

    /// Plans and prepares calls of `batch` samples (in each guidance group).
    pub(crate) fn place(&self, batch: usize, launch: &Launch) -> Result<Placed> {
        let problem = self.problem(batch, launch.mesh.sequence());
        let plans = dit::plan(&problem, launch.strategy, &launch.mesh, &Options::default())?;
        let mut world = World::prepare(plans, launch)?;
        world.bind(&self.weights.tensors)?;
        Ok(Placed { config: self.config().clone(), dtype: self.weights.dtype, world })
    }

    fn problem(&self, batch: usize, ranks: usize) -> DitProblem {
        let image = Split::even(self.config().tokens(), ranks);
        DitProblem { config: self.config().clone(), dtype: self.weights.dtype, batch, image }
    }
}

/// A model on its ranks.
pub(crate) struct Placed {
    config: Config,
    dtype: Dtype,
    world: World,
}

impl Placed {
    /// Evaluates the model on `latent [B, C, S, S]`: `[B, Cout, S, S]`.
    pub(crate) fn call(&mut self, latent: &[f32], timesteps: &[f32], classes: &[i32]) -> Result<(Vec<f32>, Facts)> {
        let batch = classes.len();
        let Config { channels, patch: side, .. } = self.config;
        let patches = patch::patchify(&self.config, batch, latent);
        let dims = [batch, self.config.tokens(), 1, channels * side * side];
        let class_bytes = classes.iter().flat_map(|class| class.to_le_bytes()).collect();
        let scalars = [batch, 1, 1, 1];
        self.world.bind(&Tensors::from([
            ("patches".into(), engine::floats(self.dtype, dims, &patches)?),
            ("timestep".into(), engine::tensor(Dtype::F32, scalars, f32_bytes(timesteps))?),
            ("class".into(), engine::tensor(Dtype::I32, scalars, class_bytes)?),
        ]))?;
        let (outputs, facts) = self.world.run()?;
        let tokens = engine::output(&outputs, "out")?.to_f32();
        Ok((patch::unpatchify(&self.config, batch, &tokens), facts))
    }
}
