//! The ABI on device pointers and streams, on the mock driver: kernels against the emulation-backed
//! bits of the Rust layer, a loopback world against one rank, ranks over NCCL against loopback.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use seqpar::capi::abi::{CudaOptions, Image, KernelsOptions, RankReport, Tensor};
use seqpar::capi::kernels::{Kernels, seqpar_kernels_create, seqpar_kernels_destroy};
use seqpar::capi::prepare::seqpar_prepare_loopback;
use seqpar::capi::projection::seqpar_qkv_projection;
use seqpar::capi::report::seqpar_report;
use seqpar::capi::run::{seqpar_bind, seqpar_finish, seqpar_run};
use seqpar::cuda::{Context, DeviceMemory, Priority, Stream};
use seqpar::dtype::Dtype;
use seqpar::kernel::cuda::Arch;
use seqpar::kernel::spec::{Attention, Kernel, KeySegment, RopePairs};
use seqpar::strategy::Strategy;

use crate::arguments::every_field;
use crate::emulation::{How, emulate};
use crate::kernels::{Projected, call, every_kernel, sized};
use crate::memory::{ABSENT, bytes_of, values_of};
use crate::mock::workload::context;
use crate::mock::{MODES, on_mock};
use crate::plans::layer_of;
use crate::support::cases::{Case, layer_inputs};
use crate::support::tensors::{Values, assert_same, random_operands};
use crate::support::{Rng, Tensors, assert_same_bits};
use crate::world::{Bound, Ready, World, gathered};
use crate::{name_of, ok, refused};

/// Kernels of the current context.
struct OnDevice(*mut Kernels);

impl OnDevice {
    fn new(sms: i32) -> Self {
        let image = Image { data: b"any image".as_ptr().cast(), data_bytes: 9, ..sized() };
        let options = KernelsOptions { device: 1, sms, images: &image, image_count: 1, ..sized() };
        let mut kernels = null_mut();
        // SAFETY: all are alive; the mock does not read images.
        ok(unsafe { seqpar_kernels_create(&options, &mut kernels) });
        Self(kernels)
    }
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { seqpar_kernels_destroy(self.0) };
    }
}

/// A tensor on the device.
struct Device {
    memory: DeviceMemory,
    dtype: Dtype,
    shape: [usize; 4],
}

impl Device {
    fn of(values: &Values, stream: &Stream) -> Self {
        let bytes = bytes_of(values);
        let memory = DeviceMemory::new(bytes.len()).unwrap();
        memory.write(0, &bytes, stream).unwrap();
        Self { memory, dtype: values.dtype, shape: values.shape }
    }

    fn tensor(&self) -> Tensor {
        Tensor { data: self.memory.address() as *mut c_void, strides: [0; 4] }
    }

    fn values(&self, stream: &Stream) -> Values {
        let mut bytes = vec![0; self.memory.bytes()];
        self.memory.read(0, &mut bytes, stream).unwrap();
        values_of(self.dtype, self.shape, &bytes)
    }
}

#[test]
fn kernels_on_device_pointers_have_the_bits_of_the_emulation() {
    on_mock(|mock| {
        for (capability, arch) in [(80, Arch::Sm80), (90, Arch::Sm90)] {
            mock.configure(&format!("capability={capability} sms=4"));
            let _context = context();
            let kernels = OnDevice::new(0);
            let stream = Stream::new(Priority::Low).unwrap();
            for (i, kernel) in every_kernel(Dtype::Bf16, 64, 64).into_iter().enumerate() {
                mock.reset(MODES[i % 4], 1);
                let inputs = random_operands(&kernel, &mut Rng(3));
                let want = emulate(&kernel, &inputs, &How::seeded(arch, 1));
                let operands: Vec<Device> = inputs.iter().map(|values| Device::of(values, &stream)).collect();
                let tensors: Vec<Tensor> = operands.iter().map(Device::tensor).collect();
                ok(call(kernels.0, &kernel, &tensors, handle(&stream)));
                for (i, operand) in kernel.operands().iter().enumerate() {
                    assert_same(&format!("{} {}", kernel.name(), operand.name), &operands[i].values(&stream), &want[i]);
                }
                mock.assert_clean(&kernel.name());
            }
        }
    });
}

