//! Boxes of a four-dimensional buffer. Head slices and token slices of one buffer are boxes, so
//! that disjoint ones do not look like conflicts.

use std::ops::Range;

/// The elements `start[i]..end[i]` along each dimension `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// First index along each dimension.
    pub start: [u32; 4],
    /// One past the last index along each dimension.
    pub end: [u32; 4],
}

impl Region {
    /// All of a buffer.
    pub fn whole(dims: [usize; 4]) -> Self {
        Self { start: [0; 4], end: dims.map(|n| n as u32) }
    }

    /// Extents.
    pub fn extents(&self) -> [usize; 4] {
        std::array::from_fn(|i| (self.end[i].saturating_sub(self.start[i])) as usize)
    }

    /// Number of elements.
    pub fn elems(&self) -> usize {
        self.extents().iter().product()
    }

    /// True without an element.
    pub fn is_empty(&self) -> bool {
        (0..4).any(|i| self.start[i] >= self.end[i])
    }

    /// The indices `range` of this region along `dim`.
    pub fn slice(mut self, dim: usize, range: Range<usize>) -> Self {
        let start = self.start[dim];
        self.start[dim] = start + range.start as u32;
        self.end[dim] = start + range.end as u32;
        self
    }

    /// True if an element is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        (0..4).all(|i| self.start[i].max(other.start[i]) < self.end[i].min(other.end[i]))
    }

    /// True if every element of `other` is in this region.
    pub fn contains(&self, other: &Self) -> bool {
        other.is_empty() || (0..4).all(|i| self.start[i] <= other.start[i] && other.end[i] <= self.end[i])
    }

    /// The elements of this region that are not in `other`, as disjoint boxes appended to `rest`.
    pub fn subtract_into(&self, other: &Self, rest: &mut Vec<Region>) {
        if self.is_empty() {
            return;
        }
        if !self.overlaps(other) {
            rest.push(*self);
            return;
        }
        let mut inner = *self;
        for i in 0..4 {
            if inner.start[i] < other.start[i] {
                let mut below = inner;
                below.end[i] = other.start[i];
                rest.push(below);
                inner.start[i] = other.start[i];
            }
            if other.end[i] < inner.end[i] {
                let mut above = inner;
                above.start[i] = other.end[i];
                rest.push(above);
                inner.end[i] = other.end[i];
            }
        }
    }

    /// True if the elements are one run of a row-major buffer of extents `dims`.
    pub fn is_contiguous(&self, dims: [usize; 4]) -> bool {
        let extents = self.extents();
        if self.is_empty() {
            return true;
        }
        // Behind the first dimension with more than one index, everything must be whole.
        match (0..4).find(|&i| extents[i] > 1) {
            Some(first) => (first + 1..4).all(|i| extents[i] == dims[i]),
            None => true,
        }
    }

    /// Index of the first element in a row-major buffer of extents `dims`.
    pub fn offset(&self, dims: [usize; 4]) -> usize {
        (0..4).fold(0, |offset, i| offset * dims[i] + self.start[i] as usize)
    }
}
