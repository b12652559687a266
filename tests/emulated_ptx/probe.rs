//! One launch of a probe kernel: inputs and outputs as words.

use seqpar::kernel::cuda::{Launch, Swizzle, TensorMap};
use serde_json::json;

use crate::emulation::device::External;
use crate::emulation::{Async, Device, Emulator, Options, Order, Outcome};

pub(crate) const SWIZZLES: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

/// Bytes of the rows of a swizzle's pattern, by its index in [`SWIZZLES`].
pub(crate) fn span(swizzle: usize) -> usize {
    16 << swizzle
}

/// `Probe` of `csrc/emu/kernels/probe.cuh`, and what its pointers point to.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) kernel: &'static str,
    pub(crate) blocks: u32,
    pub(crate) threads: u32,
    pub(crate) shared: u32,
    pub(crate) input: Vec<u32>,
    pub(crate) out_words: usize,
    pub(crate) flag: Vec<u32>,
    pub(crate) args: [i32; 6],
    pub(crate) bytes: i32,
    pub(crate) fault: i32,
    /// Its address is that of `in`, or of `out` if `map_out`.
    pub(crate) map: Option<TensorMap>,
    pub(crate) map_out: bool,
}

/// Bytes of the kernel's parameters; `in`, `out`, `flag` follow the map, then the integers.
const PARAMS: usize = 192;

pub(crate) struct Ran {
    /// Of `out`.
    pub(crate) address: u64,
    pub(crate) out: Vec<u32>,
    pub(crate) outcome: Outcome,
}

impl Probe {
    pub(crate) fn new(kernel: &'static str, threads: u32) -> Self {
        Self {
            kernel,
            blocks: 1,
            threads,
            shared: 4096,
            input: vec![0; 64],
            out_words: 64,
            flag: vec![0; 4],
            args: [0; 6],
            bytes: 0,
            fault: 0,
            map: None,
            map_out: false,
        }
    }

    pub(crate) fn faulty(&self, fault: i32) -> Self {
        Self { fault, ..self.clone() }
    }

    fn launch(&self, input: u64, out: u64, flag: u64) -> Launch {
        let mut params = vec![0; 128];
        [input, out, flag].iter().for_each(|address| params.extend(address.to_ne_bytes()));
        self.args.iter().chain([&self.bytes, &self.fault]).for_each(|i| params.extend(i.to_ne_bytes()));
        params.resize(PARAMS, 0);
        let address = if self.map_out { out } else { input };
        Launch {
            symbol: format!("probe_{}", self.kernel),
            grid: [self.blocks, 1, 1],
            block: [self.threads, 1, 1],
            shared_bytes: self.shared,
            params,
            maps: self.map.iter().map(|map| (0, TensorMap { address, ..*map })).collect(),
        }
    }

    pub(crate) fn run(&self, options: &Options) -> Ran {
        let device = Emulator::probes().device();
        let input = device.upload(&bytes(&self.input), "in");
        self.run_on(&device, input, options, None)
    }

