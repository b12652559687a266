//! Bytes that launches touch, against those that their specs declare: what is touched is declared,
//! and what is declared as written is written, byte by byte (strided operands have gaps).

use std::collections::BTreeMap;
use std::ffi::c_void;

use seqpar::kernel::TensorView;
use seqpar::kernel::spec::{Mode, Operand};

use super::Outcome;

const WORDS: usize = 64;
const PAGE: u64 = 64 * WORDS as u64;

/// A set of addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bytes {
    pages: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl Bytes {
    pub fn add(&mut self, address: u64, bytes: u64) {
        for_each_word(address, bytes, |page, word, mask| {
            self.pages.entry(page).or_insert_with(|| Box::new([0; WORDS]))[word] |= mask;
        });
    }

    pub fn add_all(&mut self, other: &Self) {
        for (page, words) in &other.pages {
            let own = self.pages.entry(*page).or_insert_with(|| Box::new([0; WORDS]));
            own.iter_mut().zip(words.iter()).for_each(|(own, word)| *own |= word);
        }
    }

    /// Every element of a tensor.
    pub fn add_view(&mut self, view: &TensorView) {
        let [b, n, h, d] = view.shape;
        let elem = view.dtype.bytes();
        for i in 0..b * n * h {
            let index = [i / (n * h), i / h % n, i % h];
            let offset: usize = index.iter().zip(view.strides).map(|(i, stride)| i * stride).sum();
            self.add(view.address + (offset * elem) as u64, (d * elem) as u64);
        }
    }

    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (page, words) in &mut rest.pages {
            if let Some(gone) = other.pages.get(page) {
                words.iter_mut().zip(gone.iter()).for_each(|(word, gone)| *word &= !gone);
            }
        }
        rest.pages.retain(|_, words| words.iter().any(|word| *word != 0));
        rest
    }

    pub fn and(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// Whether an address is in both.
    pub fn meets(&self, other: &Self) -> bool {
        let both = |(page, words): (&u64, &[u64; WORDS])| {
            other.pages.get(page).is_some_and(|more| words.iter().zip(more.iter()).any(|(a, b)| a & b != 0))
        };
        self.pages.iter().map(|(page, words)| (page, &**words)).any(both)
    }

    pub fn count(&self) -> u64 {
        self.pages.values().flat_map(|words| words.iter()).map(|word| u64::from(word.count_ones())).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Maximal runs (address, length), ascending.
    pub fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (page, words) in &self.pages {
            for bit in (0..PAGE).filter(|bit| words[(bit / 64) as usize] >> (bit % 64) & 1 == 1) {
                let address = page * PAGE + bit;
                match runs.last_mut() {
                    Some((first, len)) if *first + *len == address => *len += 1,
                    _ => runs.push((address, 1)),
                }
            }
        }
        runs
    }
}

fn for_each_word(mut address: u64, mut bytes: u64, mut visit: impl FnMut(u64, usize, u64)) {
    while bytes > 0 {
        let (bit, here) = (address % 64, bytes.min(64 - address % 64));
        let mask = if here == 64 { u64::MAX } else { ((1 << here) - 1) << bit };
        visit(address / PAGE, (address % PAGE / 64) as usize, mask);
        address += here;
        bytes -= here;
    }
}

/// What launches touched.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub reads: Bytes,
    pub writes: Bytes,
    /// Words of flags that were waited for, and raised.
    pub acquired: Bytes,
    pub released: Bytes,
}

impl Touched {
    pub fn add_all(&mut self, other: &Self) {
        self.reads.add_all(&other.reads);
        self.writes.add_all(&other.writes);
        self.acquired.add_all(&other.acquired);
        self.released.add_all(&other.released);
    }

    /// `kind` as in `csrc/emu/api.h`.
    pub fn add(&mut self, address: u64, bytes: u64, kind: u32) {
        match kind {
            0 => self.reads.add(address, bytes),
            1 => self.writes.add(address, bytes),
            2 => self.acquired.add(address, bytes),
            _ => self.released.add(address, bytes),
        }
    }
}

