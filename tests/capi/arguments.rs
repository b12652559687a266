//! Every argument and every field of every struct, made null or absurd in turn: a status, never a
//! crash, and never a defect.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use seqpar::capi::abi::{
    AttentionArgs, Buffer, HostOptions, KernelsOptions, NcclOptions, QkvArgs, RankReport, Summary,
};
use seqpar::capi::kernels::{Kernels, seqpar_kernels_create, seqpar_kernels_destroy};
use seqpar::capi::nccl::{seqpar_nccl_create, seqpar_nccl_destroy, seqpar_nccl_finalize, seqpar_nccl_unique_id};
use seqpar::capi::plans::*;
use seqpar::capi::prepare::{seqpar_prepare_host, seqpar_prepare_loopback, seqpar_prepare_rank};
use seqpar::capi::projection::seqpar_qkv_projection;
use seqpar::capi::report::{seqpar_report, seqpar_report_json, seqpar_report_trace};
use seqpar::capi::run::{seqpar_bind, seqpar_finish, seqpar_prepared_destroy, seqpar_run};
use seqpar::dtype::Dtype;
use seqpar::kernel::spec::RopePairs;
use seqpar::strategy::Strategy;

use crate::declarations::{c_name, code};
use crate::kernels::{OnHost, Projected, call, every_kernel, sized};
use crate::memory::Memory;
use crate::plans::layer_of;
use crate::support::Rng;
use crate::support::cases::Case;
use crate::support::tensors::random_operands;
use crate::world::World;
use crate::{last_error, name_of, ok, refused};

/// What a field may be, where it lies, what it is in C.
struct Field {
    name: String,
    offset: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Size,
    Int32,
    Int64,
    Word64,
    Float,
    Pointer,
    Other,
}

/// The fields of a struct of the header, tensors and splits taken apart.
fn fields(of: &str) -> Vec<Field> {
    let text = code();
    let start = text.find(&format!("typedef struct {of} {{")).unwrap_or_else(|| panic!("no {of}"));
    let body = &text[start..start + text[start..].find('}').unwrap()];
    let (mut list, mut offset) = (Vec::new(), 0usize);
    for declaration in body.split_once('{').unwrap().1.split(';').map(str::trim).filter(|d| !d.is_empty()) {
        let (c_type, name) = declaration.rsplit_once([' ', '*']).unwrap();
        let (name, count) =
            name.split_once('[').map_or((name, 1), |(n, c)| (n, c.trim_end_matches(']').parse().unwrap()));
        let pointer = declaration.contains('*');
        let (kind, bytes) = match c_type.trim() {
            _ if pointer => (Kind::Pointer, 8),
            "size_t" if name == "struct_bytes" => (Kind::Size, 8),
            "size_t" | "uint64_t" | "double" => (Kind::Word64, 8),
            "int64_t" => (Kind::Int64, 8),
            "int32_t" => (Kind::Int32, 4),
            "uint32_t" => (Kind::Other, 4),
            "float" => (Kind::Float, 4),
            "seqpar_tensor" | "seqpar_split" => {
                for inner in fields(c_type.trim()) {
                    list.push(Field { name: format!("{name}.{}", inner.name), offset: offset + inner.offset, ..inner });
                }
                offset += if c_type.trim() == "seqpar_tensor" { 40 } else { 16 };
                continue;
            }
            other => panic!("{of}.{name}: {other}"),
        };
        offset = offset.next_multiple_of(bytes);
        for i in 0..count {
            list.push(Field { name: format!("{name}[{i}]"), offset: offset + i * bytes, kind });
        }
        offset += bytes * count;
    }
    list
}

