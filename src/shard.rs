//! How the tokens of each segment of a sequence are cut over the ranks that share it.
//!
//! A segment (text, image queries, image keys) is cut by a [`Split`]: one [`IndexMap`] a rank,
//! from the rank's local rows to global token indices. RoPE rows, positional embeddings, masks
//! and modulation follow their tokens through the same map, so a rank that owns rows 0..2 of
//! *every* latent frame is as good as one that owns a contiguous chunk.

use std::ops::Range;

use crate::error::{Error, Result};

/// `len` consecutive local rows that hold the consecutive global tokens `start..start + len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// First global index.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
}

/// Global token index of each local row, as maximal runs in local order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct IndexMap {
    runs: Vec<Run>,
}

/// Rows of one index map that lie consecutively in another; see [`IndexMap::positions_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First local row.
    pub local: usize,
    /// Its position in the other map.
    pub position: usize,
    /// Number of rows.
    pub len: usize,
}

impl IndexMap {
    /// The contiguous tokens `range`.
    pub fn contiguous(range: Range<usize>) -> Self {
        Self::from_runs([Run { start: range.start, len: range.len() }])
    }

    /// A map from runs in local order; adjacent runs are joined and empty ones dropped.
    pub fn from_runs(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut joined: Vec<Run> = Vec::new();
        for run in runs.into_iter().filter(|run| run.len > 0) {
            match joined.last_mut() {
                Some(last) if last.start + last.len == run.start => last.len += run.len,
                _ => joined.push(run),
            }
        }
        Self { runs: joined }
    }

    /// A map from the global index of every local row.
    pub fn from_indices(indices: impl IntoIterator<Item = usize>) -> Self {
        Self::from_runs(indices.into_iter().map(|start| Run { start, len: 1 }))
    }

    /// The runs, in local order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Number of local rows.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// True if the rank holds no token of the segment.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Global index of every local row.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.runs.iter().flat_map(|run| run.start..run.start + run.len)
    }

    /// The tokens of several maps in global order: what ranks hold once they have gathered.
    pub fn union<'a>(maps: impl IntoIterator<Item = &'a IndexMap>) -> Self {
        let mut runs: Vec<Run> = maps.into_iter().flat_map(|map| map.runs.iter().copied()).collect();
        runs.sort_by_key(|run| run.start);
        Self::from_runs(runs)
    }

    /// Where this map's rows stand in `whole`, whose runs ascend (as [`IndexMap::union`] makes
    /// them) and hold every token of this map. The pieces are maximal and in local order.
    ///
    /// # Errors
    /// A token that `whole` does not hold.
    pub fn positions_in(&self, whole: &IndexMap) -> Result<Vec<Piece>> {
        let mut starts = Vec::with_capacity(whole.runs.len());
        let mut position = 0;
        for run in &whole.runs {
            starts.push(position);
            position += run.len;
        }
        let mut pieces: Vec<Piece> = Vec::new();
        let mut local = 0;
        for run in &self.runs {
            let mut at = run.start;
            let end = run.start + run.len;
            while at < end {
                let i = whole.runs.partition_point(|w| w.start + w.len <= at);
                let home = whole.runs.get(i).filter(|w| w.start <= at).ok_or_else(|| {
                    Error::Shard(format!("token {at} is on no rank of the group: the split does not hold it"))
                })?;
                let len = end.min(home.start + home.len) - at;
                let position = starts[i] + at - home.start;
                match pieces.last_mut() {
                    Some(p) if p.position + p.len == position && p.local + p.len == local => p.len += len,
                    _ => pieces.push(Piece { local, position, len }),
                }
                local += len;
                at += len;
            }
        }
        Ok(pieces)
    }
}

/// A partition of the `len` tokens of one segment over the ranks of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Split {
    len: usize,
    maps: Vec<IndexMap>,
}

impl Split {
    /// Contiguous chunks whose sizes differ by at most one, larger ones first.
    pub fn even(len: usize, ranks: usize) -> Self {
        let maps = (0..ranks).map(|rank| IndexMap::contiguous(even_range(len, ranks, rank))).collect();
        Self { len, maps }
    }

    /// Contiguous chunks of the given sizes, zeros allowed.
    pub fn counts(counts: &[usize]) -> Self {
        let mut start = 0;
        let maps = counts
            .iter()
            .map(|&count| {
                start += count;
                IndexMap::contiguous(start - count..start)
            })
            .collect();
        Self { len: start, maps }
    }

    /// Any partition.
    ///
    /// # Errors
    /// A token of `0..len` that is on no rank or on two.
    pub fn from_maps(len: usize, maps: Vec<IndexMap>) -> Result<Self> {
        let mut runs: Vec<(Run, usize)> = Vec::new();
        for (rank, map) in maps.iter().enumerate() {
            runs.extend(map.runs().iter().map(|run| (*run, rank)));
        }
        runs.sort_by_key(|(run, _)| run.start);
        let mut next = 0;
        for (run, rank) in runs {
            if run.start > next {
                return Err(Error::Shard(format!("token {next} is on no rank: add it to one index map")));
            }
            if run.start < next {
                return Err(Error::Shard(format!(
                    "token {} is on rank {rank} and on an earlier one: each token has one owner",
                    run.start
                )));
            }
            next = run.start + run.len;
        }
        if next != len {
            return Err(Error::Shard(format!("the index maps hold tokens up to {next}, but the segment has {len}")));
        }
        Ok(Self { len, maps })
    }

