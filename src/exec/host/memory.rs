//! The memory of a rank during a run, and the leases by which ops touch it.
//!
//! The only unsafe code of the executor. Its safety argument is the law: two ops that touch an
//! element, one of them writing, are ordered by happens-before, so no region is leased to a
//! writer while another op holds it. With `check` (on in debug builds) every lease is compared
//! with all live ones of its rank and a conflict is an error that names both ops. Whatever the
//! plan, a region outside its buffer, a write to an input and an unbound buffer are refused.
//!
//! Assumes that a [`RankMemory`] outlives the leases of its run (the executor joins its threads)
//! and that no other reference to the bound bytes is used meanwhile (it holds their borrows).
//! Tests: `tests/exec_host.rs` drops waits and expects the conflict.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::comm::local;
use crate::dtype::Dtype;
use crate::kernel::host::Tensor;
use crate::plan::memory::{ALIGNMENT_BYTES, Memory};
use crate::plan::{Access, BufferId, Plan, Region, Role};

/// Owned bytes that start on a cache line.
#[derive(Clone, Debug, Default)]
pub(super) struct Bytes {
    blocks: Vec<Block>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Block([u8; ALIGNMENT_BYTES]);

impl Bytes {
    /// `len` bytes of value `fill`.
    pub(super) fn filled(len: usize, fill: u8) -> Self {
        Self { blocks: vec![Block([fill; ALIGNMENT_BYTES]); len.div_ceil(ALIGNMENT_BYTES)], len }
    }

    /// The bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `blocks` are initialised bytes without padding (repr(C), size 64 = alignment),
        // and `len` is at most 64 times their number.
        unsafe { std::slice::from_raw_parts(self.blocks.as_ptr().cast(), self.len) }
    }

    /// The bytes, to be written.
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.blocks.as_mut_ptr().cast(), self.len) }
    }
}

/// The bytes bound to an input or output for a run.
pub(super) enum Slot<'a> {
    Read(&'a [u8]),
    Write(&'a mut [u8]),
}

/// The memory of one rank during one run.
pub(super) struct RankMemory<'a> {
    homes: Vec<Home>,
    touched: AtomicUsize,
    bound_bytes: usize,
    live: Option<Mutex<Vec<Live>>>,
    _borrows: PhantomData<&'a mut [u8]>,
}

// SAFETY: the pointers of `homes` reach bytes that this value has borrowed for 'a; every access
// through them is a lease, and leases of a lawful plan do not conflict (see the module's doc).
unsafe impl Sync for RankMemory<'_> {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for RankMemory<'_> {}

struct Home {
    base: *mut u8,
    dtype: Dtype,
    dims: [usize; 4],
    writable: bool,
    /// Its bytes in the arena, for temporaries.
    arena: Option<Range<usize>>,
}

struct Live {
    token: usize,
    op: u32,
    buffer: BufferId,
    region: Region,
    writes: bool,
}

impl<'a> RankMemory<'a> {
    /// Lays out the temporaries in `arena`, which has at least `memory.arena_bytes`, and binds
    /// `slots`, one a buffer, `None` for temporaries.
    pub(super) fn new(
        plan: &Plan,
        memory: &Memory,
        arena: &'a mut Bytes,
        slots: Vec<Option<Slot<'a>>>,
        check: bool,
    ) -> Result<Self, String> {
        let arena = arena.as_mut_slice();
        let mut homes = Vec::with_capacity(plan.buffers.len());
        let mut bound_bytes = 0;
        for (id, (buffer, slot)) in plan.buffers.iter().zip(slots).enumerate() {
            let (base, len, align, writable, place) = match (buffer.role, slot) {
                (Role::Temp, _) => {
                    let start = memory.offsets.get(id).copied().flatten().unwrap_or(usize::MAX);
                    let place = start..start.saturating_add(buffer.bytes());
                    let bytes = arena
                        .get_mut(place.clone())
                        .ok_or_else(|| format!("buffer {} has no place in the arena", buffer.name))?;
                    (bytes.as_mut_ptr(), bytes.len(), ALIGNMENT_BYTES, true, Some(place))
                }
                (Role::Input, Some(Slot::Read(bytes))) => {
                    (bytes.as_ptr().cast_mut(), bytes.len(), buffer.dtype.bytes(), false, None)
                }
                (_, Some(Slot::Write(bytes))) => {
                    (bytes.as_mut_ptr(), bytes.len(), buffer.dtype.bytes(), buffer.role == Role::Output, None)
                }
                (role, _) => return Err(format!("{role:?} buffer {} is not bound", buffer.name)),
            };
            if len != buffer.bytes() {
                return Err(format!(
                    "buffer {} has {} bytes, {:?} of {}, but {len} bytes are bound to it",
                    buffer.name,
                    buffer.bytes(),
                    buffer.dims,
                    buffer.dtype
                ));
            }
            if len > 0 && base.addr() % align != 0 {
                return Err(format!(
                    "the bytes bound to buffer {} start at an address that is no multiple of {align}: align them to {}",
                    buffer.name, buffer.dtype
                ));
            }
            bound_bytes += if place.is_none() { len } else { 0 };
            homes.push(Home { base, dtype: buffer.dtype, dims: buffer.dims, writable, arena: place });
        }
        let live = check.then(|| Mutex::new(Vec::new()));
        Ok(Self { homes, touched: AtomicUsize::new(0), bound_bytes, live, _borrows: PhantomData })
    }

