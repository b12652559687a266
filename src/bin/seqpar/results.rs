//! What a run on tensors leaves behind: a safetensors file, possibly a trace, and a few lines.

use std::path::Path;

use seqpar::exec::trace;

use crate::engine::{self, Facts, Tensors};
use crate::fault::Result;
use crate::output::{self, Output};
use crate::run::Launch;
use crate::summary;
use crate::tensors;

/// A tensor to write, with its shape in the file.
pub(crate) struct Saved {
    name: &'static str,
    shape: Vec<usize>,
}

impl Saved {
    pub(crate) fn new(name: &'static str, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec() }
    }
}

/// The files that a run on tensors writes.
pub(crate) struct Files {
    output: Output,
    trace: Option<Output>,
}

impl Files {
    pub(crate) fn claim(output: &Path, trace: Option<&Path>, inputs: &[(&str, &Path)]) -> Result<Self> {
        let output = Output::claim("--output", output)?;
        let trace = trace.map(|path| Output::claim("--trace", path)).transpose()?;
        let outputs: Vec<&Output> = [Some(&output), trace.as_ref()].into_iter().flatten().collect();
        output::keep_apart(&outputs, inputs)?;
        Ok(Self { output, trace })
    }

    /// Writes the results and the trace, and says so.
    pub(crate) fn finish(
        self,
        json: bool,
        launch: &Launch,
        facts: &Facts,
        outputs: &Tensors,
        results: Vec<Saved>,
    ) -> Result<()> {
        let mut encoded = Vec::new();
        for result in &results {
            let tensor = engine::output(outputs, result.name)?;
            encoded.push((result.name, tensor.dtype, result.shape.clone(), tensor.bytes.as_slice()));
        }
        let bytes = tensors::serialize(&encoded)?;
        let (path, trace_path) =
            (self.output.path().to_path_buf(), self.trace.as_ref().map(|t| t.path().to_path_buf()));
        let mut files = vec![(self.output, bytes)];
        files.extend(self.trace.map(|trace| (trace, trace::to_json(&facts.report).into_bytes())));
        output::commit(files)?;
        let listed: Vec<_> = results.into_iter().map(|result| (result.name, result.shape)).collect();
        summary::finish(json, launch, facts, &path, &listed, trace_path.as_deref())
    }
}
