//! Boxes of one buffer, found by overlap. Communication buffers hold one slot a rank, thousands
//! of them; slots are narrow runs, so that a lookup by first element meets only its neighbours.

use std::collections::BTreeMap;

use super::Region;

/// Boxes with a value each, of one buffer.
pub(super) struct Boxes<T> {
    dims: [usize; 4],
    next: u32,
    /// Longest run, first to last element, among `narrow`.
    longest: usize,
    narrow: BTreeMap<(usize, u32), (Region, T)>,
    /// Boxes that span more than an eighth of the buffer: looked at every time.
    wide: Vec<(Region, T)>,
}

impl<T> Boxes<T> {
    pub(super) fn new(dims: [usize; 4]) -> Self {
        Self { dims, next: 0, longest: 0, narrow: BTreeMap::new(), wide: Vec::new() }
    }

    pub(super) fn insert(&mut self, region: Region, value: T) {
        let (start, end) = span(&region, self.dims);
        if (end - start) * 8 > self.dims.iter().product() {
            self.wide.push((region, value));
        } else {
            self.longest = self.longest.max(end - start);
            self.narrow.insert((start, self.next), (region, value));
            self.next += 1;
        }
    }

    /// The boxes that share an element with `region`.
    pub(super) fn overlapping(&self, region: Region) -> impl Iterator<Item = (&Region, &T)> {
        let near = self.near(&region).map(|(_, entry)| entry);
        let all = near.chain(self.wide.iter());
        all.filter(move |(other, _)| other.overlaps(&region)).map(|(other, value)| (other, value))
    }

    /// Forgets the boxes that lie inside `region`.
    pub(super) fn remove_inside(&mut self, region: &Region) {
        self.remove_inside_if(region, |_| true);
    }

    /// Forgets those of them whose value is `superseded`.
    pub(super) fn remove_inside_if(&mut self, region: &Region, superseded: impl Fn(&T) -> bool) {
        self.wide.retain(|(other, value)| !(region.contains(other) && superseded(value)));
        let gone = |(other, value): &(Region, T)| region.contains(other) && superseded(value);
        let inside: Vec<_> = self.near(region).filter(|(_, entry)| gone(entry)).map(|(key, _)| *key).collect();
        for key in inside {
            self.narrow.remove(&key);
        }
    }

    fn near(&self, region: &Region) -> impl Iterator<Item = (&(usize, u32), &(Region, T))> + use<'_, T> {
        let (start, end) = span(region, self.dims);
        self.narrow.range((start.saturating_sub(self.longest), 0)..(end, 0))
    }
}

/// First element of a box and one past its last, in a row-major buffer.
pub(super) fn span(region: &Region, dims: [usize; 4]) -> (usize, usize) {
    if region.is_empty() {
        return (0, 0);
    }
    let last = (0..4).fold(0, |offset, i| offset * dims[i] + region.end[i] as usize - 1);
    (region.offset(dims), last + 1)
}
