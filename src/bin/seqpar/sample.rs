//! `seqpar sample`: pictures from noise.

use std::path::Path;

use indicatif::ProgressBar;
use seqpar::dit::ddim::{self, Ddim};
use seqpar::dtype::Dtype;
use seqpar::exec::{Report, trace};
use serde_json::json;

use crate::args::SampleArgs;
use crate::engine::Facts;
use crate::fault::{Fault, Result};
use crate::model::Model;
use crate::noise;
use crate::output::{self, Output};
use crate::picture;
use crate::progress;
use crate::run::Launch;
use crate::summary;
use crate::table;
use crate::tensors::{self, TensorFile};

pub(crate) fn run(args: &SampleArgs) -> Result<()> {
    let files = Files::claim(args)?;
    let model = Model::read(&args.weights, args.dtype)?;
    let start = Start::read(args, &model)?;
    picture::check(start.dims)?;
    let ddim = Ddim::new(args.steps)?;
    let mut launch = model.launch(&args.run, start.dims[0])?;
    launch.mesh.cfg = usize::from(args.cfg_ranks.unwrap_or(1));
    let verify = !args.no_verify && launch.mesh.world() > 1;

    let runs = if verify { 2 } else { 1 };
    let halves = if args.cfg.is_some() && launch.mesh.cfg == 1 { 2 } else { 1 };
    let one_halves = if args.cfg.is_some() { 2 } else { 1 };
    let calls = args.steps * (halves + if runs == 2 { one_halves } else { 0 });
    let bar = progress::bar("model calls", calls as u64, args.run.json);
    let sampled = denoise(&model, &start, &ddim, args.cfg, &launch, &bar)?;
    let alone = match verify {
        true => Some(denoise(&model, &start, &ddim, args.cfg, &launch.on_one_rank(), &bar)?),
        false => None,
    };
    bar.finish_and_clear();

    let png = picture::encode(&sampled.latents, start.dims)?;
    let verdict = alone.as_ref().map(|alone| Verdict::of(&sampled.latents, &alone.latents));
    if let Some(verdict) = &verdict
        && launch.strategy.keeps_bits(&launch.mesh)
        && !verdict.same
    {
        return Err(Fault::Data(format!(
            "{} differs from one rank by up to {:e}, though it should keep every bit: nothing was written; \
             please report this with the command",
            launch.describe(),
            verdict.largest
        )));
    }
    let latents = tensors::f32_bytes(&sampled.latents);
    files.commit(png, &latents, start.dims, &sampled.facts.report)?;
    tell(args, &launch, &sampled, alone.as_ref().zip(verdict.as_ref()))
}

/// The files that sampling writes.
struct Files {
    picture: Output,
    latents: Option<Output>,
    trace: Option<Output>,
}

impl Files {
    fn claim(args: &SampleArgs) -> Result<Self> {
        let optional = |flag: &'static str, path: Option<&Path>| path.map(|path| Output::claim(flag, path)).transpose();
        let picture = Output::claim("--output", &args.output)?;
        let latents = optional("--latents", args.latents.as_deref())?;
        let trace = optional("--trace", args.run.trace.as_deref())?;
        let outputs: Vec<&Output> = [Some(&picture), latents.as_ref(), trace.as_ref()].into_iter().flatten().collect();
        let mut inputs = vec![("--weights", args.weights.as_path())];
        inputs.extend(args.noise.as_deref().map(|noise| ("--noise", noise)));
        output::keep_apart(&outputs, &inputs)?;
        Ok(Self { picture, latents, trace })
    }

    fn commit(self, png: Vec<u8>, latents: &[u8], dims: [usize; 4], report: &Report) -> Result<()> {
        let mut files = vec![(self.picture, png)];
        if let Some(output) = self.latents {
            files.push((output, tensors::serialize(&[("samples", Dtype::F32, dims.to_vec(), latents)])?));
        }
        files.extend(self.trace.map(|output| (output, trace::to_json(report).into_bytes())));
        output::commit(files)
    }
}

/// Noise and what it should become.
struct Start {
    dims: [usize; 4],
    noise: Vec<f32>,
    classes: Vec<i32>,
}

impl Start {
    fn read(args: &SampleArgs, model: &Model) -> Result<Self> {
        if let Some(path) = &args.noise {
            let file = TensorFile::read(path)?;
            let (dims, classes) = model.start(&file, "noise", "class")?;
            return Ok(Self { dims, noise: file.f32_values("noise")?, classes });
        }
        let classes = model.classes(&args.class).map_err(|why| Fault::Usage(format!("--class {why}")))?;
        let dims = model.latent_dims(classes.len());
        picture::check(dims)?;
        Ok(Self { dims, noise: noise::normals(args.seed, dims.iter().product()), classes })
    }
}

/// Samples and the figures of all model calls.
struct Sampled {
    latents: Vec<f32>,
    /// Times and bytes of all calls; the trace of the last.
    facts: Facts,
}

