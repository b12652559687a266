//! `seqpar dit`: one model call on inputs from a file.

use seqpar::dtype::Dtype;

use crate::args::DitArgs;
use crate::engine::{self, Tensors};
use crate::fault::Result;
use crate::model::Model;
use crate::results::{Files, Saved};
use crate::tensors::{self, TensorFile};

pub(crate) fn run(args: &DitArgs) -> Result<()> {
    let inputs = [("--weights", args.weights.as_path()), ("--input", args.input.as_path())];
    let files = Files::claim(&args.output, args.run.trace.as_deref(), &inputs)?;
    let model = Model::read(&args.weights, args.dtype)?;
    let input = TensorFile::read(&args.input)?;
    let (dims, classes) = model.start(&input, "latent", "class")?;
    let [batch, ..] = dims;
    input.need_shape("timestep", "[B]", &[batch])?;
    let timesteps = input.f32_values("timestep")?;
    if let Some(at) = timesteps.iter().position(|t| !t.is_finite()) {
        return Err(input.fault("timestep", format!("has the value {} at index {at}: use finite ones", timesteps[at])));
    }
    let latent = input.f32_values("latent")?;
    let launch = model.launch(&args.run, batch)?;
    let mut placed = model.place(batch, &launch)?;
    let (out, facts) = placed.call(&latent, &timesteps, &classes)?;
    let [_, _, side, _] = dims;
    let shape = [batch, model.out_channels(), side, side];
    let outputs = Tensors::from([("out".to_string(), engine::tensor(Dtype::F32, shape, tensors::f32_bytes(&out))?)]);
    files.finish(args.run.json, &launch, &facts, &outputs, vec![Saved::new("out", &shape)])
}
