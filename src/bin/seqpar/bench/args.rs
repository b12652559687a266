//! Flags of `seqpar bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use seqpar::dtype::Dtype;
use seqpar::exec::collective::Collective;

use crate::args::Text;
use crate::numbers::{self, Series, Strategies};

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum BenchCommand {
    /// What each strategy hides of its communication: T_gemm, T_comm, T_seq, T_ovl, H, R
    #[command(after_help = "\
T_gemm is the compute alone with data resident, T_comm the transfers alone, T_seq one behind the
other, T_ovl the plan as it is; each is the median of the slowest rank.
  H = (T_seq - T_ovl) / min(T_comm, T_gemm)    1 where all is hidden
  R = T_ovl / T_lb - 1                         T_lb: the arrival bound of the schedule, every op as
                                               long as alone and no earlier than its edges allow
T_sim is T_ovl as the simulator has it, with the kernels as long as measured.
Without a link flag, the link is one on which T_comm is T_gemm, where hiding is hardest.

Examples:
  seqpar bench overlap --model dit-xl/2 --ranks 2 --strategy fastseq
  seqpar bench overlap --model dit-xl/2 --tokens 1k:8k --ranks 2 --json overlap.json
  seqpar bench overlap --tokens 256 --heads 16 --head-dim 8 --ranks 8 --paced cpu --ratio 0.5")]
    Overlap(OverlapArgs),
    /// A layer as it is: time, rate, bytes, and the part of the transfers under kernels
    #[command(after_help = "\
Examples:
  seqpar bench layer --model dit-xl/2 --ranks 2
  seqpar bench layer --tokens 1k:4k --heads 16 --head-dim 72 --ranks 2 --strategy fastseq,ulysses --json layer.json")]
    Layer(LayerArgs),
    /// Collectives among ranks, in the terms of nccl-tests
    #[command(after_help = "\
size: the whole array for all-gather and reduce-scatter, one rank's array for all-reduce, all slots
of a rank for all-to-all, one message for send-recv-ring; f32.
algbw = size / time; busbw = algbw times what of the size crosses a port. 1 GB = 1e9 bytes.

Examples:
  seqpar bench collectives --ranks 2 --bytes 64KiB:16MiB
  seqpar bench collectives --ranks 4 --collective all-gather,all-to-all --bytes 1MiB --link-gbps 2")]
    Collectives(CollectivesArgs),
    /// The attention kernel
    #[command(after_help = "Example: seqpar bench attention --model dit-xl/2 --tokens 1k:4k")]
    Attention(KernelArgs),
    /// The norm, modulation and gate kernels
    #[command(after_help = "Example: seqpar bench adaln --model dit-xl/2 --tokens 16k")]
    Adaln(KernelArgs),
    /// The linear layers of a model: qkv, proj, fc1, fc2
    #[command(after_help = "Example: seqpar bench gemm --model dit-xl/2 --tokens 1k:4k")]
    Gemm(KernelArgs),
}

/// Which part of a layer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PartFlag {
    /// Projection to q, k, v, attention, output projection
    Attention,
    /// The same and the MLP
    Layer,
    /// What the strategy means to overlap: fastseq's all-gather and projections, ring's attention
    Overlapped,
}

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Executor {
    /// Ranks as threads of this process
    Host,
    /// GPUs
    Cuda,
}

/// Sizes of a layer.
#[derive(Args)]
pub(crate) struct ShapeArgs {
    /// Sizes of a published model: dit-xl/2, cogvideox-5b, hunyuanvideo, wan2.1-14b, flux, stdit3, ...;
    /// each flag below replaces one of them
    #[arg(long, value_name = "NAME", help_heading = "Shape")]
    pub(crate) model: Option<String>,
    /// Image tokens: one number, a list 1k,3k or a range 1k:64k of doublings (k = 1024)
    #[arg(long, value_name = "N", value_parser = numbers::series, help_heading = "Shape")]
    pub(crate) tokens: Option<Series>,
    /// Text tokens in front of the image
    #[arg(long, value_name = "T", value_parser = numbers::count_or_none, help_heading = "Shape")]
    pub(crate) text_tokens: Option<usize>,
    /// How text lies on the ranks; ignored without text
    #[arg(long, value_enum, default_value = "split", help_heading = "Shape")]
    pub(crate) text: Text,
    /// Samples
    #[arg(long, value_name = "B", value_parser = numbers::count, help_heading = "Shape")]
    pub(crate) batch: Option<usize>,
    /// Query heads
    #[arg(long, value_name = "H", value_parser = numbers::count, help_heading = "Shape")]
    pub(crate) heads: Option<usize>,
    /// Key heads [default: as --heads]
    #[arg(long, value_name = "Hkv", value_parser = numbers::count, help_heading = "Shape")]
    pub(crate) kv_heads: Option<usize>,
    /// Channels of a head
    #[arg(long, value_name = "D", value_parser = numbers::count, help_heading = "Shape")]
    pub(crate) head_dim: Option<usize>,
    /// Channels of x [default: heads times head-dim]
    #[arg(long, value_name = "C", value_parser = numbers::count, help_heading = "Shape")]
    pub(crate) hidden: Option<usize>,
    /// Storage type: f32, f16 or bf16 [default: bf16 with --model, else f32]
    #[arg(long, value_name = "TYPE", value_parser = numbers::dtype, help_heading = "Shape")]
    pub(crate) dtype: Option<Dtype>,
}