/// Fails where launches that together compute a kernel break what it declares; those that said
/// something, or ran where nobody looks, are not held to it.
pub fn assert_declared(what: impl Fn() -> String, declared: &Declared, outcomes: &[Outcome]) {
    let mut all = Touched::default();
    for outcome in outcomes {
        let Some(touched) = outcome.touched.as_ref().filter(|_| outcome.messages.is_empty()) else { return };
        all.add_all(touched);
    }
    let breaches = declared.breaches(&all);
    assert!(breaches.is_empty(), "{}\n{}", what(), breaches.join("\n"));
}

/// The observer of `emu_observe`: `context` is a [`Watch`].
pub unsafe extern "C" fn observe(context: *mut c_void, address: u64, bytes: u64, kind: i32) {
    // SAFETY: the watch of the launch that calls back, on its thread.
    unsafe { &mut *context.cast::<Watch>() }.see(address, bytes, kind as u32);
}

const SLOTS: usize = 64;
type Page = (u64, Box<[u64; WORDS]>);

/// Collects what a launch touches; pages of late are at hand, for speed.
pub struct Watch {
    touched: Touched,
    late: [[Option<Page>; SLOTS]; 2],
}

impl Default for Watch {
    fn default() -> Self {
        Self { touched: Touched::default(), late: std::array::from_fn(|_| [const { None }; SLOTS]) }
    }
}

impl Watch {
    fn see(&mut self, address: u64, bytes: u64, kind: u32) {
        if kind > 1 {
            return self.touched.add(address, bytes, kind);
        }
        let of = if kind == 0 { &mut self.touched.reads } else { &mut self.touched.writes };
        let late = &mut self.late[kind as usize];
        for_each_word(address, bytes, |page, word, mask| {
            let slot = &mut late[page as usize % SLOTS];
            if slot.as_ref().is_none_or(|(number, _)| *number != page) {
                let words = of.pages.remove(&page).unwrap_or_else(|| Box::new([0; WORDS]));
                of.pages.extend(slot.replace((page, words)));
            }
            slot.iter_mut().for_each(|(_, words)| words[word] |= mask);
        });
    }

    pub fn touched(mut self) -> Touched {
        let [reads, writes] = self.late;
        self.touched.reads.pages.extend(reads.into_iter().flatten());
        self.touched.writes.pages.extend(writes.into_iter().flatten());
        self.touched
    }
}

/// What a spec says of its operands.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    pub reads: Bytes,
    pub writes: Bytes,
    /// Of the writes those that must happen: an update may leave elements as they are.
    pub written: Bytes,
    /// Flags that may be waited for.
    pub flags: Bytes,
}

impl Declared {
    pub fn of<'a>(operands: impl IntoIterator<Item = (&'a Operand, &'a Vec<TensorView>)>) -> Self {
        let mut declared = Self::default();
        for (operand, views) in operands {
            views.iter().for_each(|view| declared.add(operand.mode, view));
        }
        declared
    }

    pub fn add(&mut self, mode: Mode, view: &TensorView) {
        let mut bytes = Bytes::default();
        bytes.add_view(view);
        self.add_bytes(mode, &bytes);
    }

    pub fn add_bytes(&mut self, mode: Mode, bytes: &Bytes) {
        if mode.reads() {
            self.reads.add_all(bytes);
        }
        if mode.writes() {
            self.writes.add_all(bytes);
        }
        if mode == Mode::Write {
            self.written.add_all(bytes);
        }
    }

    /// What was touched and not declared, and what was declared and not written; empty: nothing.
    pub fn breaches(&self, touched: &Touched) -> Vec<String> {
        let cases = [
            ("reads, undeclared", touched.reads.minus(&self.reads)),
            ("writes, undeclared", touched.writes.minus(&self.writes)),
            ("leaves unwritten", self.written.minus(&touched.writes)),
            ("waits for a flag, undeclared", touched.acquired.minus(&self.flags)),
            ("raises a flag", touched.released.clone()),
        ];
        let told = cases.iter().filter(|(_, bytes)| !bytes.is_empty()).map(|(what, bytes)| {
            let runs = bytes.runs();
            format!("{what}: {} bytes in {} runs, the first {:x?}", bytes.count(), runs.len(), runs[0])
        });
        told.collect()
    }
}
