//! A checkpoint under the public DiT names, checked and brought to the run's dtype.
//!
//! Sizes are read off the tensors' shapes; only the number of heads comes from the metadata,
//! because no shape tells it. Anything that does not fit is refused with the tensor's name.

use std::collections::BTreeMap;

use super::config::Config;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::exec::host::HostTensor;

/// A model's sizes and its weights as global tensors of [`super::plan()`].
#[derive(Clone, Debug)]
pub struct Weights {
    /// Sizes.
    pub config: Config,
    /// Type of the weights and of the run.
    pub dtype: Dtype,
    /// Weights by their public names.
    pub tensors: BTreeMap<String, HostTensor>,
}

/// A tensor as it stands in a file.
#[derive(Clone, Debug)]
pub struct FileTensor {
    /// Extents, any number.
    pub shape: Vec<usize>,
    /// Element type, a float.
    pub dtype: Dtype,
    /// Row-major elements.
    pub bytes: Vec<u8>,
}

impl Weights {
    /// Reads sizes and weights. `tensor` gives the file's tensor of a name; metadata is the
    /// file's, of which `num_heads` is needed and `patch_size`, `input_size`, `num_classes` must
    /// agree with the tensors where they are given.
    ///
    /// # Errors
    /// [`Error::Data`] for a missing tensor or metadata entry and for a shape that does not fit,
    /// with the name and what was expected.
    pub fn load(
        dtype: Dtype,
        metadata: &BTreeMap<String, String>,
        tensor: impl Fn(&str) -> Option<FileTensor>,
    ) -> Result<Self> {
        let config = read_config(metadata, &tensor)?;
        let mut tensors = BTreeMap::new();
        for (name, shape, dims) in expected(&config) {
            let found = find(&tensor, &name)?;
            if found.shape != shape {
                return Err(Error::Data(format!(
                    "tensor \"{name}\" has shape {:?} but the other tensors need {shape:?}",
                    found.shape
                )));
            }
            tensors.insert(name, convert(dtype, dims, found)?);
        }
        Ok(Self { config, dtype, tensors })
    }
}

fn find(tensor: &impl Fn(&str) -> Option<FileTensor>, name: &str) -> Result<FileTensor> {
    let found =
        tensor(name).ok_or_else(|| Error::Data(format!("tensor \"{name}\" is missing: a DiT checkpoint has it")))?;
    if !matches!(found.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
        return Err(Error::Data(format!("tensor \"{name}\" is {}: weights are f32, f16 or bf16", found.dtype)));
    }
    let expected = found.shape.iter().try_fold(found.dtype.bytes(), |n, x| n.checked_mul(*x));
    if expected != Some(found.bytes.len()) {
        return Err(Error::Data(format!(
            "tensor \"{name}\" has {} bytes, which do not make {:?} of {}",
            found.bytes.len(),
            found.shape,
            found.dtype
        )));
    }
    Ok(found)
}

fn convert(dtype: Dtype, dims: [usize; 4], found: FileTensor) -> Result<HostTensor> {
    let tensor = HostTensor { dtype: found.dtype, dims, bytes: found.bytes };
    Ok(if tensor.dtype == dtype { tensor } else { HostTensor::from_f32(dtype, dims, &tensor.to_f32())? })
}

