//! Every collective moves and reduces what it says, in every type.

use std::ffi::c_int;

use half::{bf16, f16};
use seqpar::cuda::DeviceMemory;

use crate::mock::{MODES, on_mock};
use crate::raw::{dtype, nccl};
use crate::world::{Rank, run};

const WORLD: usize = 3;
const COUNT: usize = 7;

/// The value of each rank and place.
fn value(rank: usize, at: usize) -> i32 {
    (rank as i32 + 2) * (at as i32 % 3 + 1) - 3
}

const SUM: c_int = 0;
const PRODUCT: c_int = 1;
const MAX: c_int = 2;
const MIN: c_int = 3;
const AVERAGE: c_int = 4;

fn upload(rank: &Rank, bytes: &[u8]) -> DeviceMemory {
    let memory = DeviceMemory::new(bytes.len()).unwrap();
    memory.write(0, bytes, &rank.compute).unwrap();
    memory
}

#[derive(Clone, Copy, Debug)]
enum Call {
    AllReduce,
    Reduce,
    ReduceScatter,
    Broadcast,
    AlltoAll,
    AllGather,
}

const CALLS: [Call; 6] =
    [Call::AllReduce, Call::Reduce, Call::ReduceScatter, Call::Broadcast, Call::AlltoAll, Call::AllGather];
const ROOT: usize = 1;

/// What a rank gets, from the sum of values that it sees.
fn expected(call: Call, rank: usize) -> Vec<i32> {
    let sum = |at| (0..WORLD).map(|rank| value(rank, at)).sum::<i32>();
    let all = WORLD * COUNT;
    let (mut result, len) = (vec![0; all], COUNT);
    let got: Vec<i32> = match call {
        Call::AllReduce => (0..len).map(sum).collect(),
        Call::Reduce if rank == ROOT => (0..len).map(sum).collect(),
        Call::Reduce => vec![],
        Call::ReduceScatter => (0..len).map(|at| sum(rank * len + at)).collect(),
        Call::Broadcast => (0..len).map(|at| value(ROOT, at)).collect(),
        Call::AlltoAll => (0..all).map(|at| value(at / len, rank * len + at % len)).collect(),
        Call::AllGather => (0..all).map(|at| value(at / len, at % len)).collect(),
    };
    result[..got.len()].copy_from_slice(&got);
    result
}

fn call(rank: &Rank, call: Call, dtype: c_int, op: c_int, from: u64, to: u64) {
    let (nccl, comm, raw, root) = (nccl(), rank.comm.0, rank.communication.raw, ROOT as c_int);
    // SAFETY: the mock checks addresses.
    rank.comm.done(unsafe {
        match call {
            Call::AllReduce => (nccl.ncclAllReduce)(from, to, COUNT, dtype, op, comm, raw),
            Call::Reduce => (nccl.ncclReduce)(from, to, COUNT, dtype, op, root, comm, raw),
            Call::ReduceScatter => (nccl.ncclReduceScatter)(from, to, COUNT, dtype, op, comm, raw),
            Call::Broadcast => (nccl.ncclBroadcast)(from, to, COUNT, dtype, root, comm, raw),
            Call::AlltoAll => (nccl.ncclAlltoAll)(from, to, COUNT, dtype, comm, raw),
            Call::AllGather => (nccl.ncclAllGather)(from, to, COUNT, dtype, comm, raw),
        }
    });
}

/// Bytes of a number in a type, and the number of bytes.
type Encode = fn(i32) -> Vec<u8>;

/// Small whole numbers are exact in all of them.
const TYPES: [(c_int, Encode); 8] = [
    (dtype::INT8, |x| vec![x as i8 as u8]),
    (dtype::INT32, |x| x.to_le_bytes().into()),
    (dtype::INT64, |x| i64::from(x).to_le_bytes().into()),
    (dtype::FLOAT16, |x| f16::from_f32(x as f32).to_le_bytes().into()),
    (dtype::FLOAT32, |x| (x as f32).to_le_bytes().into()),
    (dtype::FLOAT64, |x| f64::from(x).to_le_bytes().into()),
    (dtype::BFLOAT16, |x| bf16::from_f32(x as f32).to_le_bytes().into()),
    (dtype::FLOAT8E4M3, |x| vec![e4m3(x)]),
];

/// Whole numbers up to 16, by definition of the format.
fn e4m3(x: i32) -> u8 {
    let magnitude = x.unsigned_abs();
    if magnitude == 0 {
        return 0;
    }
    let exponent = magnitude.ilog2();
    assert!(magnitude.is_multiple_of(1 << exponent.saturating_sub(3)), "{x} is not exact");
    let mantissa = if exponent >= 3 { magnitude >> (exponent - 3) } else { magnitude << (3 - exponent) } & 7;
    u8::from(x < 0) << 7 | ((exponent + 7) << 3 | mantissa) as u8
}

