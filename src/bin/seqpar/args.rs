//! Commands and flags. Parsing refuses what no data could make right.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use seqpar::dtype::Dtype;
use seqpar::exec::collective::Collective;

use crate::bench::args::BenchCommand;
use crate::fault::{Fault, Result};
use crate::numbers::{self, Simulated, Wanted};
use crate::output;
use crate::report::args::ReportArgs;

/// Reads the command line; `None` if it asked for help or the version, which is printed.
pub(crate) fn parse() -> Result<Option<Command>> {
    match Cli::try_parse() {
        Ok(cli) => Ok(Some(cli.command)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                output::print(&error.render().to_string())?;
                Ok(None)
            }
            ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Err(Fault::Usage(format!("no command: {COMMANDS}")))
            }
            ErrorKind::InvalidSubcommand => {
                let text = one_line(&error.render().to_string());
                Err(Fault::Usage(format!("{text}: {COMMANDS}")))
            }
            _ => Err(Fault::Usage(one_line(&error.render().to_string()))),
        },
    }
}

/// clap's message without its usage block.
fn one_line(message: &str) -> String {
    let said = message.split("\n\nUsage:").next().unwrap_or(message);
    let said = said.split("\n\nFor more information").next().unwrap_or(said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_string()
}

const COMMANDS: &str = "use attention, layer, dit, sample, plan, simulate, bench, report, kernels or flight (`seqpar --help` explains them)";

const STRATEGIES: &str = "\
Strategies (what moves between ranks):
  single     nothing: one rank
  fastseq    all-gather of x as a ring under the projection, all-to-all of the output
  ulysses    all-to-all of q, k, v by head group, all-to-all of the output
  ring       keys and values travel around, one block under the attention of another
  usp        ulysses inside a group, ring between groups (--ulysses u --ring r)
  megatron   column- and row-parallel linears: 2 all-gathers, 2 reduce-scatters
  kv-gather  all-gather of keys and values
  auto       the fastest, simulated, of those that change no bit (--allow-reorder: of all)
single, fastseq, ulysses and kv-gather give the bits of the one-rank run. ring, usp with a ring
above 1, and megatron sum in another order: the same result to rounding, not to the bit.";

#[derive(Parser)]
#[command(
    name = "seqpar",
    version,
    about = "Sequence-parallel diffusion transformers: the same bits on any number of ranks",
    long_about = "Runs attention, transformer layers and whole diffusion transformers split over ranks. \
                  A rank is a group of threads of this process; the plan that it follows is the one that \
                  any other executor of the library would follow.",
    after_help = "Examples:\n  \
        seqpar sample --weights dit.safetensors --class 0,1,2,3 --seed 1 --steps 50 --ranks 4 --output digits.png\n  \
        seqpar plan --explain --ranks 4 --tokens 4096 --heads 16 --head-dim 72\n\n\
        Results go to stdout (with --json only JSON), progress and errors to stderr.\n\
        Exit codes: 0 done, 1 bad data, 2 bad usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Attention over q, k, v, possibly joint with text
    #[command(after_help = format!("\
Input tensors (f32, f16 or bf16, one dtype for all):
  q [B, N, H, D]   k, v [B, M, Hkv, D]   with N image tokens; M != N is cross-attention
  text_q [B, T, H, D]   text_k, text_v [B, T, Hkv, D]   (optional; the sequence is text, then image)
  key_mask [B, T+M] u8, 1 keeps a key   (optional)
Output tensors:
  out [B, N, H, D]   text_out [B, T, H, D]   lse [B, H, T+N] f32

Examples:
  seqpar attention --input qkv.safetensors --output out.safetensors
  seqpar attention --input qkv.safetensors --output out.safetensors --ranks 4 --strategy ring --trace ring.json

{STRATEGIES}
fastseq and megatron need weights: use them with `seqpar layer`."))]
    Attention(AttentionArgs),
    /// Attention layer: projection to q, k, v, attention, output projection
    #[command(after_help = format!("\
Input tensors (one float dtype for all; key_mask u8):
  x [B, N, C]   text_x [B, T, C] (optional)   key_mask [B, T+N] (optional)
  qkv_weight [(H + 2 Hkv) D, C] (rows q, k, v, each by head)   qkv_bias [(H + 2 Hkv) D]
  proj_weight [C, H D]   proj_bias [C]
  text_qkv_weight, text_qkv_bias, text_proj_weight, text_proj_bias (each optional: else text shares the above)
Output tensors:
  out [B, N, C]   text_out [B, T, C]

Examples:
  seqpar layer --heads 16 --input layer.safetensors --output out.safetensors
  seqpar layer --heads 16 --input layer.safetensors --output out.safetensors --ranks 4 --strategy fastseq

{STRATEGIES}"))]
    Layer(LayerArgs),
    /// One evaluation of a diffusion transformer
    #[command(after_help = format!("\
Weights: a DiT with the public tensor names (x_embedder.proj, blocks.0.attn.qkv, ...).
Input tensors: latent [B, C, S, S] f32, timestep [B] f32, class [B] i64 (num_classes is the null class)
Output tensor: out [B, Cout, S, S] f32

Example:
  seqpar dit --weights dit.safetensors --input in.safetensors --output out.safetensors --ranks 2 --strategy fastseq

{STRATEGIES}"))]
    Dit(DitArgs),
    /// Sample pictures with a diffusion transformer (DDIM)
    #[command(after_help = format!("\
Starts from a noise file (noise [n, C, S, S] f32, class [n] i64) or from --class and --seed.
On more than one rank it samples on one rank as well and compares the bytes; --no-verify omits that.
A trace (--trace) shows the model call of the last step.

Examples:
  seqpar sample --weights dit.safetensors --class 0,1,2,3 --seed 1 --steps 50 --output digits.png
  seqpar sample --weights dit.safetensors --noise noise.safetensors --steps 20 --cfg 2 --cfg-ranks 2 \\
      --ranks 2 --strategy ulysses --output digits.png --latents samples.safetensors

{STRATEGIES}"))]
    Sample(SampleArgs),
    /// Print the plan of a transformer layer: ops, streams, edges, bytes, memory
    #[command(after_help = format!("\
The layer is q, k, v projection, attention, output projection and an MLP of 4 C channels.

Examples:
  seqpar plan --strategy fastseq --ranks 4 --tokens 4096 --heads 16 --head-dim 72 --rank 0
  seqpar plan --explain --ranks 4 --tokens 4096 --heads 16 --head-dim 72

{STRATEGIES}"))]
    Plan(PlanArgs),
    /// The CUDA kernels: registers, shared memory, occupancy, bound; no GPU needed
    #[command(after_help = "\
One line a kernel and architecture. Figures of the compiler are of the nvcc that csrc/ptxas.txt names;
bounds are of data sheets (sm_80: A100, sm_90a: H200): no schedule is faster.

Examples:
  seqpar kernels --arch sm_90a --family attention_sm90
  seqpar kernels --json")]
    Kernels(KernelsArgs),
    /// Measure: overlap, layers, kernels, collectives
    #[command(subcommand)]
    Bench(BenchCommand),
    /// One HTML page of records: timelines, overlap, strategies, roofline
    #[command(after_help = "\
A record is what a bench command writes with --json FILE, or what a run command prints with --json.
The page is one file without references to others: it opens offline.

Examples:
  seqpar bench overlap --model dit-xl/2 --ranks 2 --json overlap.json
  seqpar layer --heads 16 --input layer.safetensors --output out.safetensors --ranks 2 --json > run.json
  seqpar report overlap.json run.json -o report.html --svg timeline.svg")]
    Report(ReportArgs),
    /// Predict the time of a model's layers, or of a collective, on a machine that need not be here
    #[command(after_help = format!("\
Runs the plans that would run there under a virtual clock. Machines: h100x8, h100x4, h200x8, a100x8, l40x8,
h100x8-ib, cpu, or the path of a machine file (docs/simulator.md). Models: those of `seqpar simulate --model help`.

Examples:
  seqpar simulate --model flux --machine h100x8 --ranks 4
  seqpar simulate --model cogvideox-5b --machine l40x8 --ranks 8 --strategy usp --ulysses 4 --ring 2 --trace usp.json
  seqpar simulate --model dit-xl/2 --machine h200x8 --ranks 2 --explain
  seqpar simulate --collective all-gather --bytes 64MiB --machine h100x8 --ranks 8

{STRATEGIES}"))]
    Simulate(SimulateArgs),
    /// Compare the flight records of ranks that failed: who did what else, or stopped, and where
    #[command(after_help = "\
A flight record is what a rank writes when it or another one fails (docs/failure.md). Give those of all
ranks: a rank without one counts as stopped. Exit code 1 if the records differ.

Example:
  seqpar flight flight-world-*.json")]
    Flight(FlightArgs),
}