fn read_config(metadata: &BTreeMap<String, String>, tensor: &impl Fn(&str) -> Option<FileTensor>) -> Result<Config> {
    let shape = |name: &str, rank: usize| -> Result<Vec<usize>> {
        let found = find(tensor, name)?;
        if found.shape.len() != rank || found.shape.contains(&0) {
            return Err(Error::Data(format!(
                "tensor \"{name}\" has shape {:?}: {rank} dimensions above 0 are needed",
                found.shape
            )));
        }
        Ok(found.shape)
    };
    let number = |key: &str| -> Result<Option<usize>> {
        let Some(text) = metadata.get(key) else { return Ok(None) };
        let parsed = text.trim().parse().ok().filter(|n| *n > 0);
        parsed
            .map(Some)
            .ok_or_else(|| Error::Data(format!("metadata \"{key}\" is \"{text}\": a number above 0 is needed")))
    };
    let heads = number("num_heads")?.ok_or_else(|| {
        Error::Data("metadata \"num_heads\" is missing: no tensor's shape tells the number of heads".into())
    })?;
    let position = shape("pos_embed", 3)?;
    let embed = shape("x_embedder.proj.weight", 4)?;
    let (tokens, hidden) = (position[1], position[2]);
    let (channels, patch) = (embed[1], embed[2]);
    let side = tokens.isqrt();
    if side * side != tokens {
        return Err(Error::Data(format!("tensor \"pos_embed\" has {tokens} positions: a square number is needed")));
    }
    let last = shape("final_layer.linear.weight", 2)?[0];
    if last % (patch * patch) != 0 {
        return Err(Error::Data(format!(
            "tensor \"final_layer.linear.weight\" has {last} rows: a multiple of patch·patch = {} is needed",
            patch * patch
        )));
    }
    let classes = shape("y_embedder.embedding_table.weight", 2)?[0] - 1;
    let depth = (0..).take_while(|i| tensor(&format!("blocks.{i}.attn.qkv.weight")).is_some()).count();
    let config = Config {
        depth,
        hidden,
        heads,
        mlp: shape("blocks.0.mlp.fc1.weight", 2)?[0],
        patch,
        channels,
        out_channels: last / (patch * patch),
        input_size: side * patch,
        classes,
        frequencies: shape("t_embedder.mlp.0.weight", 2)?[1],
    };
    for (key, found) in [("patch_size", patch), ("input_size", config.input_size), ("num_classes", classes)] {
        if let Some(said) = number(key)?.filter(|said| *said != found) {
            return Err(Error::Data(format!("metadata \"{key}\" is {said} but the tensors have {found}")));
        }
    }
    config.validate().map_err(|error| Error::Data(format!("the checkpoint's sizes do not fit: {error}")))?;
    Ok(config)
}

/// Name, shape in the file, dims of the global tensor.
fn expected(config: &Config) -> Vec<(String, Vec<usize>, [usize; 4])> {
    let Config { hidden, mlp, patch, channels, out_channels, classes, frequencies, .. } = *config;
    let embed = channels * patch * patch;
    let mut list = vec![
        ("x_embedder.proj.weight".to_string(), vec![hidden, channels, patch, patch], [1, hidden, 1, embed]),
        ("x_embedder.proj.bias".to_string(), vec![hidden], [1, 1, 1, hidden]),
        ("pos_embed".to_string(), vec![1, config.tokens(), hidden], [1, config.tokens(), 1, hidden]),
        ("y_embedder.embedding_table.weight".to_string(), vec![classes + 1, hidden], [1, classes + 1, 1, hidden]),
    ];
    let mut linear = |name: String, cols: usize, k: usize| {
        list.push((format!("{name}.weight"), vec![cols, k], [1, cols, 1, k]));
        list.push((format!("{name}.bias"), vec![cols], [1, 1, 1, cols]));
    };
    linear("t_embedder.mlp.0".into(), hidden, frequencies);
    linear("t_embedder.mlp.2".into(), hidden, hidden);
    for i in 0..config.depth {
        linear(format!("blocks.{i}.adaLN_modulation.1"), 6 * hidden, hidden);
        linear(format!("blocks.{i}.attn.qkv"), 3 * hidden, hidden);
        linear(format!("blocks.{i}.attn.proj"), hidden, hidden);
        linear(format!("blocks.{i}.mlp.fc1"), mlp, hidden);
        linear(format!("blocks.{i}.mlp.fc2"), hidden, mlp);
    }
    linear("final_layer.adaLN_modulation.1".into(), 2 * hidden, hidden);
    linear("final_layer.linear".into(), out_channels * patch * patch, hidden);
    list
}
