//! Safetensors in and out. What is read has passed every check that its bytes allow; what a
//! tensor must be for a command is asked by [`TensorFile::dims`] and its neighbours, whose
//! complaints name the file and the tensor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as FileDtype, TensorView};
use seqpar::dtype::Dtype;

use crate::fault::{Fault, Result};
use crate::scan;

/// One tensor as it lies in a file.
pub(crate) struct Tensor {
    pub(crate) dtype: FileDtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// All tensors of a file.
pub(crate) struct TensorFile {
    pub(crate) path: PathBuf,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Reads a file whole.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = read_whole(path)?;
        let metadata = scan::header(&bytes).map_err(|why| Fault::file(path, why))?;
        let parsed = SafeTensors::deserialize(&bytes).map_err(|error| Fault::file(path, error))?;
        let tensors = parsed.iter().map(|(name, view)| {
            let tensor = Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
            (name.to_string(), tensor)
        });
        Ok(Self { path: path.to_path_buf(), tensors: tensors.collect(), metadata })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
            let there = if names.is_empty() { "no tensor at all".into() } else { shorten(&names) };
            Fault::file(&self.path, format!("tensor \"{name}\" is missing; the file has {there}"))
        })
    }

    /// A complaint about a tensor.
    pub(crate) fn fault(&self, name: &str, why: impl std::fmt::Display) -> Fault {
        Fault::file(&self.path, format!("tensor \"{name}\" {why}"))
    }

    /// The extents of a tensor of as many dimensions as `form` (`[B, N, H, D]`) has names.
    pub(crate) fn dims<const R: usize>(&self, name: &str, form: &str) -> Result<[usize; R]> {
        let shape = &self.tensor(name)?.shape;
        let dims = <[usize; R]>::try_from(shape.as_slice())
            .map_err(|_| self.fault(name, format!("has shape {shape:?}, but {form} is needed")))?;
        if dims.contains(&0) {
            return Err(self.fault(name, format!("has shape {shape:?}: every dimension of {form} must be at least 1")));
        }
        if dims.iter().any(|&dim| dim > 1 << 30) {
            return Err(self.fault(name, format!("has shape {shape:?}: a dimension is above {}", 1u64 << 30)));
        }
        Ok(dims)
    }

    /// Refuses a tensor whose shape is not `dims`; `form` says what it stands for.
    pub(crate) fn need_shape(&self, name: &str, form: &str, dims: &[usize]) -> Result<()> {
        let shape = &self.tensor(name)?.shape;
        if shape == dims {
            return Ok(());
        }
        Err(self.fault(name, format!("has shape {shape:?}, but {form} is {dims:?} here")))
    }

    /// The one float type of the tensors `names`.
    pub(crate) fn float_dtype(&self, names: &[&str]) -> Result<Dtype> {
        let first = self.tensor(names[0])?.dtype;
        let dtype =
            float_dtype(first).ok_or_else(|| self.fault(names[0], format!("is {first:?}: use F32, F16 or BF16")))?;
        for name in names {
            let found = self.tensor(name)?.dtype;
            if found != first {
                let why = format!("is {found:?}, but \"{}\" is {first:?}: use one dtype for all", names[0]);
                return Err(self.fault(name, why));
            }
        }
        Ok(dtype)
    }

    /// Refuses a tensor that is not of exactly this type.
    pub(crate) fn need_dtype(&self, name: &str, dtype: FileDtype) -> Result<()> {
        match self.tensor(name)?.dtype {
            found if found == dtype => Ok(()),
            found => Err(self.fault(name, format!("is {found:?}, but {dtype:?} is needed"))),
        }
    }

    /// Refuses tensors that the command would not read: a misspelt optional tensor must not be
    /// left out silently.
    pub(crate) fn refuse_unknown(&self, known: &[&str]) -> Result<()> {
        match self.tensors.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(self.fault(name, format!("is unknown here; known: {}", known.join(", ")))),
        }
    }

    /// Values of an f32 tensor.
    pub(crate) fn f32_values(&self, name: &str) -> Result<Vec<f32>> {
        self.need_dtype(name, FileDtype::F32)?;
        Ok(f32_values(&self.tensor(name)?.bytes))
    }

    /// Values of an i64 tensor.
    pub(crate) fn i64_values(&self, name: &str) -> Result<Vec<i64>> {
        self.need_dtype(name, FileDtype::I64)?;
        let (values, _) = self.tensor(name)?.bytes.as_chunks::<8>();
        Ok(values.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
    }

    /// Moves the bytes of a tensor out.
    pub(crate) fn take_bytes(&mut self, name: &str) -> Result<Vec<u8>> {
        self.tensor(name)?;
        Ok(self.tensors.remove(name).map(|tensor| tensor.bytes).unwrap_or_default())
    }
}

/// The float types that the crate computes with.
pub(crate) fn float_dtype(dtype: FileDtype) -> Option<Dtype> {
    match dtype {
        FileDtype::F32 => Some(Dtype::F32),
        FileDtype::F16 => Some(Dtype::F16),
        FileDtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Little-endian f32 values.
pub(crate) fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Little-endian bytes of f32 values.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The bytes of a safetensors file with the given tensors.
pub(crate) fn serialize(tensors: &[(&str, Dtype, Vec<usize>, &[u8])]) -> Result<Vec<u8>> {
    let cannot = |error: safetensors::SafeTensorError| Fault::Data(format!("cannot encode the output: {error}"));
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let dtype = match dtype {
            Dtype::F16 => FileDtype::F16,
            Dtype::Bf16 => FileDtype::BF16,
            Dtype::I32 => FileDtype::I32,
            Dtype::U8 => FileDtype::U8,
            _ => FileDtype::F32,
        };
        views.push((*name, TensorView::new(dtype, shape.clone(), bytes).map_err(cannot)?));
    }
    safetensors::serialize(views, None).map_err(cannot)
}

fn read_whole(path: &Path) -> Result<Vec<u8>> {
    let cannot = |error: std::io::Error| Fault::file(path, format!("cannot read it: {error}"));
    let file = File::open(path).map_err(cannot)?;
    let facts = file.metadata().map_err(cannot)?;
    if !facts.is_file() {
        return Err(Fault::file(path, "is not a regular file: name a safetensors file"));
    }
    let mut bytes = Vec::new();
    let fits = usize::try_from(facts.len()).is_ok_and(|len| bytes.try_reserve_exact(len).is_ok());
    if !fits {
        return Err(Fault::file(path, format!("{} bytes do not fit into memory", facts.len())));
    }
    // A file that grows meanwhile is read up to the size that was checked.
    file.take(facts.len()).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}

fn shorten(names: &[&str]) -> String {
    let more = if names.len() > 12 { format!(" and {} more", names.len() - 12) } else { String::new() };
    format!("{}{more}", names[..names.len().min(12)].join(", "))
}