    /// Leases the regions of some accesses of an op. An error names the op in the way.
    pub(super) fn lease<'m>(
        &'m self,
        plan: &Plan,
        op: u32,
        accesses: impl Iterator<Item = &'m Access> + Clone,
    ) -> Result<Lease<'m>, String> {
        let parts = accesses.clone().map(|access| self.part(plan, access)).collect::<Result<Vec<Part>, String>>()?;
        let token = self.enter(plan, op, accesses)?;
        Ok(Lease { parts, memory: self, token })
    }

    /// Most bytes used: the arena up to the last byte that an op touched, and the bound buffers.
    pub(super) fn peak_bytes(&self) -> usize {
        self.touched.load(Ordering::Relaxed) + self.bound_bytes
    }

    fn part(&self, plan: &Plan, access: &Access) -> Result<Part, String> {
        let name = &plan.buffers[access.buffer.0 as usize].name;
        let home = &self.homes[access.buffer.0 as usize];
        let region = &access.region;
        if (0..4).any(|i| region.start[i] > region.end[i] || region.end[i] as usize > home.dims[i]) {
            return Err(format!("{:?}..{:?} lies outside of buffer {name} {:?}", region.start, region.end, home.dims));
        }
        if access.mode.writes() && !home.writable {
            return Err(format!("writes to buffer {name}, an input"));
        }
        let contiguous = region.is_contiguous(home.dims);
        let strides = if access.shape == region.extents() {
            row_major(home.dims)
        } else if contiguous && access.shape.iter().product::<usize>() == region.elems() {
            row_major(access.shape)
        } else {
            return Err(format!(
                "sees {:?} of buffer {name} as {:?}: only a contiguous region has another shape of as many elements",
                region.extents(),
                access.shape
            ));
        };
        let size = home.dtype.bytes();
        let offset = if region.is_empty() { 0 } else { region.offset(home.dims) * size };
        if let (Some(arena), false) = (&home.arena, region.is_empty()) {
            let last = Region { start: region.end.map(|end| end - 1), end: region.end };
            let end = arena.start + (last.offset(home.dims) + 1) * size;
            self.touched.fetch_max(end.next_multiple_of(ALIGNMENT_BYTES), Ordering::Relaxed);
        }
        // SAFETY: the region lies inside the buffer, whose bytes start at `base`: so does its
        // first element (or the buffer's start, for an empty region).
        let base = unsafe { home.base.add(offset) };
        Ok(Part { base, dtype: home.dtype, shape: access.shape, strides, contiguous, writes: access.mode.writes() })
    }

    /// Enters the accesses among the live leases, or names the one in the way.
    fn enter<'m>(
        &self,
        plan: &Plan,
        op: u32,
        accesses: impl Iterator<Item = &'m Access>,
    ) -> Result<Option<usize>, String> {
        let Some(live) = &self.live else { return Ok(None) };
        let mut live = live.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let token = live.last().map_or(0, |last| last.token + 1);
        let before = live.len();
        for access in accesses {
            let new = Live { token, op, buffer: access.buffer, region: access.region, writes: access.mode.writes() };
            if let Some(other) = live[..before].iter().find(|other| self.conflict(&new, other)) {
                let name = |id: BufferId| &plan.buffers[id.0 as usize].name;
                let why = format!(
                    "touches {:?}..{:?} of buffer {} while op \"{}\" {} {:?}..{:?} of buffer {}: nothing orders them",
                    new.region.start,
                    new.region.end,
                    name(new.buffer),
                    plan.labels[plan.ops[other.op as usize].label as usize],
                    if other.writes { "writes" } else { "reads" },
                    other.region.start,
                    other.region.end,
                    name(other.buffer),
                );
                live.truncate(before);
                return Err(why);
            }
            live.push(new);
        }
        Ok(Some(token))
    }

    fn conflict(&self, a: &Live, b: &Live) -> bool {
        if !(a.writes || b.writes) || a.region.is_empty() || b.region.is_empty() {
            return false;
        }
        if a.buffer == b.buffer {
            return a.region.overlaps(&b.region);
        }
        let arena = |live: &Live| self.homes[live.buffer.0 as usize].arena.clone();
        arena(a).zip(arena(b)).is_some_and(|(a, b)| a.start < b.end && b.start < a.end)
    }
}