/// How it is measured.
#[derive(Args)]
pub(crate) struct MeasureArgs {
    /// Runs of each that count, after one to warm up
    #[arg(long, value_name = "n", default_value = "100", value_parser = numbers::count, help_heading = "Measuring")]
    pub(crate) iterations: usize,
    /// Threads over all ranks [default: one a core, at least one a rank]
    #[arg(long, value_name = "n", value_parser = numbers::ranks, help_heading = "Measuring")]
    pub(crate) threads: Option<usize>,
    /// Write rows and reports as JSON, for `seqpar report`
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    pub(crate) json: Option<PathBuf>,
    /// Who runs it
    #[arg(long, value_enum, default_value = "host", help_heading = "Measuring")]
    pub(crate) executor: Executor,
}

/// How fast transfers are.
#[derive(Args)]
pub(crate) struct LinkArgs {
    /// Link model: each transfer takes its bytes over this many gigabytes (1e9 bytes) a second
    #[arg(long, value_name = "GB/s", value_parser = numbers::rate, help_heading = "Link")]
    pub(crate) link_gbps: Option<f64>,
    /// Link model: each transfer takes this many microseconds more
    #[arg(long, value_name = "us", value_parser = numbers::not_negative, help_heading = "Link")]
    pub(crate) link_us: Option<f64>,
}

/// Ranks and strategies.
#[derive(Args)]
pub(crate) struct WorldArgs {
    /// Ranks over which one sequence is split
    #[arg(long, value_name = "P", default_value = "2", value_parser = numbers::ranks, help_heading = "Ranks")]
    pub(crate) ranks: usize,
    /// One strategy, a list fastseq,ulysses or all
    #[arg(long, value_name = "S", default_value = "all", value_parser = numbers::strategy_list, help_heading = "Ranks")]
    pub(crate) strategy: Strategies,
    /// Ranks that share heads, for usp; times --ring it equals --ranks
    #[arg(long, value_name = "u", value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) ulysses: Option<usize>,
    /// Ranks among which keys travel, for usp; times --ulysses it equals --ranks
    #[arg(long, value_name = "r", value_parser = numbers::count, help_heading = "Ranks")]
    pub(crate) ring: Option<usize>,
}

#[derive(Args)]
pub(crate) struct OverlapArgs {
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
    /// Which part of a layer runs
    #[arg(long, value_enum, default_value = "attention", help_heading = "Shape")]
    pub(crate) part: PartFlag,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    /// Choose the link so that T_comm is this many times T_gemm [default: 1, without a link flag]
    #[arg(long, value_name = "x", value_parser = numbers::rate, conflicts_with_all = ["link_gbps", "link_us"], help_heading = "Link")]
    pub(crate) ratio: Option<f64>,
    /// Keep to the kernel and link rates of this machine (h100x8, ..., cpu, or a machine file), its
    /// time stretched until this host's kernels fit; times are then that machine's
    #[arg(long, value_name = "NAME|FILE", help_heading = "Measuring")]
    pub(crate) paced: Option<String>,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}

#[derive(Args)]
pub(crate) struct LayerArgs {
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    #[command(flatten)]
    pub(crate) world: WorldArgs,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}

#[derive(Args)]
pub(crate) struct CollectivesArgs {
    /// Ranks
    #[arg(long, value_name = "P", default_value = "2", value_parser = numbers::ranks, help_heading = "Ranks")]
    pub(crate) ranks: usize,
    /// all-gather, all-to-all, reduce-scatter, all-reduce, send-recv-ring [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = numbers::collective)]
    pub(crate) collective: Vec<Collective>,
    /// Sizes: one number, a list or a range of doublings: 64KiB:16MiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB:16MiB", value_parser = numbers::series)]
    pub(crate) bytes: Series,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}

#[derive(Args)]
pub(crate) struct KernelArgs {
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    #[command(flatten)]
    pub(crate) measure: MeasureArgs,
}