    /// Latent rows: the tokens are `[frames, rows, cols]`, and a rank owns a range of rows of
    /// every frame (the split of CogVideoX in xDiT), which is not contiguous in token order.
    pub fn latent_rows(frames: usize, rows: usize, cols: usize, ranks: usize) -> Self {
        let maps = (0..ranks)
            .map(|rank| {
                let own = even_range(rows, ranks, rank);
                IndexMap::from_runs(
                    (0..frames).map(|f| Run { start: (f * rows + own.start) * cols, len: own.len() * cols }),
                )
            })
            .collect();
        Self { len: frames * rows * cols, maps }
    }

    /// Tokens of the segment.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if the segment has no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ranks over which it is cut.
    pub fn ranks(&self) -> usize {
        self.maps.len()
    }

    /// The index map of one rank of the sequence. `rank` is below [`Split::ranks`].
    pub fn map(&self, rank: usize) -> &IndexMap {
        &self.maps[rank]
    }

    /// Number of tokens of one rank.
    pub fn count(&self, rank: usize) -> usize {
        self.maps[rank].len()
    }
}

/// How text joins the image in attention.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TextShard {
    /// No text.
    None,
    /// Cut over the ranks like the image.
    Split(Split),
    /// Enters and leaves whole on every rank; `len` tokens.
    Replicated(usize),
}

impl TextShard {
    /// Text tokens of the whole sequence.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Split(split) => split.len(),
            Self::Replicated(len) => *len,
        }
    }

    /// True without text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if every rank holds all of it.
    pub fn is_replicated(&self) -> bool {
        matches!(self, Self::Replicated(_))
    }

    /// The text rows that `rank` holds before and after a layer.
    pub fn map(&self, rank: usize) -> IndexMap {
        match self {
            Self::None => IndexMap::default(),
            Self::Split(split) => split.map(rank).clone(),
            Self::Replicated(len) => IndexMap::contiguous(0..*len),
        }
    }
}

/// The cut of a whole sequence: text, image queries, image keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shard {
    /// Text tokens, in front of the image.
    pub text: TextShard,
    /// Image tokens as queries, and as the rows of every token-local kernel.
    pub image: Split,
    /// Image tokens as keys; equal to `image` in self-attention.
    pub keys: Split,
}

impl Shard {
    /// Self-attention: queries and keys are the same tokens.
    ///
    /// # Errors
    /// A text split over another number of ranks, or a rank without an image token.
    pub fn new(image: Split, text: TextShard) -> Result<Self> {
        let keys = image.clone();
        Self::cross(image, keys, text)
    }

    /// Cross-attention: `keys` are other tokens than `image`; a rank may hold none of them.
    ///
    /// # Errors
    /// Splits over different numbers of ranks, or a rank without an image token.
    pub fn cross(image: Split, keys: Split, text: TextShard) -> Result<Self> {
        let ranks = image.ranks();
        let text_ranks = if let TextShard::Split(split) = &text { split.ranks() } else { ranks };
        if keys.ranks() != ranks || text_ranks != ranks {
            return Err(Error::Shard(format!(
                "image over {ranks} ranks, keys over {}, text over {text_ranks}: cut all segments over the same ranks",
                keys.ranks()
            )));
        }
        if ranks == 0 {
            return Err(Error::Shard("0 ranks: a sequence needs at least one".into()));
        }
        if let Some(rank) = (0..ranks).find(|&rank| image.count(rank) == 0) {
            return Err(Error::Shard(format!(
                "{ranks} ranks but {} image tokens: rank {rank} would hold none; use at most {} ranks",
                image.len(),
                image.len()
            )));
        }
        Ok(Self { text, image, keys })
    }

    /// Even contiguous cuts of `tokens` image and `text` text tokens.
    ///
    /// # Errors
    /// More ranks than image tokens, or none.
    pub fn even(ranks: usize, tokens: usize, keys: usize, text: usize, replicate_text: bool) -> Result<Self> {
        let text = match (text, replicate_text) {
            (0, _) => TextShard::None,
            (len, true) => TextShard::Replicated(len),
            (len, false) => TextShard::Split(Split::even(len, ranks)),
        };
        Self::cross(Split::even(tokens, ranks), Split::even(keys, ranks), text)
    }

    /// Ranks of the sequence.
    pub fn ranks(&self) -> usize {
        self.image.ranks()
    }
}

/// Part `index` of `len` things cut into `parts` ranges whose sizes differ by at most one.
pub fn even_range(len: usize, parts: usize, index: usize) -> Range<usize> {
    let (base, extra) = (len / parts, len % parts);
    let start = index * base + index.min(extra);
    start..start + base + usize::from(index < extra)
}