/// Calls `attempt` with `value` mutated, field by field; all must return, and fail in words or succeed.
pub(crate) fn every_field<T: Copy>(of: &str, value: &T, mut attempt: impl FnMut(&T) -> i32) {
    let mut tried = 0;
    for field in fields(of) {
        let mutations: &[u64] = match field.kind {
            Kind::Size => &[0, 7, 8, size_of::<T>() as u64 - 8, 1 << 20, u64::MAX],
            Kind::Int32 => &[0, 1, 99, i32::MIN as u32 as u64, u32::MAX as u64],
            Kind::Int64 => &[0, i64::MIN as u64, u64::MAX, i64::MAX as u64, 1 << 40],
            Kind::Float => &[0, 0x7fc0_0000, 0x7f80_0000, 0xbf80_0000],
            Kind::Pointer => &[0, 1],
            Kind::Word64 => &[0, u64::MAX],
            Kind::Other => &[0],
        };
        for &mutation in mutations {
            // Bytes may lie anywhere, and these are nowhere.
            let bytes_anywhere = ["path", "nccl_path", "unique_id", "data[", "image"];
            if field.kind == Kind::Pointer && mutation == 1 && bytes_anywhere.iter().any(|n| field.name.starts_with(n))
            {
                continue;
            }
            // 0 key heads are as many as query heads, more than there is memory for here; a stride may
            // be as large as memory.
            let beyond = mutation == 0 && field.name.starts_with("kv_heads")
                || mutation == 1 << 40 && field.name.contains("strides");
            if beyond {
                continue;
            }
            // Tensors of one-byte elements may be at address 1.
            if mutation == 1
                && [".data", "mask", "frame"].iter().any(|n| field.name.contains(n))
                && field.kind == Kind::Pointer
            {
                continue;
            }
            let mut mutated = *value;
            let width = if matches!(field.kind, Kind::Int32 | Kind::Float | Kind::Other) { 4 } else { 8 };
            // SAFETY: the field lies in the struct, which any bytes are a value of.
            unsafe {
                let at = (&raw mut mutated).cast::<u8>().add(field.offset);
                at.copy_from_nonoverlapping(mutation.to_le_bytes().as_ptr(), width);
            }
            let status = attempt(&mutated);
            let what = format!("{of}.{} = {mutation:#x}: {} {}", field.name, name_of(status), last_error());
            assert!(status == 0 || (name_of(status) != "unknown" && !last_error().is_empty()), "{what}");
            assert_ne!(name_of(status), "SEQPAR_INTERNAL", "{what}");
            if field.kind == Kind::Size {
                assert_eq!(name_of(status), "SEQPAR_INVALID_ARGUMENT", "{what}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 10, "{of}: {tried}");
}

/// A handle of another kind, and memory that is none.
fn foreign<T>() -> [*mut T; 3] {
    static NOTHING: [u64; 8] = [0; 8];
    [null_mut(), NOTHING.as_ptr().cast_mut().cast(), NOTHING.as_ptr().wrapping_byte_add(1).cast_mut().cast()]
}

fn invalid(status: i32) {
    assert_eq!(name_of(status), "SEQPAR_INVALID_ARGUMENT", "{}", last_error());
}

#[test]
fn handles_that_are_none_are_refused_everywhere() {
    let (mut size, mut id, mut nothing) = (0usize, [0u8; 128], null_mut());
    let (mut summary, mut buffer, mut report): (Summary, Buffer, RankReport) = (sized(), sized(), sized());
    let stream: *mut c_void = null_mut();
    // SAFETY: every place is alive; handles are not looked behind.
    unsafe {
        for kernels in foreign() {
            for kernel in every_kernel(Dtype::F32, 16, 8) {
                let tensors = vec![crate::memory::ABSENT; kernel.operands().len()];
                invalid(call(kernels, &kernel, &tensors, stream));
            }
            invalid(seqpar_qkv_projection(kernels, &sized(), stream));
            seqpar_kernels_destroy(kernels);
        }
        for plans in foreign() {
            invalid(seqpar_plans_check(plans));
            invalid(seqpar_plans_world(plans, &mut size));
            invalid(seqpar_plans_summary(plans, 0, &mut summary));
            invalid(seqpar_plans_buffer(plans, 0, 0, &mut buffer));
            invalid(seqpar_plans_placement(plans, 0, 0, 0, null_mut(), 0, &mut size));
            invalid(seqpar_plans_json(plans, 0, null_mut(), 0, &mut size));
            invalid(seqpar_prepare_host(plans, null(), &mut nothing));
            invalid(seqpar_prepare_loopback(plans, null(), null(), &mut nothing));
            invalid(seqpar_prepare_rank(plans, null(), null_mut(), null(), &mut nothing));
            seqpar_plans_destroy(plans);
        }
        for prepared in foreign() {
            invalid(seqpar_bind(prepared, 0, 0, null_mut(), 0));
            invalid(seqpar_run(prepared, stream));
            invalid(seqpar_finish(prepared));
            invalid(seqpar_report(prepared, 0, &mut report));
            invalid(seqpar_report_json(prepared, null_mut(), 0, &mut size));
            invalid(seqpar_report_trace(prepared, null_mut(), 0, &mut size));
            seqpar_prepared_destroy(prepared);
        }
        for nccl in foreign() {
            invalid(seqpar_nccl_finalize(nccl));
            seqpar_nccl_destroy(nccl);
        }
        invalid(seqpar_nccl_unique_id(null(), null_mut()));
        let missing = seqpar_nccl_unique_id(c"/nowhere/libnccl.so".as_ptr(), id.as_mut_ptr());
        assert_eq!(name_of(missing), "SEQPAR_UNSUPPORTED", "{}", last_error());
    }
}

#[test]
fn places_that_are_none_are_refused() {
    let case = Case::plain(Dtype::F32, 8, 2, 8);
    let (problem, _) = layer_of(&case, Strategy::Fastseq, 2);
    let world = World::new(&problem);
    let (plans, mut size) = (world.0, 0);
    let kernels = OnHost::new(1);
    let mut nothing = null_mut();
    // SAFETY: what is not null is alive.
    unsafe {
        invalid(seqpar_kernels_create(&sized(), null_mut()));
        invalid(seqpar_kernels_create(null(), &mut null_mut()));
        invalid(seqpar_plans_describe(null(), &mut null_mut()));
        invalid(seqpar_plans_describe(&problem, null_mut()));
        invalid(seqpar_plans_world(plans, null_mut()));
        invalid(seqpar_plans_summary(plans, 0, null_mut()));
        invalid(seqpar_plans_summary(plans, 2, &mut sized()));
        invalid(seqpar_plans_buffer(plans, 0, 0, null_mut()));
        invalid(seqpar_plans_buffer(plans, 0, usize::MAX, &mut sized()));
        invalid(seqpar_plans_buffer(plans, usize::MAX, 0, &mut sized()));
        for dimension in [-1, 4, i32::MAX] {
            invalid(seqpar_plans_placement(plans, 0, 0, dimension, null_mut(), 0, &mut size));
        }
        invalid(seqpar_plans_placement(plans, 0, 0, 1, null_mut(), 4, &mut size));
        invalid(seqpar_plans_placement(plans, 0, 0, 1, null_mut(), 0, null_mut()));
        invalid(seqpar_plans_json(plans, 0, null_mut(), 4, &mut size));
        invalid(seqpar_plans_json(plans, 0, null_mut(), 0, null_mut()));
        invalid(seqpar_prepare_host(plans, null(), null_mut()));
        invalid(seqpar_prepare_loopback(plans, kernels.0, null(), null_mut()));
        let on_host = seqpar_prepare_loopback(plans, kernels.0, null(), &mut nothing);
        let wanted = if cfg!(feature = "cuda") { "SEQPAR_INVALID_ARGUMENT" } else { "SEQPAR_UNSUPPORTED" };
        assert_eq!(name_of(on_host), wanted, "{}", last_error());
        // Of one kind where another is wanted.
        invalid(seqpar_prepare_host(kernels.0.cast(), null(), &mut nothing));
        invalid(seqpar_qkv_projection(plans.cast::<Kernels>(), &sized(), null_mut()));
        assert!(nothing.is_null());
    }
}

#[test]
fn every_field_of_a_kernel_may_be_absurd() {
    let kernels = OnHost::new(1);
    for kernel in every_kernel(Dtype::Bf16, 16, 8).iter().take(5) {
        let inputs = random_operands(kernel, &mut Rng(1));
        let mut memory: Vec<Memory> = inputs.iter().map(Memory::of).collect();
        let tensors: Vec<_> = memory.iter_mut().map(Memory::tensor).collect();
        ok(call(kernels.0, kernel, &tensors, null_mut()));
        refused(
            call(kernels.0, kernel, &tensors, std::ptr::dangling_mut::<c_void>()),
            "SEQPAR_INVALID_ARGUMENT",
            "stream",
        );
        // Each operand absent: needed, or taken for an option that is not used.
        for absent in 0..tensors.len() {
            let mut tensors = tensors.clone();
            tensors[absent] = crate::memory::ABSENT;
            let status = call(kernels.0, kernel, &tensors, null_mut());
            let optional = ["mask", "key_len"].contains(&kernel.operands()[absent].name);
            assert!(optional || name_of(status) == "SEQPAR_INVALID_ARGUMENT", "{}: {}", kernel.name(), last_error());
        }
    }
}

#[test]
fn every_field_of_every_struct_may_be_absurd() {
    let kernels = OnHost::new(1);
    with_attention(|args| {
        use seqpar::capi::attention::seqpar_attention;
        // SAFETY: what is not refused is alive.
        every_field("seqpar_attention_args", args, |args| unsafe { seqpar_attention(kernels.0, args, null_mut()) });
        // SAFETY: the caller's segments.
        let (query, key) = unsafe { (*args.queries, *args.keys) };
        every_field("seqpar_query_segment", &query, |query| {
            let args = AttentionArgs { queries: query, query_count: 1, ..*args };
            // SAFETY: as above.
            unsafe { seqpar_attention(kernels.0, &args, null_mut()) }
        });
        every_field("seqpar_key_segment", &key, |key| {
            let args = AttentionArgs { keys: key, key_count: 1, ..*args };
            // SAFETY: as above.
            unsafe { seqpar_attention(kernels.0, &args, null_mut()) }
        });
    });
    with_projection(|args| {
        // SAFETY: what is not refused is alive.
        every_field("seqpar_qkv_args", args, |args| unsafe { seqpar_qkv_projection(kernels.0, args, null_mut()) });
        // SAFETY: the caller's chunks.
        let chunk = unsafe { *args.chunks };
        every_field("seqpar_qkv_chunk", &chunk, |chunk| {
            let args = QkvArgs { chunks: chunk, chunk_count: 1, first_chunk: 0, timeout_ns: 1000, ..*args };
            // SAFETY: as above; a flag at address 1 is not aligned.
            unsafe { seqpar_qkv_projection(kernels.0, &args, null_mut()) }
        });
    });
    with_adaln(kernels.0);
    every_field("seqpar_kernels_options", &sized::<KernelsOptions>(), |options| {
        let mut kernels = null_mut();
        // SAFETY: what is not refused is alive; a handle that was made is given back.
        unsafe {
            let status = seqpar_kernels_create(options, &mut kernels);
            seqpar_kernels_destroy(kernels);
            status
        }
    });
    let case = Case { text: 4, ..Case::plain(Dtype::F32, 9, 4, 8) };
    for strategy in [Strategy::Fastseq, Strategy::Usp] {
        let (problem, _) = layer_of(&case, strategy, 3);
        every_field("seqpar_problem", &problem, |problem| {
            let mut plans = null_mut();
            // SAFETY: what is not refused is alive; address 1 is not aligned.
            unsafe {
                let mut status = seqpar_plans_describe(problem, &mut plans);
                if status == 0 {
                    status = seqpar_plans_check(plans);
                }
                seqpar_plans_destroy(plans);
                status
            }
        });
    }
    let (problem, _) = layer_of(&case, Strategy::Fastseq, 2);
    let world = World::new(&problem);
    every_field("seqpar_host_options", &sized::<HostOptions>(), |options| {
        let mut prepared = null_mut();
        // SAFETY: alive.
        unsafe {
            let status = seqpar_prepare_host(world.0, options, &mut prepared);
            seqpar_prepared_destroy(prepared);
            status
        }
    });
    every_field("seqpar_nccl_options", &sized::<NcclOptions>(), |options| {
        // SAFETY: no identity is given, so no world is joined.
        unsafe { seqpar_nccl_create(options, &mut null_mut()) }
    });
}

/// Both arguments and operands of the first attention.
fn with_attention(body: impl FnOnce(&AttentionArgs)) {
    use seqpar::capi::abi::{KeySegment, QuerySegment};
    let mut memory: Vec<Memory> = Vec::new();
    let mut packed = |shape| {
        memory.push(Memory::of(&crate::support::tensors::Values::filled(Dtype::F32, shape, 1.0)));
        memory.last_mut().unwrap().tensor()
    };
    let [q, out, k, v] = [(); 4].map(|()| packed([1, 4, 2, 8]));
    let lse = packed([1, 2, 1, 4]);
    let query = [QuerySegment { rows: 4, q, out, lse, ..sized() }];
    let key = [KeySegment { rows: 4, stream: 1, k, v, ..sized() }];
    let args = AttentionArgs {
        batch: 1,
        heads: 2,
        head_dim: 8,
        queries: query.as_ptr(),
        query_count: 1,
        keys: key.as_ptr(),
        key_count: 1,
        ..sized()
    };
    body(&args);
}

fn with_projection(body: impl FnOnce(&QkvArgs)) {
    let problem = Projected::new(Dtype::F32, 16, 8, true, Some(RopePairs::Halves));
    let mut linear: Vec<Memory> = problem.linear.iter().map(Memory::of).collect();
    let mut tables: Vec<Memory> = problem.tables.iter().map(Memory::of).collect();
    let mut outs: Vec<Memory> = problem.out_shapes().into_iter().map(|s| Memory::poisoned(Dtype::F32, s)).collect();
    let tensors = |list: &mut Vec<Memory>| list.iter_mut().map(Memory::tensor).collect::<Vec<_>>();
    let (linear, tables, outs) = (tensors(&mut linear), tensors(&mut tables), tensors(&mut outs));
    let (mut args, chunks) = problem.args(&linear, &tables, &outs, &[]);
    (args.chunks, args.chunk_count) = (chunks.as_ptr(), chunks.len());
    body(&args);
}

fn with_adaln(kernels: *const Kernels) {
    use seqpar::capi::abi::{AdalnArgs, QkNormRopeArgs};
    use seqpar::capi::adaln::seqpar_gate_residual_norm_modulate;
    use seqpar::capi::qk_norm_rope::seqpar_qk_norm_rope;
    let mut memory: Vec<Memory> = Vec::new();
    let mut packed = |dtype, shape| {
        memory.push(Memory::of(&crate::support::tensors::Values::filled(dtype, shape, 1.0)));
        memory.last_mut().unwrap().tensor()
    };
    let [x, branch, residual, y] = [(); 4].map(|()| packed(Dtype::F32, [1, 3, 1, 16]));
    let [gate, shift, scale, gate_0, shift_0, scale_0] = [(); 6].map(|()| packed(Dtype::F32, [1, 3, 1, 16]));
    let frame = packed(Dtype::U8, [1, 3, 1, 1]);
    let args = AdalnArgs {
        modulation: 1,
        batch: 1,
        rows: 3,
        hidden: 16,
        x,
        branch,
        residual,
        y,
        gate,
        shift,
        scale,
        gate_0,
        shift_0,
        scale_0,
        frame,
        ..sized()
    };
    // SAFETY: what is not refused is alive.
    every_field("seqpar_adaln_args", &args, |args| unsafe {
        seqpar_gate_residual_norm_modulate(kernels, args, null_mut())
    });
    let [q, k] = [(); 2].map(|()| packed(Dtype::F32, [1, 3, 2, 8]));
    let [q_norm, k_norm, cos, sin] = [(); 4].map(|()| packed(Dtype::F32, [1, 3, 1, 8]));
    let args = QkNormRopeArgs {
        rope: 1,
        batch: 1,
        rows: 3,
        heads: 2,
        kv_heads: 2,
        head_dim: 8,
        q,
        k,
        q_norm,
        k_norm,
        cos,
        sin,
        ..sized()
    };
    // SAFETY: as above.
    every_field("seqpar_qk_norm_rope_args", &args, |args| unsafe { seqpar_qk_norm_rope(kernels, args, null_mut()) });
    assert!(c_name("QkNormRopeArgs") == "seqpar_qk_norm_rope_args");
}

#[test]
fn a_newer_caller_is_understood_until_it_asks_for_what_is_not_there() {
    #[repr(C)]
    struct Newer {
        options: KernelsOptions,
        more: [u64; 2],
    }
    let mut newer = Newer { options: sized(), more: [0; 2] };
    newer.options.struct_bytes = size_of::<Newer>();
    let mut kernels = null_mut();
    // SAFETY: as long as it says.
    unsafe {
        ok(seqpar_kernels_create((&raw const newer).cast(), &mut kernels));
        seqpar_kernels_destroy(kernels);
        newer.more[1] = 1;
        refused(
            seqpar_kernels_create((&raw const newer).cast(), &mut kernels),
            "SEQPAR_INVALID_ARGUMENT",
            "newer libseqpar",
        );
    }
    // An older caller's result struct is filled as far as it goes.
    let (problem, _) = layer_of(&Case::plain(Dtype::F32, 8, 2, 8), Strategy::Fastseq, 2);
    let world = World::new(&problem);
    let mut summary: Summary = sized();
    (summary.struct_bytes, summary.ops, summary.streams) = (16, 77, 78);
    // SAFETY: alive.
    ok(unsafe { seqpar_plans_summary(world.0, 0, &mut summary) });
    assert!(summary.buffers > 0 && (summary.struct_bytes, summary.ops, summary.streams) == (16, 77, 78));
}