#[test]
fn a_projection_is_one_launch_or_its_parts_with_the_same_bits() {
    on_mock(|mock| {
        mock.configure("capability=90 sms=4");
        let _context = context();
        let kernels = OnDevice::new(0);
        let stream = Stream::new(Priority::Low).unwrap();
        // A head dim of 64 has a variant of its own, 80 has none; without transform there is one kernel.
        let cases = [(64, true, Some(RopePairs::Interleaved)), (80, true, Some(RopePairs::Halves)), (64, false, None)];
        for (head_dim, norm, rope) in cases {
            let problem = Projected::new(Dtype::Bf16, 64, head_dim, norm, rope);
            let place = |list: &[Values]| list.iter().map(|v| Device::of(v, &stream)).collect::<Vec<_>>();
            let (linear, tables) = (place(&problem.linear), place(&problem.tables));
            let poison: Vec<Values> =
                problem.out_shapes().into_iter().map(|shape| Values::filled(Dtype::Bf16, shape, f32::NAN)).collect();
            let (flags, status) = (DeviceMemory::new(64).unwrap(), DeviceMemory::new(64).unwrap());
            let tensors = |list: &[Device]| list.iter().map(Device::tensor).collect::<Vec<_>>();
            let mut first: Option<Vec<Values>> = None;
            for (mode, gated) in [("late", false), ("random", true), ("eager", true)] {
                mock.reset(mode, 2);
                let outs = place(&poison);
                flags.fill(0, &stream).unwrap();
                status.fill(0, &stream).unwrap();
                stream.synchronize().unwrap();
                let flag = |i: u64| if gated { (flags.address() + 4 * i) as *const u32 } else { null() };
                let (mut args, chunks) =
                    problem.args(&tensors(&linear), &tensors(&tables), &tensors(&outs), &[flag(0), flag(1), flag(2)]);
                (args.chunks, args.chunk_count) = (chunks.as_ptr(), chunks.len());
                (args.status, args.timeout_ns) = (status.address() as *mut _, 1_000_000_000);
                // SAFETY: all of it is alive.
                ok(unsafe { seqpar_qkv_projection(kernels.0, &args, handle(&stream)) });
                let other = Stream::new(Priority::High).unwrap();
                for i in 0..3 {
                    // SAFETY: the flags are alive.
                    unsafe { seqpar::cuda::write_value(flags.address() + 4 * i, 7, &other).unwrap() };
                }
                let got: Vec<Values> = outs.iter().map(|out| out.values(&stream)).collect();
                mock.assert_clean(&format!("{head_dim} {mode} {gated}"));
                for (got, want) in got.iter().zip(first.get_or_insert(got.clone())) {
                    assert_same("projected", got, want);
                }
            }
            // Near what the host makes of it.
            for (got, want) in first.unwrap().iter().zip(problem.want()) {
                for (got, want) in got.data.iter().zip(&want.data) {
                    assert!((got - want).abs() <= 0.03 * want.abs().max(1.0), "{got}, not {want}");
                }
            }
        }
    });
}

/// Runs a world, or one rank of it, on memory of the device.
fn run(ready: &Ready, bound: Vec<Bound>, inputs: &Tensors) -> Vec<(Bound, Vec<u8>)> {
    let stream = Stream::new(Priority::Low).unwrap();
    let mut memory = Vec::new();
    for of in &bound {
        let on_device = DeviceMemory::new(of.bytes).unwrap();
        on_device.write(0, &of.scattered(inputs), &stream).unwrap();
        ready.bind(of, on_device.address() as *mut c_void);
        memory.push(on_device);
    }
    ready.run(handle(&stream));
    // Memory is not unbound while its run is in flight.
    // SAFETY: what is bound is alive.
    ok(unsafe { seqpar_run(ready.0, handle(&stream)) });
    // SAFETY: as above.
    let rebound = unsafe { seqpar_bind(ready.0, bound[0].rank, bound[0].index, 16 as *mut c_void, bound[0].bytes) };
    refused(rebound, "SEQPAR_INVALID_ARGUMENT", "seqpar_finish");
    // SAFETY: alive.
    ok(unsafe { seqpar_finish(ready.0) });
    let mut held = Vec::new();
    for (of, memory) in bound.into_iter().zip(&memory) {
        let mut bytes = vec![0; of.bytes];
        memory.read(0, &mut bytes, &stream).unwrap();
        held.push((of, bytes));
    }
    held
}

