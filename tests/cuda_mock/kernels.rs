//! Kernels through the driver: the same bits as by the emulation alone; what a kernel touches is
//! known from its accesses, so a missing wait before or after it is found.

use seqpar::cuda::{DeviceMemory, Event, Priority, Stream, copy_device_to_device, write_value};
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::Kernels;
use seqpar::kernel::cuda::{Arch, AttentionOptions, Gate, Launch, attention_launches};
use seqpar::kernel::spec::{Attention, Epilogue, Gemm, Kernel, KeySegment, Modulation, Norm, NormModulate};

use crate::emulation::{Emulator, How, emulate};
use crate::mock::operands::{Operands, run};
use crate::mock::workload::context;
use crate::mock::{MODES, on_mock};
use crate::support::Rng;
use crate::support::tensors::{Values, assert_same, random_operands};

const DTYPE: Dtype = Dtype::Bf16;

fn norm() -> Kernel {
    let (norm, modulation) = (Norm::Layer, Modulation::PerSample);
    Kernel::NormModulate(NormModulate { dtype: DTYPE, batch: 2, rows: 5, hidden: 376, norm, eps: 1e-6, modulation })
}

fn attention(queries: usize, keys: &[usize]) -> Attention {
    Attention {
        dtype: DTYPE,
        batch: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 64,
        first_head: 0,
        first_kv_head: 0,
        group: 1,
        scale: 0.125,
        queries: vec![queries],
        keys: keys.iter().map(|&len| KeySegment { len, base: 0, stream: 1 }).collect(),
        key_mask: false,
        key_len: false,
        carry_in: false,
        carry_out: false,
    }
}

fn kernels_of_each_family() -> [Kernel; 3] {
    let gemm = Gemm::linear(DTYPE, 1, 70, 96, 72, true, Epilogue::Gelu);
    [norm(), Kernel::Attention(attention(70, &[9, 130])), Kernel::Gemm(gemm)]
}

fn load(context: &seqpar::cuda::Context) -> Kernels {
    // SAFETY: the mock does not read images.
    unsafe { Kernels::load(context, &[b"any image"]) }.unwrap()
}

#[test]
fn every_kernel_of_the_device_can_be_prepared() {
    on_mock(|mock| {
        for capability in [80, 90] {
            mock.configure(&format!("capability={capability}"));
            let context = context();
            let kernels = load(&context);
            let mut refused = 0;
            for symbol in Emulator::shared().symbols().into_iter().filter(|s| !s.starts_with("probe")) {
                let [grid, block] = [[1; 3]; 2];
                let (params, maps) = (Vec::new(), Vec::new());
                let prepared = kernels.prepare(&Launch {
                    symbol: symbol.clone(),
                    grid,
                    block,
                    shared_bytes: 60 << 10,
                    params,
                    maps,
                });
                refused += usize::from(prepared.is_err());
                assert_eq!(prepared.is_ok(), capability == 90 || !symbol.contains("sm90"), "{symbol}");
            }
            assert_eq!(refused > 0, capability == 80);
        }
        mock.assert_clean("preparing");
    });
}

#[test]
fn launches_give_the_bits_of_the_emulation() {
    on_mock(|mock| {
        for (capability, arch) in [(80, Arch::Sm80), (90, Arch::Sm90)] {
            mock.configure(&format!("capability={capability}"));
            let context = context();
            let kernels = load(&context);
            let mut rng = Rng(7);
            for kernel in kernels_of_each_family() {
                let inputs = random_operands(&kernel, &mut rng);
                let want = emulate(&kernel, &inputs, &How::seeded(arch, 1));
                for mode in MODES {
                    mock.reset(mode, 2);
                    let stream = Stream::new(Priority::Low).unwrap();
                    let operands = Operands::new(&kernel, &inputs, &stream).unwrap();
                    let launches = operands.launches(&kernel, &kernels).unwrap();
                    assert_eq!(
                        launches.iter().any(|l| l.symbol.contains("sm90")),
                        arch == Arch::Sm90 && kernel != norm()
                    );
                    run(&kernels, &launches, &stream).unwrap();
                    for (i, operand) in kernel.operands().iter().enumerate() {
                        if operand.mode.writes() {
                            assert_same(operand.name, &operands.read(i, &stream).unwrap(), &want[i]);
                        }
                    }
                    mock.assert_clean(&format!("{} {mode}", kernel.name()));
                }
            }
        }
    });
}