/// The regions that an op holds, until dropped.
pub(super) struct Lease<'m> {
    /// One an access, in order.
    pub(super) parts: Vec<Part>,
    memory: &'m RankMemory<'m>,
    token: Option<usize>,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let (Some(live), Some(token)) = (&self.memory.live, self.token) {
            live.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).retain(|entry| entry.token != token);
        }
    }
}

/// A leased region.
#[derive(Clone)]
pub(super) struct Part {
    base: *mut u8,
    dtype: Dtype,
    shape: [usize; 4],
    strides: [usize; 4],
    contiguous: bool,
    writes: bool,
}

// SAFETY: a part is used by the op that leased it and by the receivers of that op's messages,
// all of which end before the lease does; the bytes behind it belong to no thread.
unsafe impl Send for Part {}
// SAFETY: shared access only reads, and the lease rules out a concurrent writer.
unsafe impl Sync for Part {}

impl Part {
    /// The region as a kernel sees it.
    pub(super) fn tensor(&self) -> Tensor {
        // SAFETY: base, shape and strides stay inside the buffer (checked in `part`), which is
        // aligned for its dtype and lives as long as the run; the lease orders its accesses.
        unsafe { Tensor::new(self.base, self.dtype, self.shape, self.strides) }
    }

    /// True if an op may write it.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// True if it is one run of bytes, as messages must be.
    pub(super) fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bytes()
    }

    /// A copy of its bytes, row-major.
    pub(super) fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        self.for_each_row(|row| bytes.extend_from_slice(row));
        bytes
    }

    /// Writes all its bytes, row-major. False, and nothing written, if it may not be written or
    /// the lengths differ.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        if !self.writes || bytes.len() != self.len() {
            return false;
        }
        let mut rest = bytes;
        self.for_each_row_mut(|row| {
            let (head, tail) = rest.split_at(row.len());
            row.copy_from_slice(head);
            rest = tail;
        });
        true
    }

    /// Copies `source`, of equal shape and dtype, here. False, and nothing copied, if they
    /// differ or this may not be written.
    pub(super) fn copy_from(&mut self, source: &Part) -> bool {
        if !self.writes || (self.shape, self.dtype) != (source.shape, source.dtype) {
            return false;
        }
        let row_bytes = self.shape[3] * self.dtype.bytes();
        for index in rows(self.shape) {
            let (to, from) = (self.row(index), source.row(index));
            // SAFETY: both rows lie inside leased regions (see `tensor`); `copy` allows overlap.
            unsafe { std::ptr::copy(from, to, row_bytes) };
        }
        true
    }

    fn row(&self, index: [usize; 3]) -> *mut u8 {
        let elems: usize = index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum();
        self.base.wrapping_add(elems * self.dtype.bytes())
    }

    fn for_each_row(&self, mut visit: impl FnMut(&[u8])) {
        for index in rows(self.shape) {
            // SAFETY: the row is `shape[3]` elements of stride 1 inside the leased region.
            visit(unsafe { std::slice::from_raw_parts(self.row(index), self.shape[3] * self.dtype.bytes()) });
        }
    }

    fn for_each_row_mut(&mut self, mut visit: impl FnMut(&mut [u8])) {
        for index in rows(self.shape) {
            // SAFETY: as above; `write` has checked that the lease allows writing.
            visit(unsafe { std::slice::from_raw_parts_mut(self.row(index), self.shape[3] * self.dtype.bytes()) });
        }
    }
}

impl local::Lease for Part {
    fn bytes(&self) -> &[u8] {
        // SAFETY: messages are contiguous (the executor refuses others), so base and length span
        // the leased region; the lease of the op rules out a concurrent writer.
        unsafe { std::slice::from_raw_parts(self.base, self.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        debug_assert!(self.writes);
        // SAFETY: as above; the transport writes only to the receiving transfers of an op, which
        // its lease holds for writing.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len()) }
    }
}

/// Indices of the rows along the last dimension.
fn rows(shape: [usize; 4]) -> impl Iterator<Item = [usize; 3]> {
    let inner = if shape[3] == 0 { 0 } else { shape[0] };
    (0..inner).flat_map(move |a| (0..shape[1]).flat_map(move |b| (0..shape[2]).map(move |c| [a, b, c])))
}

fn row_major(dims: [usize; 4]) -> [usize; 4] {
    [dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1]
}