fn whole(held: &[(Bound, Vec<u8>)]) -> Tensors {
    gathered(&held.iter().map(|(of, bytes)| (of, bytes.clone())).collect::<Vec<_>>())
}

#[test]
fn a_loopback_world_has_the_bits_of_one_rank() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case { text: 4, ..Case::plain(Dtype::Bf16, 18, 4, 64) };
        let (single, layer) = layer_of(&case, Strategy::Single, 1);
        let inputs = layer_inputs(&case, &layer, &mut Rng(4));
        let mut one: Option<Tensors> = None;
        for (i, problem) in [single, layer_of(&case, Strategy::Fastseq, 3).0, layer_of(&case, Strategy::Ulysses, 2).0]
            .iter()
            .enumerate()
        {
            mock.reset(MODES[i], 3);
            let context = context();
            {
                let kernels = OnDevice::new(0);
                let world = World::new(problem);
                let options =
                    CudaOptions { graph: i32::from(i == 1), timed: 1, poison: 1, gates_as_flags: 0, ..sized() };
                let mut prepared = null_mut();
                // SAFETY: all are alive.
                ok(unsafe { seqpar_prepare_loopback(world.0, kernels.0, &options, &mut prepared) });
                let ready = Ready(prepared);
                let outputs = whole(&run(&ready, world.bound(), &inputs));
                assert_same_bits("loopback", &outputs, one.get_or_insert(outputs.clone()));
                for rank in 0..world.ranks() {
                    let mut report: RankReport = sized();
                    // SAFETY: alive.
                    ok(unsafe { seqpar_report(ready.0, rank, &mut report) });
                    assert_eq!(report.bytes_sent, world.summary(rank).bytes_sent);
                }
                mock.assert_clean("loopback");
            }
            drop(context);
            assert_eq!(mock.leaks(), Vec::<String>::new());
        }
    });
}

/// Other memory is bound between runs, and the graph of the first is not what is replayed.
#[test]
fn a_graph_follows_what_is_bound() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let case = Case::plain(Dtype::Bf16, 18, 4, 64);
        let (problem, layer) = layer_of(&case, Strategy::Ulysses, 2);
        let _context = context();
        let kernels = OnDevice::new(0);
        let world = World::new(&problem);
        for graph in [0, 1] {
            mock.reset("random", 3);
            let options = CudaOptions { graph, ..sized() };
            let mut prepared = null_mut();
            // SAFETY: all are alive.
            ok(unsafe { seqpar_prepare_loopback(world.0, kernels.0, &options, &mut prepared) });
            let ready = Ready(prepared);
            let all = [1, 2].map(|seed| layer_inputs(&case, &layer, &mut Rng(seed)));
            let held = all.each_ref().map(|inputs| run(&ready, world.bound(), inputs));
            let [first, second] = held.each_ref().map(|held| whole(held));
            assert!(first != second, "the inputs differ");
            assert_same_bits("bound anew", &whole(&run(&ready, world.bound(), &all[0])), &first);
            mock.assert_clean("bound anew");
        }
    });
}