/// x is copied on one stream, the kernel runs on another, its result is overwritten on a third.
#[test]
fn a_missing_wait_around_a_kernel_is_reported() {
    on_mock(|mock| {
        let context = context();
        let kernels = load(&context);
        let kernel = norm();
        let inputs = random_operands(&kernel, &mut Rng(3));
        for mode in MODES {
            for seed in 0..3 {
                for dropped in [None, Some(0), Some(1)] {
                    mock.reset(mode, seed);
                    let [before, compute, after] = [(); 3].map(|()| Stream::new(Priority::Low).unwrap());
                    let operands = Operands::new(&kernel, &inputs, &before).unwrap();
                    let zeros = DeviceMemory::new(64).unwrap();
                    zeros.fill(0, &before).unwrap();
                    before.synchronize().unwrap();
                    let launches = operands.launches(&kernel, &kernels).unwrap();
                    let [first, second] = [(); 2].map(|()| Event::new(false).unwrap());
                    let (x, y) = (operands.views[0][0].address, operands.views[1][0].address);
                    // SAFETY: both operands are alive; what is unordered is plain bytes.
                    unsafe { copy_device_to_device(x, zeros.address(), 64, &before).unwrap() };
                    first.record(&before).unwrap();
                    if dropped != Some(0) {
                        compute.wait(&first).unwrap();
                    }
                    run(&kernels, &launches, &compute).unwrap();
                    second.record(&compute).unwrap();
                    if dropped != Some(1) {
                        after.wait(&second).unwrap();
                    }
                    // SAFETY: as above.
                    unsafe { copy_device_to_device(y, zeros.address(), 64, &after).unwrap() };
                    context.synchronize().unwrap();
                    let races =
                        mock.reports().iter().filter(|r| r.starts_with("RACE") && r.contains("norm_modulate")).count();
                    assert_eq!(races > 0, dropped.is_some(), "{mode} {seed} {dropped:?}: {:?}", mock.reports());
                }
            }
        }
    });
}

/// Attention whose key segments stand behind flags that copies on another stream set.
struct Gated {
    operands: Operands,
    launches: Vec<Launch>,
    flags: DeviceMemory,
    status: DeviceMemory,
}

impl Gated {
    fn new(spec: &Attention, inputs: &[Values], kernels: &Kernels, stream: &Stream) -> Self {
        let kernel = Kernel::Attention(spec.clone());
        let operands = Operands::new(&kernel, inputs, stream).unwrap();
        let (flags, status) = (DeviceMemory::new(64).unwrap(), DeviceMemory::new(64).unwrap());
        flags.fill(0, stream).unwrap();
        status.fill(0, stream).unwrap();
        stream.synchronize().unwrap();
        let gate = |i| Some(Gate { flag: flags.address() + 4 * i as u64, epoch: 1 });
        let options = AttentionOptions {
            row_tile: None,
            gates: (0..spec.keys.len()).map(gate).collect(),
            status: status.address(),
            timeout_ns: 1_000_000,
        };
        let launches = attention_launches(spec, &operands.views, &kernels.device(), &options).unwrap();
        Self { operands, launches, flags, status }
    }
}

#[test]
fn a_kernel_that_waits_inside_is_overtaken_by_the_copies_it_waits_for() {
    on_mock(|mock| {
        let context = context();
        let kernels = load(&context);
        let spec = attention(70, &[40, 30]);
        let kernel = Kernel::Attention(spec.clone());
        let inputs = random_operands(&kernel, &mut Rng(5));
        let want = emulate(&kernel, &inputs, &How::seeded(Arch::Sm90, 1));
        for mode in MODES {
            for arrives in [2, 1] {
                mock.reset(mode, 4);
                // Nothing is waited for where all arrive.
                mock.configure(if arrives == 1 { "deadlock_s=0.5" } else { "deadlock_s=30" });
                let [compute, other] = [(); 2].map(|()| Stream::new(Priority::Low).unwrap());
                let gated = Gated::new(&spec, &inputs, &kernels, &compute);
                // Before any flag is set: eagerly, the kernel is in the middle of its wait.
                run(&kernels, &gated.launches, &compute).unwrap();
                for segment in 0..arrives {
                    // SAFETY: the flags are alive.
                    unsafe { write_value(gated.flags.address() + 4 * segment, 1, &other).unwrap() };
                }
                let status = gated.seen(&compute);
                context.synchronize().unwrap();
                mock.assert_clean(&format!("{mode}, {arrives} flags"));
                if arrives == 2 {
                    assert_eq!(status, [0; 4], "{mode}");
                    assert_same("out", &gated.operands.read(1, &compute).unwrap(), &want[1]);
                } else {
                    assert_eq!(status, [1, 1, 1, 0], "{mode}: wait 1 expected 1 and saw 0");
                }
            }
        }
    });
}

impl Gated {
    fn seen(&self, stream: &Stream) -> [u32; 4] {
        let mut bytes = [0; 16];
        self.status.read(0, &mut bytes, stream).unwrap();
        std::array::from_fn(|i| u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap()))
    }
}