#[test]
fn every_collective_gives_every_rank_its_part() {
    on_mock(|mock| {
        for mode in MODES {
            for (dtype, encode) in TYPES {
                mock.reset(mode, dtype as u64);
                mock.configure("devices=3 host=thread");
                run(mock, WORLD, WORLD, |rank| {
                    let bytes = |values: &[i32]| values.iter().flat_map(|&x| encode(x)).collect::<Vec<u8>>();
                    let own: Vec<i32> = (0..WORLD * COUNT).map(|at| value(rank.rank, at)).collect();
                    for which in CALLS {
                        let (from, to) = (upload(rank, &bytes(&own)), upload(rank, &bytes(&[0; WORLD * COUNT])));
                        rank.join(&rank.compute, &rank.communication.stream);
                        call(rank, which, dtype, SUM, from.address(), to.address());
                        rank.join(&rank.communication.stream, &rank.compute);
                        let mut got = vec![0; to.bytes()];
                        to.read(0, &mut got, &rank.compute).unwrap();
                        let want = bytes(&expected(which, rank.rank));
                        assert_eq!(got, want, "{which:?} type {dtype} rank {} {mode}", rank.rank);
                    }
                });
                mock.assert_clean(&format!("type {dtype} {mode}"));
            }
        }
    });
}

/// One element a rank, reduced: the values go in as rank 0, 1, 2.
fn reduced(mock: &crate::mock::Mock, dtype: c_int, op: c_int, values: [Vec<u8>; WORLD]) -> Vec<Vec<u8>> {
    mock.reset("late", 1);
    mock.configure("devices=3");
    let results = run(mock, WORLD, WORLD, |rank| {
        let own = &values[rank.rank];
        // Each rank's value three times: the chunks of three ranks.
        let memory = upload(rank, &own.repeat(WORLD));
        rank.join(&rank.compute, &rank.communication.stream);
        // SAFETY: in place, within the memory.
        rank.comm.done(unsafe {
            let at = memory.address();
            (nccl().ncclAllReduce)(at, at, WORLD, dtype, op, rank.comm.0, rank.communication.raw)
        });
        rank.join(&rank.communication.stream, &rank.compute);
        let mut got = vec![0; memory.bytes()];
        memory.read(0, &mut got, &rank.compute).unwrap();
        got
    });
    assert!(results.iter().all(|result| *result == results[0]), "all ranks have one result");
    results[0].chunks(values[0].len()).map(<[u8]>::to_vec).collect()
}

/// The sum of each chunk begins behind the rank that owns it: not in the order of the ranks, and
/// not the same for all chunks.
#[test]
fn sums_are_in_a_rotated_order() {
    on_mock(|mock| {
        let values = [1e8f32, 1.0, -1e8];
        let chunks = reduced(mock, dtype::FLOAT32, SUM, values.map(|x| x.to_le_bytes().into()));
        let sums: Vec<f32> = chunks.iter().map(|chunk| f32::from_le_bytes(chunk[..].try_into().unwrap())).collect();
        let rotated = |first: usize| (0..3).map(|i| values[(first + i) % 3]).fold(0.0, |sum, x| sum + x);
        assert_eq!(sums, [rotated(1), rotated(2), rotated(0)]);
        assert_eq!(sums, [0.0, 1.0, 0.0], "the order shows");
        // Rounded to bfloat16 after each step: 256 + 1 stays 256.
        let values = [256.0, 1.0, 1.0].map(|x| bf16::from_f32(x).to_le_bytes().into());
        let sums: Vec<f32> = reduced(mock, dtype::BFLOAT16, SUM, values)
            .iter()
            .map(|chunk| bf16::from_le_bytes(chunk[..].try_into().unwrap()).to_f32())
            .collect();
        assert_eq!(sums, [258.0, 256.0, 256.0]);
    });
}

#[test]
fn reductions_other_than_sums() {
    on_mock(|mock| {
        let whole = |op| {
            let values = [5, -3, 7].map(|x: i32| x.to_le_bytes().into());
            i32::from_le_bytes(reduced(mock, dtype::INT32, op, values)[0][..].try_into().unwrap())
        };
        assert_eq!([SUM, PRODUCT, MAX, MIN, AVERAGE].map(whole), [9, -105, 7, -3, 3]);
        let real = |op| {
            let values = [0.5, -3.0, 4.0].map(|x: f64| x.to_le_bytes().into());
            f64::from_le_bytes(reduced(mock, dtype::FLOAT64, op, values)[0][..].try_into().unwrap())
        };
        let third = 1.0 / 3.0;
        let average = (-3.0 * third + 4.0 * third) + 0.5 * third;
        assert_eq!([SUM, PRODUCT, MAX, MIN, AVERAGE].map(real), [1.5, -6.0, 4.0, -3.0, average]);
        let unsigned = reduced(mock, dtype::UINT8, SUM, [200, 100, 5].map(|x: u8| vec![x]));
        assert_eq!(unsigned[0], [49], "wraps");
        // Past the largest e4m3 (448) there is no infinity; e5m2 has one.
        let e4m3 = reduced(mock, dtype::FLOAT8E4M3, SUM, [0x7e, 0x7e, 0x00].map(|x: u8| vec![x]));
        assert_eq!(e4m3[0], [0x7f]);
        let e5m2 = reduced(mock, dtype::FLOAT8E5M2, SUM, [0x7b, 0x7b, 0x00].map(|x: u8| vec![x]));
        assert_eq!(e5m2[0], [0x7c]);
        let f16 =
            reduced(mock, dtype::FLOAT16, PRODUCT, [0.1, 0.1, 1.0].map(|x| f16::from_f32(x).to_le_bytes().into()));
        let tenth = f16::from_f32(0.1);
        assert_eq!(f16[0], f16::from_f64(tenth.to_f64() * tenth.to_f64()).to_le_bytes());
    });
}