/// Takes the noise through all steps.
fn denoise(
    model: &Model,
    start: &Start,
    ddim: &Ddim,
    guidance: Option<f64>,
    launch: &Launch,
    bar: &ProgressBar,
) -> Result<Sampled> {
    let count = start.dims[0];
    let together = launch.mesh.cfg == 2;
    let mut placed = model.place(count, launch)?;
    let null = vec![model.null_class(); count];
    let mut x = start.noise.clone();
    let mut facts = Facts::default();
    for (step, &t) in ddim.timesteps().iter().enumerate() {
        let mut eps_of = |x: &[f32], classes: &[i32]| -> Result<Vec<f32>> {
            let timesteps = vec![t as f32; classes.len()];
            let (out, call) = placed.call(x, &timesteps, classes)?;
            facts.add(call);
            bar.inc(1);
            Ok(first_channels(&out, start.dims, model.out_channels()))
        };
        let eps = match guidance {
            None => eps_of(&x, &start.classes)?,
            Some(scale) => {
                let (mut eps, null_eps) = if together {
                    let both = eps_of(&[x.as_slice(), &x].concat(), &[start.classes.as_slice(), &null].concat())?;
                    let (first, second) = both.split_at(x.len());
                    (first.to_vec(), second.to_vec())
                } else {
                    (eps_of(&x, &start.classes)?, eps_of(&x, &null)?)
                };
                ddim::guide(&mut eps, &null_eps, scale as f32)?;
                eps
            }
        };
        ddim.step(step, &mut x, &eps)?;
    }
    Ok(Sampled { latents: x, facts })
}

/// ε: the first C of the `out_channels` of every sample.
fn first_channels(out: &[f32], [_, channels, side, _]: [usize; 4], out_channels: usize) -> Vec<f32> {
    let pixels = side * side;
    out.chunks_exact(out_channels * pixels).flat_map(|sample| &sample[..channels * pixels]).copied().collect()
}

/// How samples compare with those of one rank.
struct Verdict {
    same: bool,
    largest: f32,
}

impl Verdict {
    fn of(a: &[f32], b: &[f32]) -> Self {
        let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        Self { same, largest: a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) }
    }

    fn words(&self) -> String {
        if self.same { "bit-identical".into() } else { format!("differs by up to {:.1e}", self.largest) }
    }
}

fn tell(args: &SampleArgs, launch: &Launch, sampled: &Sampled, alone: Option<(&Sampled, &Verdict)>) -> Result<()> {
    let path = |path: &Path| path.display().to_string();
    if args.run.json {
        let mut value = summary::figures(launch, &sampled.facts);
        value["output"] = json!(path(&args.output));
        value["latents"] = json!(args.latents.as_deref().map(path));
        value["trace"] = json!(args.run.trace.as_deref().map(path));
        value["reports"] = json!([summary::report(launch, &sampled.facts)]);
        value["steps"] = json!(args.steps);
        value["verified"] = match alone {
            Some((alone, verdict)) => json!({
                "bit_identical": verdict.same,
                "largest_difference": verdict.largest,
                "one_rank": summary::figures(&launch.on_one_rank(), &alone.facts),
            }),
            None => json!(null),
        };
        return output::print(&value.to_string());
    }
    let row = |launch: &Launch, facts: &Facts, bits: &str| {
        vec![
            launch.describe(),
            table::millis(facts.wall_ms),
            table::bytes(facts.bytes_sent.iter().sum()),
            facts.overlap().map_or("-".into(), |part| format!("{:.0} %", part * 100.0)),
            table::bytes(facts.peak_bytes.iter().copied().max().unwrap_or(0)),
            bits.to_string(),
        ]
    };
    let bits = alone.map_or("not compared".into(), |(_, verdict)| verdict.words());
    let mut rows = vec![row(launch, &sampled.facts, &bits)];
    rows.extend(alone.map(|(alone, _)| row(&launch.on_one_rank(), &alone.facts, "the reference")));
    let header = ["run", "time", "moved", "overlap", "peak a rank", "samples"];
    let mut text = table::render(&header, &rows);
    text += &format!("picture: {}\n", args.output.display());
    if let Some(latents) = &args.latents {
        text += &format!("samples: {}\n", latents.display());
    }
    if let Some(trace) = &args.run.trace {
        text += &format!("trace:   {} (last model call; open it at https://ui.perfetto.dev)\n", trace.display());
    }
    output::print(&text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_learned_variance_is_left_out() {
        // Two samples of two output channels (noise, variance) of one pixel row each.
        let out: Vec<f32> = (0..2 * 2 * 4).map(|i| i as f32).collect();
        assert_eq!(super::first_channels(&out, [2, 1, 2, 2], 2), [0.0, 1.0, 2.0, 3.0, 8.0, 9.0, 10.0, 11.0]);
    }
}
