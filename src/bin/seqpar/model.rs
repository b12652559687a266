//! A diffusion transformer from a checkpoint, and what its inputs must be.

use std::path::{Path, PathBuf};

use seqpar::dtype::Dtype;

use crate::args::RunArgs;
use crate::engine::{self, Dit, PlacedDit};
use crate::fault::{Fault, Result};
use crate::run::Launch;
use crate::tensors::TensorFile;

/// A checkpoint in memory.
pub(crate) struct Model {
    path: PathBuf,
    dit: Dit,
}

impl Model {
    /// Reads a checkpoint whose arithmetic is to be done in `dtype`.
    pub(crate) fn read(path: &Path, dtype: Dtype) -> Result<Self> {
        let file = TensorFile::read(path)?;
        Ok(Self { path: path.to_path_buf(), dit: Dit::load(file, dtype)? })
    }

    /// Channels, side and classes of what it works on; the null class is number `classes`.
    fn sizes(&self) -> (usize, usize, usize) {
        self.dit.sizes()
    }

    pub(crate) fn out_channels(&self) -> usize {
        self.dit.out_channels()
    }

    /// The null class.
    pub(crate) fn null_class(&self) -> i32 {
        self.sizes().2 as i32
    }

    /// Extents of `count` latents.
    pub(crate) fn latent_dims(&self, count: usize) -> [usize; 4] {
        let (channels, side, _) = self.sizes();
        [count, channels, side, side]
    }

    /// The extents of tensor `latent [B, C, S, S]` and the values of tensor `class [B]`.
    pub(crate) fn start(&self, input: &TensorFile, latent: &str, class: &str) -> Result<([usize; 4], Vec<i32>)> {
        let [batch, ..] = input.dims::<4>(latent, "[B, C, S, S]")?;
        let dims = self.latent_dims(batch);
        input.expect(latent, "[B, C, S, S] of this model", &dims)?;
        input.expect(class, "[B]", &[batch])?;
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
        let (tokens, heads) = (self.dit.tokens(), self.dit.heads());
        if args.spread.ranks > tokens {
            return Err(Fault::Usage(format!(
                "--ranks {}, but {} has {tokens} image tokens: use at most {tokens}",
                args.spread.ranks,
                self.path.display()
            )));
        }
        Launch::new(args, heads, heads, |machine| engine::choose_dit(&self.dit, batch, &args.spread, machine))
    }

    /// Plans and prepares calls of `batch` samples.
    pub(crate) fn place(&self, batch: usize, launch: &Launch) -> Result<PlacedDit> {
        self.dit.place(batch, launch)
    }
}