/// How the text tokens lie on the ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Text {
    /// Cut over the ranks like the image
    Split,
    /// Whole on every rank before and after; computed once
    Replicate,
}

/// Ranks and strategy.
#[derive(Args)]
pub(crate) struct SpreadArgs {
    /// Ranks over which one sequence is split
    #[arg(long, value_name = "P", default_value = "1", allow_negative_numbers = true, value_parser = numbers::ranks, help_heading = "Ranks")]
    pub(crate) ranks: usize,
    /// How the sequence is split: single, fastseq, ulysses, ring, usp, megatron, kv-gather or auto
    /// [default: single on one rank, else auto]
    #[arg(long, value_name = "S", value_parser = numbers::strategy, help_heading = "Ranks")]
    pub(crate) strategy: Option<Wanted>,
    /// Ranks that share heads, for usp; times --ring it equals --ranks
    #[arg(long, value_name = "u", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) ulysses: Option<usize>,
    /// Ranks among which keys travel, for usp; times --ulysses it equals --ranks
    #[arg(long, value_name = "r", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) ring: Option<usize>,
    /// Let auto choose strategies that reorder sums
    #[arg(long, help_heading = "Ranks")]
    pub(crate) allow_reorder: bool,
    /// Link model: each transfer takes its bytes over this many gigabytes (1e9 bytes) a second
    #[arg(long, value_name = "GB/s", allow_negative_numbers = true, value_parser = numbers::rate, help_heading = "Ranks")]
    pub(crate) link_gbps: Option<f64>,
    /// Link model: each transfer takes this many microseconds more
    #[arg(long, value_name = "us", allow_negative_numbers = true, value_parser = numbers::not_negative, help_heading = "Ranks")]
    pub(crate) link_us: Option<f64>,
}

