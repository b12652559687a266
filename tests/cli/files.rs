//! A folder for one test, safetensors files in it, and the program run on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use seqpar::dtype::{bf16_from_f32, bf16_to_f32, f16_from_f32, f16_to_f32};

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Tensor {
    pub(crate) fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self::float(Dtype::F32, shape, values)
    }

    /// Values rounded to a float type.
    pub(crate) fn float(dtype: Dtype, shape: &[usize], values: &[f32]) -> Self {
        let bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|x| f16_from_f32(*x).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|x| bf16_from_f32(*x).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        Self { dtype, shape: shape.to_vec(), bytes }
    }

    pub(crate) fn i64(values: &[i64]) -> Self {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self { dtype: Dtype::I64, shape: vec![values.len()], bytes }
    }

    pub(crate) fn u8(shape: &[usize], values: &[u8]) -> Self {
        Self { dtype: Dtype::U8, shape: shape.to_vec(), bytes: values.to_vec() }
    }

    /// Waves that no two tensors share.
    pub(crate) fn waves(dtype: Dtype, shape: &[usize], seed: usize) -> Self {
        let count: usize = shape.iter().product();
        let wave = |i: usize| ((i * (seed + 3)) as f32 * 0.37 + seed as f32).sin();
        Self::float(dtype, shape, &(0..count).map(wave).collect::<Vec<f32>>())
    }

    pub(crate) fn values(&self) -> Vec<f64> {
        let pairs = || self.bytes.chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self.dtype {
            Dtype::F16 => pairs().map(|bits| f64::from(f16_to_f32(bits))).collect(),
            Dtype::BF16 => pairs().map(|bits| f64::from(bf16_to_f32(bits))).collect(),
            _ => self.bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        }
    }
}

pub(crate) type Tensors = BTreeMap<String, Tensor>;

pub(crate) fn named<const N: usize>(tensors: [(&str, Tensor); N]) -> Tensors {
    tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
}

/// A folder that goes away with its test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("seqpar-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, tensors: &Tensors) {
        let views = tensors
            .iter()
            .map(|(name, tensor)| (name, TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap()));
        std::fs::write(self.path(name), serialize(views, None).unwrap()).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Tensors {
        let bytes = std::fs::read(self.path(name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = |view: TensorView| Tensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        file.iter().map(|(name, view)| (name.to_string(), tensor(view))).collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Runs the program in the folder.
    pub(crate) fn run(&self, line: &str) -> Output {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub(crate) fn run_args(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_seqpar")).args(args).current_dir(&self.0).output().unwrap()
    }

    /// Runs the program, which must succeed; returns stdout.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`seqpar {line}` failed: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the program with `--json`, which must print nothing but JSON.
    pub(crate) fn json(&self, line: &str) -> serde_json::Value {
        let text = self.ok(&format!("{line} --json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("`seqpar {line}` printed no JSON ({error}): {text}"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The checkpoint of handwritten digits.
pub(crate) fn digits() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/digits-dit.safetensors").display().to_string()
}
