//! The tiles of the linear layers' kernels and what each would cost: blocks in waves, a wave as
//! long as one tile. No choice changes a bit, so it may depend on anything.

use std::fmt;

use super::super::params::SeqparGemm;
use super::super::variants::Block;
use super::super::{Arch, Device, Launch, TensorMap};

/// One variant: rows and columns of a block's tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Code it runs on.
    pub arch: Arch,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Stages of the ring in shared memory.
    pub stages: usize,
}

const fn sm90(cols: usize, stages: usize) -> Tile {
    Tile { arch: Arch::Sm90, rows: 128, cols, stages }
}

const fn sm80(rows: usize, cols: usize) -> Tile {
    Tile { arch: Arch::Sm80, rows, cols, stages: 4 }
}

/// As in `csrc/kernels/gemm_sm90.cu` and `gemm_sm80.cu`.
const TILES: [Tile; 7] =
    [sm90(256, 3), sm90(192, 4), sm90(144, 5), sm90(128, 5), sm80(128, 128), sm80(128, 64), sm80(64, 64)];

/// The same of the kernels that transform heads, with the head dims each of them holds.
const HEAD_TILES: [(Tile, &[usize]); 9] = [
    (sm90(256, 3), &[64, 128]),
    (sm90(192, 4), &[64, 96]),
    (sm90(144, 5), &[72]),
    (sm90(128, 5), &[64, 128]),
    (sm80(128, 128), &[64]),
    (sm80(64, 64), &[64]),
    (sm80(64, 144), &[72]),
    (sm80(128, 96), &[96]),
    (sm80(128, 128), &[128]),
];

/// What is multiplied: rows of each sample of each chunk, columns of each part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows, a sample of a chunk each.
    pub rows: Vec<usize>,
    /// Columns, a part each.
    pub cols: Vec<usize>,
    /// Length of the sums.
    pub k: usize,
}

/// A tile with what the model says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The variant.
    pub tile: Tile,
    /// Tiles of the output.
    pub tiles: usize,
    /// Times that the device fills up.
    pub waves: usize,
    /// Clocks of one streaming multiprocessor until the last tile is done.
    pub cycles: f64,
    /// Share of those clocks that the tensor cores spend on elements of the output.
    pub useful: f64,
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tile, tiles, waves, cycles, useful } = self;
        let (arch, name, percent) = (tile.arch_name(), tile.name(), 100.0 * useful);
        write!(f, "gemm_{arch} {name}: {tiles} tiles in {waves} waves, {cycles:.0} cycles, {percent:.0} % useful")
    }
}

/// Every variant for this device, the best first; those of head dim `dim` where heads are transformed.
pub fn estimates(device: &Device, shape: &Shape, dim: Option<usize>) -> Vec<Estimate> {
    let of_arch = |tile: &Tile| tile.arch == device.arch;
    let tiles: Vec<Tile> = match dim {
        None => TILES.into_iter().filter(of_arch).collect(),
        Some(dim) => {
            HEAD_TILES.iter().filter(|(_, dims)| dims.contains(&dim)).map(|(t, _)| *t).filter(of_arch).collect()
        }
    };
    let mut list: Vec<Estimate> = tiles.into_iter().map(|tile| estimate(tile, device, shape)).collect();
    list.sort_by(|a, b| a.cycles.total_cmp(&b.cycles));
    list
}

/// The tile of `rows` by `cols`, of the kernels that transform heads or of the others.
pub(in super::super) fn named(arch: Arch, rows: usize, cols: usize) -> Option<Tile> {
    let mut all = TILES.iter().chain(HEAD_TILES.iter().map(|(tile, _)| tile));
    all.find(|tile| (tile.arch, tile.rows, tile.cols) == (arch, rows, cols)).copied()
}

/// The best of [`estimates`].
pub fn choose(device: &Device, shape: &Shape) -> Tile {
    estimates(device, shape, None).first().map_or(TILES[0], |best| best.tile)
}