#[test]
fn every_field_of_a_devices_options_may_be_absurd() {
    on_mock(|mock| {
        mock.configure("sms=4");
        let _context = context();
        let kernels = OnDevice::new(0);
        let world = World::new(&layer_of(&Case::plain(Dtype::Bf16, 10, 2, 64), Strategy::Ulysses, 2).0);
        let mut made = 0;
        every_field("seqpar_cuda_options", &sized::<CudaOptions>(), |options| {
            let mut prepared = null_mut();
            // SAFETY: all are alive.
            let status = unsafe { seqpar_prepare_loopback(world.0, kernels.0, options, &mut prepared) };
            made += i32::from(status == 0);
            drop(Ready(prepared));
            status
        });
        assert!(made > 4, "{made}");
        let image = Image { data: b"any image".as_ptr().cast(), data_bytes: 9, ..sized() };
        let options = KernelsOptions { device: 1, image_count: 1, ..sized() };
        every_field("seqpar_image", &image, |image| {
            let mut kernels = null_mut();
            let longer = image.data_bytes > 9;
            // SAFETY: all are alive; bytes that are not there are not given.
            unsafe {
                let image = if longer { Image { data: null(), ..*image } } else { *image };
                let status = seqpar_kernels_create(&KernelsOptions { images: &image, ..options }, &mut kernels);
                seqpar_kernels_destroy(kernels);
                status
            }
        });
        mock.assert_clean("absurd options");
    });
}

/// A prepared world is given back where another context is current, and that one stays so.
#[test]
fn handles_are_given_back_in_their_own_context() {
    on_mock(|mock| {
        mock.configure("sms=4 devices=2");
        mock.reset("late", 1);
        let own = context();
        let kernels = OnDevice::new(0);
        let world = World::new(&layer_of(&Case::plain(Dtype::Bf16, 18, 4, 64), Strategy::Single, 1).0);
        let mut prepared = null_mut();
        // SAFETY: all are alive.
        ok(unsafe { seqpar_prepare_loopback(world.0, kernels.0, null(), &mut prepared) });
        let other = Context::primary(1).unwrap();
        // SAFETY: refused.
        let refusal = unsafe { seqpar_run(prepared, null_mut()) };
        assert_ne!(refusal, 0);
        drop(Ready(prepared));
        drop(kernels);
        assert!(Context::current().unwrap().unwrap().is_same(&other));
        mock.assert_clean("given back elsewhere");
        drop(own);
        mock.assert_clean("nothing is left in its context");
        drop(other);
    });
}

#[test]
fn devices_contexts_and_images_that_are_not_there_are_said() {
    on_mock(|_| {
        let options = KernelsOptions { device: 1, ..sized() };
        let mut kernels = null_mut();
        // SAFETY: all are alive.
        let create =
            |options: &KernelsOptions, kernels: &mut *mut Kernels| unsafe { seqpar_kernels_create(options, kernels) };
        let image = Image { data: b"any image".as_ptr().cast(), data_bytes: 9, ..sized() };
        let with = |image: &Image| KernelsOptions { images: image, image_count: 1, ..options };
        refused(create(&with(&image), &mut kernels), "SEQPAR_UNSUPPORTED", "no CUDA context is current");
        let held = context();
        if !cfg!(feature = "kernels") {
            refused(create(&options, &mut kernels), "SEQPAR_KERNELS_UNAVAILABLE", "build with the feature kernels");
        }
        let nowhere = Image { path: c"/nowhere/attention.fatbin".as_ptr(), ..sized() };
        refused(create(&with(&nowhere), &mut kernels), "SEQPAR_INVALID_DATA", "/nowhere/attention.fatbin");
        refused(create(&with(&sized()), &mut kernels), "SEQPAR_INVALID_ARGUMENT", "neither data nor path");
        // f32 is for the host.
        let kernels = OnDevice::new(2);
        let kernel = Kernel::Attention(Attention {
            dtype: Dtype::F32,
            batch: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 64,
            first_head: 0,
            first_kv_head: 0,
            group: 1,
            scale: 0.125,
            queries: vec![4],
            keys: vec![KeySegment { len: 4, base: 0, stream: 1 }],
            key_mask: false,
            key_len: false,
            carry_in: false,
            carry_out: false,
        });
        let memory = DeviceMemory::new(4096).unwrap();
        let tensors = [0, 1, 2, 3, 3].map(|i| Tensor { data: (memory.address() + 1024 * i) as *mut c_void, ..ABSENT });
        refused(call(kernels.0, &kernel, &tensors, null_mut()), "SEQPAR_UNSUPPORTED", "f32");
        // A thread without a context gets the handle's; one with another is told.
        std::thread::scope(|scope| {
            let handle = kernels.0 as usize;
            let thread = scope.spawn(move || {
                let kernel = every_kernel(Dtype::Bf16, 64, 64).remove(2);
                let tensors = vec![ABSENT; kernel.operands().len()];
                let status = call(handle as *const Kernels, &kernel, &tensors, null_mut());
                (name_of(status), Context::current().unwrap().is_none())
            });
            // Its tensors are refused before the device is asked.
            assert_eq!(thread.join().unwrap(), ("SEQPAR_INVALID_ARGUMENT", true));
        });
        drop(held);
    });
}

