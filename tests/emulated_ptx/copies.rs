//! Asynchronous copies: cp.async with zero fill, tensor boxes in 2 to 5 dimensions that reach
//! outside, plain bulk copies, groups of stores.

use seqpar::kernel::cuda::TensorMap;

use crate::probe::{Case, Probe, SWIZZLES, bytes, conform, span, words};
use crate::support::Rng;

#[test]
fn copies_conform() {
    conform(&cases());
}

/// A tensor of 16-bit elements in a buffer, and a box of it.
pub(crate) struct Boxed {
    pub(crate) map: TensorMap,
    pub(crate) buffer_bytes: usize,
    pub(crate) at: [i32; 5],
    swizzle: usize,
}

impl Boxed {
    pub(crate) fn random(rank: usize, swizzle: usize, inside: bool, rng: &mut Rng) -> Self {
        let inner = if swizzle == 0 { 8 * rng.within(1, 5) } else { span(swizzle) / 2 };
        let (mut dims, mut boxes, mut at, mut strides) = ([1u64; 5], [1u32; 5], [0i32; 5], [0u64; 4]);
        for d in 0..rank {
            let largest = [0, 0, 9, 4, 3, 2][rank];
            boxes[d] = if d == 0 { inner } else { rng.within(1, largest) } as u32;
            dims[d] = rng.within(if inside { boxes[d] as usize } else { 1 }, boxes[d] as usize + 9) as u64;
            let room = dims[d] as i32 - boxes[d] as i32;
            at[d] = if inside {
                rng.within(0, room as usize) as i32
            } else {
                rng.within(0, (dims[d] as usize + boxes[d] as usize) + 1) as i32 - boxes[d] as i32 - 1
            };
        }
        let mut pitch = (dims[0] * 2).next_multiple_of(16) + 16 * rng.below(2) as u64;
        for d in 1..rank {
            strides[d - 1] = pitch;
            pitch = pitch * dims[d] + 16 * rng.below(2) as u64;
        }
        let map = TensorMap { address: 0, rank, dims, strides_bytes: strides, boxes, swizzle: SWIZZLES[swizzle] };
        Self { map, buffer_bytes: pitch as usize, at, swizzle }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.map.boxes[..self.map.rank].iter().product::<u32>() as usize * 2
    }

    /// Calls f(byte in shared memory, byte in the buffer or none) for each element of the box.
    fn each(&self, mut f: impl FnMut(usize, Option<usize>)) {
        let rank = self.map.rank;
        for element in 0..self.bytes() / 2 {
            let (mut rest, mut global, mut inside) = (element, 0, true);
            for d in 0..rank {
                let x = (rest % self.map.boxes[d] as usize) as i64 + i64::from(self.at[d]);
                rest /= self.map.boxes[d] as usize;
                inside &= (0..self.map.dims[d] as i64).contains(&x);
                global += x * if d == 0 { 2 } else { self.map.strides_bytes[d - 1] as i64 };
            }
            // The 16-byte unit within its line of 128 bytes is exchanged by the line's number.
            let (unit, within) = (element * 2 / 16, element * 2 % 16);
            let shared = (unit ^ (unit / 8 % (span(self.swizzle) / 16))) * 16 + within;
            f(shared, inside.then_some(global as usize));
        }
    }

    fn probe(&self, kernel: &'static str) -> Probe {
        let a = self.at;
        Probe {
            shared: (self.bytes() + 2048) as u32,
            args: [self.map.rank as i32, a[0], a[1], a[2], a[3], a[4]],
            bytes: self.bytes() as i32,
            map: Some(self.map),
            ..Probe::new(kernel, 64)
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let mut rng = Rng(90);
    let mut all = cp_async(&mut rng);
    for rank in 2..=5 {
        for swizzle in 0..4 {
            for round in 0..6 {
                let boxed = Boxed::random(rank, swizzle, round == 0, &mut rng);
                let name = format!("{rank}-D box {:?} swizzle {} round {round}", boxed.at, span(swizzle));
                all.push(load(&name, &boxed, &mut rng));
                all.push(store(&name, &boxed, &mut rng));
            }
        }
    }
    for length in [16, 48, 1024, 2064] {
        let skip = 16 * rng.below(3);
        let input: Vec<u32> = (0..(length + skip) / 4).map(|_| rng.next() as u32).collect();
        let probe = Probe {
            shared: length as u32 + 2048,
            args: [1, skip as i32, 0, 0, 0, 0],
            bytes: length as i32,
            ..Probe::new("load", 64)
        };
        let want = input[skip / 4..].to_vec();
        let load = Probe { input: input.clone(), out_words: length / 4, ..probe.clone() };
        all.push(Case::bits(format!("cp.async.bulk load of {length}"), load, want.clone()));
        let mut stored = vec![u32::MAX; skip / 4];
        stored.extend(&want);
        let out_words = stored.len();
        let store = Probe { kernel: "store", input: want, out_words, ..probe };
        all.push(Case::bits(format!("cp.async.bulk store of {length}"), store, stored));
    }
    all
}

fn load(name: &str, boxed: &Boxed, rng: &mut Rng) -> Case {
    let buffer: Vec<u8> = (0..boxed.buffer_bytes.next_multiple_of(4)).map(|_| rng.next() as u8).collect();
    let mut want = vec![0; boxed.bytes()];
    boxed.each(|shared, global| {
        if let Some(global) = global {
            want[shared..shared + 2].copy_from_slice(&buffer[global..global + 2]);
        }
    });
    let probe = Probe { input: words(&buffer), out_words: boxed.bytes() / 4, ..boxed.probe("load") };
    Case::bits(format!("tensor load, {name}"), probe, words(&want))
}

fn store(name: &str, boxed: &Boxed, rng: &mut Rng) -> Case {
    let input: Vec<u32> = (0..boxed.bytes() / 4).map(|_| rng.next() as u32).collect();
    let image = bytes(&input);
    let mut want = vec![0xff; boxed.buffer_bytes.next_multiple_of(4)];
    boxed.each(|shared, global| {
        if let Some(global) = global {
            want[global..global + 2].copy_from_slice(&image[shared..shared + 2]);
        }
    });
    let probe = Probe { input, out_words: want.len() / 4, map_out: true, ..boxed.probe("store") };
    Case::bits(format!("tensor store, {name}"), probe, words(&want))
}

fn cp_async(rng: &mut Rng) -> Vec<Case> {
    let mut all = Vec::new();
    for unit in [4, 8, 16] {
        for offset in [0, 3] {
            let input: Vec<u32> = (0..2 * 64 * unit / 4).map(|_| rng.next() as u32).collect();
            let source = bytes(&input);
            let mut want = Vec::new();
            for part in 0..2 {
                for i in (0..64).rev() {
                    let there = if part == 0 { (i * 5 + offset) % (unit + 1) } else { unit };
                    let from = (part * 64 + i) * unit;
                    want.extend((0..unit).map(|b| if b < there { source[from + b] } else { 0 }));
                }
            }
            let args = [unit as i32, offset as i32, 0, 0, 0, 0];
            let probe = Probe { input, out_words: want.len() / 4, args, ..Probe::new("cp_async", 64) };
            all.push(Case::bits(format!("cp.async of {unit} bytes, {offset}"), probe, words(&want)));
        }
    }
    all
}