fn estimate(tile: Tile, device: &Device, shape: &Shape) -> Estimate {
    let row_tiles: usize = shape.rows.iter().map(|rows| rows.div_ceil(tile.rows)).sum();
    let col_tiles: usize = shape.cols.iter().map(|cols| cols.div_ceil(tile.cols)).sum();
    let tiles = row_tiles * col_tiles;
    let side_by_side = device.sms.max(1) as usize * tile.blocks_per_sm();
    let waves = tiles.div_ceil(side_by_side);
    let cycles = waves as f64 * tile.cycles(shape.k);
    let elems = shape.rows.iter().sum::<usize>() * shape.cols.iter().sum::<usize>();
    let ideal = 2.0 * (elems * shape.k) as f64 / tile.flops_per_cycle() / f64::from(device.sms.max(1));
    Estimate { tile, tiles, waves, cycles, useful: if cycles > 0.0 { ideal / cycles } else { 0.0 } }
}

impl Tile {
    /// `sm90` or `sm80`.
    pub fn arch_name(&self) -> &'static str {
        match self.arch {
            Arch::Sm80 => "sm80",
            Arch::Sm90 => "sm90",
        }
    }

    /// As in the symbol.
    pub fn name(&self) -> String {
        format!("m{}n{}", self.rows, self.cols)
    }

    /// Dense half-precision rate of a streaming multiprocessor (A100, H100 data sheets).
    fn flops_per_cycle(&self) -> f64 {
        match self.arch {
            Arch::Sm80 => 2048.0,
            Arch::Sm90 => 4096.0,
        }
    }

    fn blocks_per_sm(&self) -> usize {
        match self.arch {
            Arch::Sm80 => 2,
            Arch::Sm90 => 1,
        }
    }

    /// Clocks from one tile to the next of a block whose neighbours are as busy: the slower of
    /// multiplying and loading, per 64 of k, then what of the epilogue nothing hides.
    fn cycles(&self, k: usize) -> f64 {
        let multiply = 2.0 * (self.rows * self.cols * 64) as f64 / self.flops_per_cycle();
        let bytes = ((self.rows + self.cols) * 128) as f64;
        let (load, shared, rest) = match self.arch {
            // 46 bytes a clock of each multiprocessor from the L2 cache. Staging of the sums.
            Arch::Sm90 => (bytes / 46.0, 0.0, 400.0 + 2.0 * self.cols as f64),
            // 30 bytes; warps read their operands from shared memory at 128 bytes a clock. Nothing
            // of the first loads and of the epilogue is hidden but by the other block.
            Arch::Sm80 => (bytes / 30.0, 2.0 * bytes / 128.0, 1000.0 + (self.rows * self.cols) as f64 / 16.0),
        };
        let blocks = self.blocks_per_sm() as f64;
        blocks * multiply.max(load).max(shared) * k.div_ceil(64) as f64 + rest
    }

    /// A block of the variant.
    pub(in super::super) fn block(&self) -> Block {
        Block { threads: self.threads(), shared_bytes: self.shared_bytes() as u32 }
    }

    fn threads(&self) -> u32 {
        match self.arch {
            Arch::Sm80 => 128,
            Arch::Sm90 => 384,
        }
    }

    /// `kSmemBytes` of the kernel.
    pub fn shared_bytes(&self) -> usize {
        let (rows, cols, stages) = (self.rows, self.cols, self.stages);
        let staged = rows * ((cols / 8) | 1) * 16;
        match self.arch {
            Arch::Sm80 => (stages * (rows + cols) * 64).max(staged) + cols * 4 + 16,
            Arch::Sm90 => {
                let barriers = (2 * stages + 4) * 8 + (stages + 2) * 4;
                stages * (rows + cols) * 128 + staged + cols * 4 + barriers + 1024 - 16
            }
        }
    }

    /// One block a tile, or as many as run side by side where blocks are persistent.
    pub(super) fn launch(
        &self,
        symbol: String,
        device: &Device,
        p: &SeqparGemm,
        params: &[u8],
        maps: Vec<(usize, TensorMap)>,
    ) -> Launch {
        let tiles = (p.row_tiles * p.col_tiles) as u32;
        let blocks = match self.arch {
            Arch::Sm80 => tiles,
            Arch::Sm90 => tiles.min(device.sms.max(1)),
        };
        Launch {
            symbol,
            grid: [blocks, 1, 1],
            block: [self.threads(), 1, 1],
            shared_bytes: self.shared_bytes() as u32,
            params: params.to_vec(),
            maps,
        }
    }
}