#[cfg(feature = "nccl")]
#[test]
fn ranks_over_nccl_have_the_bits_of_one_rank() {
    use seqpar::capi::abi::NcclOptions;
    use seqpar::capi::nccl::{seqpar_nccl_create, seqpar_nccl_destroy, seqpar_nccl_finalize, seqpar_nccl_unique_id};
    use seqpar::capi::prepare::seqpar_prepare_rank;

    on_mock(|mock| {
        mock.configure("sms=4 devices=2 host=thread");
        let case = Case::plain(Dtype::Bf16, 18, 4, 64);
        let (_, layer) = layer_of(&case, Strategy::Ulysses, 2);
        let inputs = layer_inputs(&case, &layer, &mut Rng(4));
        let alone = {
            let _context = context();
            let kernels = OnDevice::new(0);
            let world = World::new(&layer_of(&case, Strategy::Single, 1).0);
            let mut prepared = null_mut();
            // SAFETY: all are alive.
            ok(unsafe { seqpar_prepare_loopback(world.0, kernels.0, null(), &mut prepared) });
            whole(&run(&Ready(prepared), world.bound(), &inputs))
        };
        let mut id = [0u8; 128];
        // SAFETY: 128 bytes of room.
        ok(unsafe { seqpar_nccl_unique_id(null(), id.as_mut_ptr()) });
        let rank = |rank: i32| {
            let _context = Context::primary(rank).unwrap();
            let kernels = OnDevice::new(0);
            let options = NcclOptions { rank, world: 2, unique_id: id.as_ptr(), deadline_ms: 20_000, ..sized() };
            let (mut nccl, mut prepared) = (null_mut(), null_mut());
            let world = World::new(&layer_of(&case, Strategy::Ulysses, 2).0);
            // SAFETY: all are alive.
            unsafe {
                ok(seqpar_nccl_create(&options, &mut nccl));
                ok(seqpar_prepare_rank(world.0, kernels.0, nccl, null(), &mut prepared));
            }
            let ready = Ready(prepared);
            let elsewhere = &world.bound_of(1 - rank as usize)[0];
            // SAFETY: the rank is refused.
            let bound =
                unsafe { seqpar_bind(ready.0, elsewhere.rank, elsewhere.index, 16 as *mut c_void, elsewhere.bytes) };
            refused(bound, "SEQPAR_INVALID_ARGUMENT", "is not here");
            let held = run(&ready, world.bound_of(rank as usize), &inputs);
            drop(ready);
            // SAFETY: alive until destroyed.
            unsafe {
                ok(seqpar_nccl_finalize(nccl));
                refused(seqpar_nccl_finalize(nccl), "SEQPAR_INVALID_ARGUMENT", "was finalized");
                seqpar_nccl_destroy(nccl);
            }
            held
        };
        let held = std::thread::scope(|scope| {
            let rank = &rank;
            let ranks = [0, 1].map(|r| scope.spawn(move || rank(r)));
            ranks.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_same_bits("nccl", &whole(&held), &alone);
        mock.assert_clean("nccl");
    });
}

/// As C has it.
fn handle(stream: &Stream) -> *mut c_void {
    stream.handle() as *mut c_void
}