    /// `external` learns where `in` and `flag` are.
    pub(crate) fn run_with(&self, options: &Options, mut external: impl FnMut(&Device<'_>, u64, u64) -> bool) -> Ran {
        let device = Emulator::probes().device();
        let input = device.upload(&bytes(&self.input), "in");
        self.run_on(&device, input, options, Some(&mut external))
    }

    #[allow(clippy::type_complexity)]
    pub(crate) fn run_on(
        &self,
        device: &Device<'_>,
        input: u64,
        options: &Options,
        external: Option<&mut dyn FnMut(&Device<'_>, u64, u64) -> bool>,
    ) -> Ran {
        let out = device.alloc(self.out_words * 4, "out");
        let flag = device.upload(&bytes(&self.flag), "flag");
        let launch = self.launch(input, out, flag);
        let outcome = match external {
            None => device.run(&launch, options, None),
            Some(external) => {
                let mut call = || external(device, input, flag);
                let call: External<'_> = &mut call;
                device.run(&launch, options, Some(call))
            }
        };
        Ran { address: out, out: words(&device.read(out, self.out_words * 4)), outcome }
    }
}

/// Schedules that the suite tries: every order and policy, and seeds of the random ones.
pub(crate) fn schedules() -> Vec<Options> {
    let mut all: Vec<Options> = (0..4).map(Options::seeded).collect();
    for (order, policy) in [(Order::Ascending, Async::AtOnce), (Order::Descending, Async::Late)] {
        all.push(Options { order, async_policy: policy, ..Options::seeded(all.len() as u64) });
    }
    all
}

/// How exactly the ISA states a result.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exact {
    Bits,
    /// Floats; a NaN may be any NaN.
    Nan,
    /// Floats within `relative * |want| + absolute`.
    Error {
        relative: f64,
        absolute: f64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) probe: Probe,
    pub(crate) want: Vec<u32>,
    pub(crate) exact: Exact,
}

impl Case {
    pub(crate) fn bits(name: impl Into<String>, probe: Probe, want: Vec<u32>) -> Self {
        Self { name: name.into(), probe, want, exact: Exact::Bits }
    }
}

/// Runs every case in every schedule.
pub(crate) fn conform(cases: &[Case]) {
    assert!(!cases.is_empty());
    for case in cases {
        for options in schedules() {
            let ran = case.probe.run(&options);
            assert!(ran.outcome.messages.is_empty(), "{} {options:?}\n{}", case.name, ran.outcome.messages.join("\n"));
            assert_eq!(ran.out.len(), case.want.len(), "{}", case.name);
            for (i, (&got, &want)) in ran.out.iter().zip(&case.want).enumerate() {
                assert!(
                    same(got, want, case.exact),
                    "{} {options:?}: word {i} is {got:#010x} ({}), not {want:#010x} ({})",
                    case.name,
                    f32::from_bits(got),
                    f32::from_bits(want)
                );
            }
        }
    }
}

fn same(got: u32, want: u32, exact: Exact) -> bool {
    let (x, y) = (f32::from_bits(got), f32::from_bits(want));
    match exact {
        _ if got == want => true,
        Exact::Bits => false,
        Exact::Nan => x.is_nan() && y.is_nan(),
        Exact::Error { relative, absolute } => {
            let (x, y) = (f64::from(x), f64::from(y));
            (x.is_nan() && y.is_nan()) || (x - y).abs() <= relative * y.abs() + absolute
        }
    }
}

pub(crate) fn dump(path: &str, cases: &[Case]) {
    let hex = |values: &[u32]| values.iter().map(|v| format!("{v:08x}")).collect::<String>();
    let cases: Vec<_> = cases
        .iter()
        .map(|case| {
            let p = &case.probe;
            let (exact, relative, absolute) = match case.exact {
                Exact::Bits => ("bits", 0.0, 0.0),
                Exact::Nan => ("nan", 0.0, 0.0),
                Exact::Error { relative, absolute } => ("error", relative, absolute),
            };
            let ran = p.run(&Options::seeded(1));
            assert!(ran.outcome.messages.is_empty(), "{}: {:?}", case.name, ran.outcome.messages);
            json!({
                "name": case.name, "symbol": format!("probe_{}", p.kernel), "blocks": p.blocks, "threads": p.threads,
                "shared_bytes": p.shared, "args": p.args, "bytes": p.bytes, "in": hex(&p.input), "flag": hex(&p.flag),
                "out": hex(&ran.out), "exact": exact, "relative": relative, "absolute": absolute,
                "map": p.map.map(|m| json!({
                    "of": if p.map_out { "out" } else { "in" }, "rank": m.rank, "dims": m.dims,
                    "strides_bytes": m.strides_bytes, "boxes": m.boxes,
                    "swizzle": SWIZZLES.iter().position(|s| *s == m.swizzle),
                })),
            })
        })
        .collect();
    let text = serde_json::to_string(&json!({ "cases": cases })).unwrap();
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{path}: {e}"));
}

pub(crate) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}
