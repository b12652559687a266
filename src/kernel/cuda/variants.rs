//! Every kernel as it is compiled (`csrc/ptxas.txt`), with what a launch of it takes and what it
//! spends its time on. A variant is known by its symbol, `attn_fwd_sm90_bf16_d72_m192`; blocks come
//! from the functions that the launches themselves use.

use std::sync::OnceLock;

use super::Arch;
use super::resources::{self, Resources};
use super::{adaln, attention, gemm, link, lse_merge, pack, qk_norm_rope, sum};

const TABLE: &str = include_str!("../../../csrc/ptxas.txt");

/// The head dim at which the shared memory of `qk_norm_rope` is given.
const QK_HEAD_DIM: usize = 128;

/// One kernel on one architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// What the compiler says.
    pub resources: Resources,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// What it spends its time on.
    pub work: Work,
}

/// Work by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// Attention forward.
    Attention {
        /// Channels of a head.
        head_dim: usize,
        /// Query rows of a block.
        rows: usize,
        /// Columns that are multiplied for a score, and for a row of the output.
        columns: [u32; 2],
    },
    /// A linear layer.
    Gemm {
        /// Rows of a tile.
        rows: usize,
        /// Columns of a tile.
        cols: usize,
    },
    /// Reading and writing.
    Memory,
}

/// What a launch says of each of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

/// All variants, sorted by symbol and architecture.
pub fn variants() -> &'static [Variant] {
    static VARIANTS: OnceLock<Vec<Variant>> = OnceLock::new();
    // A test holds that no line is lost here.
    VARIANTS.get_or_init(|| resources::parse(TABLE).unwrap_or_default().into_iter().filter_map(variant).collect())
}

fn variant(resources: Resources) -> Option<Variant> {
    let (block, work) = block_and_work(&resources.family, &resources.symbol)?;
    Some(Variant { resources, threads: block.threads, shared_bytes: block.shared_bytes, work })
}

fn block_and_work(family: &str, symbol: &str) -> Option<(Block, Work)> {
    let number = |letter| number(symbol, letter);
    let rows_only = |block| (block, Work::Memory);
    match family {
        "attention_sm80" => {
            let (head_dim, rows) = (number('d')?, number('m')?);
            let columns = [head_dim as u32; 2];
            Some((attention::sm80::block(head_dim, rows), Work::Attention { head_dim, rows, columns }))
        }
        "attention_sm90" => {
            let (head_dim, rows) = (number('d')?, number('m')?);
            let columns = attention::sm90::multiplied_columns(head_dim)?;
            let block = attention::sm90::block(head_dim, rows as u32)?;
            Some((block, Work::Attention { head_dim, rows, columns }))
        }
        "gemm_sm80" | "gemm_sm90" => {
            let arch = if family == "gemm_sm80" { Arch::Sm80 } else { Arch::Sm90 };
            let (rows, cols) = (number('m')?, number('n')?);
            Some((gemm::tiles::named(arch, rows, cols)?.block(), Work::Gemm { rows, cols }))
        }
        "adaln" => adaln::block(number('c')? as u32).map(rows_only),
        "qk_norm_rope" => Some(rows_only(qk_norm_rope::block(QK_HEAD_DIM))),
        "pack" => Some(rows_only(Block { threads: pack::THREADS, shared_bytes: 0 })),
        "sum" => Some(rows_only(Block { threads: sum::THREADS, shared_bytes: 0 })),
        "link" => Some(rows_only(Block { threads: link::THREADS, shared_bytes: 0 })),
        "lse_merge" => Some(rows_only(Block { threads: lse_merge::THREADS, shared_bytes: 0 })),
        _ => None,
    }
}

/// The number behind `letter` in the last words of a symbol: 144 for `n` in `..._d72_m128n144`.
fn number(symbol: &str, letter: char) -> Option<usize> {
    symbol.split('_').rev().find_map(|word| {
        let digits = &word[word.find(letter)? + 1..];
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Gpu, occupancy};
    use super::*;

    #[test]
    fn every_compiled_kernel_is_a_variant() {
        let rows = resources::parse(TABLE).unwrap();
        let unknown: Vec<_> = rows.into_iter().filter(|row| variant(row.clone()).is_none()).collect();
        assert!(unknown.is_empty(), "without a block in variants.rs: {unknown:?}");
        assert!(variants().len() > 150);
    }

    #[test]
    fn every_variant_fits_its_device() {
        for variant in variants() {
            let gpu = Gpu::of(&variant.resources.arch).unwrap();
            let occupancy = occupancy(variant, gpu);
            assert!(occupancy.blocks > 0, "{}: {occupancy:?}", variant.resources.symbol);
        }
    }

    #[test]
    fn numbers_are_read_from_the_end() {
        let symbol = "gemm_qkv_sm90_bf16_d72_m128n144";
        assert_eq!(['d', 'm', 'n'].map(|c| number(symbol, c)), [Some(72), Some(128), Some(144)]);
        assert_eq!(number("gate_residual_norm_modulate_bf16_c1152", 'c'), Some(1152));
        assert_eq!(number("pack_1_byte", 'c'), None);
    }
}