/// Flags of every command that runs.
#[derive(Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) spread: SpreadArgs,
    /// Threads over all ranks [default: one a core, at least one a rank]
    #[arg(long, value_name = "n", allow_negative_numbers = true, value_parser = numbers::ranks, help_heading = "Ranks")]
    pub(crate) threads: Option<usize>,
    /// Write a Chrome trace, for ui.perfetto.dev
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub(crate) trace: Option<PathBuf>,
    /// Seconds after which a wait for another rank is an error
    #[arg(long, value_name = "s", default_value = "60", allow_negative_numbers = true, value_parser = numbers::positive, help_heading = "Ranks")]
    pub(crate) timeout: f64,
    /// Print JSON only
    #[arg(long, help_heading = "Reports")]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct AttentionArgs {
    /// Safetensors file with q, k, v
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How text lies on the ranks; ignored without text
    #[arg(long, value_enum, default_value = "split")]
    pub(crate) text: Text,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct LayerArgs {
    /// Safetensors file with x and the weights
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Query heads
    #[arg(long, value_name = "H", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) heads: usize,
    /// Key heads [default: as --heads]
    #[arg(long, value_name = "Hkv", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) kv_heads: Option<usize>,
    /// How text lies on the ranks; ignored without text
    #[arg(long, value_enum, default_value = "split")]
    pub(crate) text: Text,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct DitArgs {
    /// Safetensors checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: PathBuf,
    /// Safetensors file with latent, timestep, class
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Safetensors file to write
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Type of all arithmetic's operands: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = numbers::dtype)]
    pub(crate) dtype: Dtype,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct SampleArgs {
    /// Safetensors checkpoint
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: PathBuf,
    /// Safetensors file with noise and class
    #[arg(long, value_name = "FILE", required_unless_present = "class", conflicts_with_all = ["class", "seed"])]
    pub(crate) noise: Option<PathBuf>,
    /// Classes, one picture each: 0,1,2
    #[arg(long, value_name = "LIST", value_delimiter = ',', required_unless_present = "noise")]
    pub(crate) class: Vec<i64>,
    /// Seed of the noise; the same on every machine
    #[arg(long, value_name = "s", default_value = "0")]
    pub(crate) seed: u64,
    /// Model evaluations per picture (and guidance half)
    #[arg(long, value_name = "k", allow_negative_numbers = true, value_parser = numbers::steps)]
    pub(crate) steps: usize,
    /// Guidance scale w: eps = eps_null + w (eps_class - eps_null) [default: no guidance]
    #[arg(long, value_name = "w", value_parser = numbers::finite, allow_negative_numbers = true)]
    pub(crate) cfg: Option<f64>,
    /// 2 runs the guidance halves at once, each on --ranks ranks of its own: the same bits
    #[arg(long, value_name = "n", requires = "cfg", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) cfg_ranks: Option<u8>,
    /// PNG to write, a grid of all pictures
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Safetensors file to write with samples [n, C, S, S]
    #[arg(long, value_name = "FILE")]
    pub(crate) latents: Option<PathBuf>,
    /// Type of all arithmetic's operands: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = numbers::dtype)]
    pub(crate) dtype: Dtype,
    /// Omit the run on one rank and the comparison with it
    #[arg(long)]
    pub(crate) no_verify: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct PlanArgs {
    /// Image tokens
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) tokens: usize,
    /// Query heads
    #[arg(long, value_name = "H", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) heads: usize,
    /// Channels of a head
    #[arg(long, value_name = "D", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) head_dim: usize,
    /// Key heads [default: as --heads]
    #[arg(long, value_name = "Hkv", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) kv_heads: Option<usize>,
    /// Channels of x [default: heads times head-dim]
    #[arg(long, value_name = "C", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) hidden: Option<usize>,
    /// Samples
    #[arg(long, value_name = "B", default_value = "1", allow_negative_numbers = true, value_parser = numbers::count)]
    pub(crate) batch: usize,
    /// Storage type: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = numbers::dtype)]
    pub(crate) dtype: Dtype,
    /// Text tokens in front of the image
    #[arg(long, value_name = "T", default_value = "0", allow_negative_numbers = true, value_parser = numbers::count_or_none)]
    pub(crate) text_tokens: usize,
    /// How text lies on the ranks; ignored without text
    #[arg(long, value_enum, default_value = "split")]
    pub(crate) text: Text,
    /// Print this rank only
    #[arg(long, value_name = "i")]
    pub(crate) rank: Option<usize>,
    /// Compare the strategies instead: bytes, messages, flops, predicted time, peak memory
    #[arg(long, conflicts_with = "rank")]
    pub(crate) explain: bool,
    /// Print JSON only
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) spread: SpreadArgs,
}

#[derive(Args)]
pub(crate) struct KernelsArgs {
    /// Kernels for this architecture only
    #[arg(long, value_name = "ARCH", value_parser = ["sm_80", "sm_90a"])]
    pub(crate) arch: Option<String>,
    /// Kernels of this family only, a source of csrc/kernels
    #[arg(long, value_name = "NAME")]
    pub(crate) family: Option<String>,
    /// JSON record of measured kernels, shown beside their bounds
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Print JSON only
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct FlightArgs {
    /// Flight records, one a rank and communicator
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Print JSON only
    #[arg(long)]
    pub(crate) json: bool,
}

/// What moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportArg {
    /// NCCL's kernels, which take SMs
    Nccl,
    /// Copy engines inside a node, for what is not summed
    CopyEngine,
}

#[derive(Args)]
pub(crate) struct SimulateArgs {
    /// Model whose layers are simulated
    #[arg(long, value_name = "NAME", required_unless_present = "collective", conflicts_with = "collective")]
    pub(crate) model: Option<String>,
    /// Collective to simulate instead: all-gather, all-to-all, reduce-scatter, all-reduce or send-recv-ring
    #[arg(long, value_name = "NAME", requires = "bytes", value_parser = numbers::collective)]
    pub(crate) collective: Option<Collective>,
    /// Its size as nccl-tests counts it: 64MiB, 1GB, 4096
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = numbers::bytes, requires = "collective")]
    pub(crate) bytes: Option<u64>,
    /// Machine: a name, or the path of a machine file
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) machine: String,
    /// Ranks, a GPU each
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = numbers::ranks, help_heading = "Ranks")]
    pub(crate) ranks: usize,
    /// How the sequence is split: a strategy, all of them, or auto [default: all]
    #[arg(long, value_name = "S", value_parser = numbers::strategies, help_heading = "Ranks")]
    pub(crate) strategy: Option<Simulated>,
    /// Ranks that share heads, for usp; times --ring it equals the ranks of one sequence
    #[arg(long, value_name = "u", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) ulysses: Option<usize>,
    /// Ranks among which keys travel, for usp
    #[arg(long, value_name = "r", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) ring: Option<usize>,
    /// 2 runs the guidance halves at once, each on half of the ranks
    #[arg(long, value_name = "n", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=2), help_heading = "Ranks")]
    pub(crate) cfg_ranks: u8,
    /// Let auto choose strategies that reorder sums
    #[arg(long, help_heading = "Ranks")]
    pub(crate) allow_reorder: bool,
    /// Stages of the ulysses pipeline: 1 exchanges all heads at once, before and after
    #[arg(long, value_name = "n", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) head_groups: Option<usize>,
    /// Image tokens, all frames together [default: the model's]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Sizes")]
    pub(crate) tokens: Option<usize>,
    /// Text tokens [default: the model's]
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = numbers::count_or_none, help_heading = "Sizes")]
    pub(crate) text_tokens: Option<usize>,
    /// Samples of one step, both guidance halves [default: the model's]
    #[arg(long, value_name = "B", allow_negative_numbers = true, value_parser = numbers::count, help_heading = "Sizes")]
    pub(crate) batch: Option<usize>,
    /// Storage type: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "bf16", value_parser = numbers::dtype, help_heading = "Sizes")]
    pub(crate) dtype: Dtype,
    /// How text lies on the ranks
    #[arg(long, value_enum, default_value = "split", help_heading = "Sizes")]
    pub(crate) text: Text,
    /// What moves the bytes on GPUs
    #[arg(long, value_enum, default_value = "nccl")]
    pub(crate) transport: TransportArg,
    /// Launch as a captured graph instead of op by op
    #[arg(long)]
    pub(crate) graph: bool,
    /// Say why the fastest is the fastest, and where fastseq and ulysses change places
    #[arg(long, conflicts_with = "collective")]
    pub(crate) explain: bool,
    /// Write the simulated layer as a Chrome trace, for ui.perfetto.dev
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub(crate) trace: Option<PathBuf>,
    /// Print JSON only
    #[arg(long, help_heading = "Reports")]
    pub(crate) json: bool,
}
