//! Which rank talks to which: data replicas, guidance halves, ulysses and ring groups.
//!
//! Ranks are numbered `((data · cfg + c) · ring + j) · ulysses + i`: the members of a ulysses
//! group are contiguous (they share the fastest links), the members of a ring group are strided
//! by the ulysses degree, and data and guidance groups lie outside, as in the field (yunchang,
//! xDiT). No group ever holds ranks of two replicas (invariant I11 of `tests/invariants`).

use crate::error::{Error, Result};

/// Degrees of parallelism. Their product is the world size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mesh {
    /// Independent replicas.
    pub data: usize,
    /// Classifier-free guidance groups: 1, or 2 for one half each.
    pub cfg: usize,
    /// Ranks that share the ring dimension of one sequence.
    pub ring: usize,
    /// Ranks that share heads.
    pub ulysses: usize,
}

/// Where one rank stands in its mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Replica.
    pub data: usize,
    /// Guidance half.
    pub cfg: usize,
    /// Position in the ring group.
    pub ring: usize,
    /// Position in the ulysses group.
    pub ulysses: usize,
}

impl Mesh {
    /// A mesh of one sequence: `ulysses` × `ring` ranks.
    ///
    /// # Errors
    /// A degree of 0.
    pub fn new(ulysses: usize, ring: usize) -> Result<Self> {
        Self::with_replicas(1, 1, ulysses, ring)
    }

    /// A mesh of `data` replicas × `cfg` guidance groups × `ring` × `ulysses` ranks.
    ///
    /// # Errors
    /// A degree of 0, a `cfg` above 2, or more than 2^20 ranks.
    pub fn with_replicas(data: usize, cfg: usize, ulysses: usize, ring: usize) -> Result<Self> {
        if [data, cfg, ulysses, ring].contains(&0) {
            return Err(Error::Mesh(format!(
                "a degree of 0 (data {data}, cfg {cfg}, ulysses {ulysses}, ring {ring}): every degree is at least 1"
            )));
        }
        if cfg > 2 {
            return Err(Error::Mesh(format!("{cfg} guidance groups: there are two halves, use 1 or 2")));
        }
        let ranks = [data, cfg, ulysses, ring].iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        match ranks {
            Some(n) if n <= 1 << 20 => Ok(Self { data, cfg, ring, ulysses }),
            _ => Err(Error::Mesh("more than 1048576 ranks: lower a degree".into())),
        }
    }

    /// All ranks.
    pub fn world(&self) -> usize {
        self.data * self.cfg * self.sequence()
    }

    /// Ranks over which one sequence is split.
    pub fn sequence(&self) -> usize {
        self.ring * self.ulysses
    }

    /// Where `rank` stands. `rank` is below [`Mesh::world`].
    pub fn place(&self, rank: usize) -> Place {
        let outer = rank / self.sequence();
        let inner = rank % self.sequence();
        Place {
            data: outer / self.cfg,
            cfg: outer % self.cfg,
            ring: inner / self.ulysses,
            ulysses: inner % self.ulysses,
        }
    }

    /// The rank that stands at `place`.
    pub fn rank(&self, place: Place) -> usize {
        ((place.data * self.cfg + place.cfg) * self.ring + place.ring) * self.ulysses + place.ulysses
    }

    /// The ranks that share `rank`'s sequence, in order.
    pub fn sequence_group(&self, rank: usize) -> Vec<usize> {
        let first = rank - rank % self.sequence();
        (first..first + self.sequence()).collect()
    }

    /// The ranks that share heads with `rank`: contiguous.
    pub fn ulysses_group(&self, rank: usize) -> Vec<usize> {
        let place = self.place(rank);
        (0..self.ulysses).map(|ulysses| self.rank(Place { ulysses, ..place })).collect()
    }

    /// The ranks among which keys travel to `rank`: strided by the ulysses degree.
    pub fn ring_group(&self, rank: usize) -> Vec<usize> {
        let place = self.place(rank);
        (0..self.ring).map(|ring| self.rank(Place { ring, ..place })).collect()
    }

    /// The ranks that hold the same tokens as `rank` in the other guidance half, `rank` included.
    pub fn cfg_group(&self, rank: usize) -> Vec<usize> {
        let place = self.place(rank);
        (0..self.cfg).map(|cfg| self.rank(Place { cfg, ..place })).collect()
    }
}
