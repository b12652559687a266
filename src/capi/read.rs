//! What a caller points to: structs that grow, arrays of them, strings, places for results.
//! Each function refuses null and misaligned pointers; that there is memory behind them, of that
//! many bytes and for that long, is the caller's promise in the header.

use std::ffi::{CStr, c_char};
use std::mem::{MaybeUninit, align_of, size_of};

use super::abi::{
    AdalnArgs, AttentionArgs, Buffer, CudaOptions, HostOptions, Image, KernelsOptions, KeySegment, NcclOptions,
    Problem, QkNormRopeArgs, QkvArgs, QkvChunk, QuerySegment, RankReport, Summary,
};
use super::status::{Fault, Outcome};

/// No struct of any version is larger: a larger size was never set.
const LARGEST_STRUCT_BYTES: usize = 4096;

/// A struct that starts with its size, so that it can grow.
///
/// # Safety
/// The type is `repr(C)`, its first field is a `usize`, and any bytes are a value of it.
pub(super) unsafe trait Growing: Copy {
    /// Name in the header.
    const NAME: &'static str;
}

macro_rules! growing {
    ($($name:literal $type:ident),* $(,)?) => {
        $(
            // SAFETY: repr(C), struct_bytes first, plain numbers and raw pointers behind it.
            unsafe impl Growing for $type {
                const NAME: &'static str = $name;
            }
        )*
    };
}

growing! {
    "seqpar_image" Image,
    "seqpar_kernels_options" KernelsOptions,
    "seqpar_query_segment" QuerySegment,
    "seqpar_key_segment" KeySegment,
    "seqpar_attention_args" AttentionArgs,
    "seqpar_adaln_args" AdalnArgs,
    "seqpar_qk_norm_rope_args" QkNormRopeArgs,
    "seqpar_qkv_chunk" QkvChunk,
    "seqpar_qkv_args" QkvArgs,
    "seqpar_problem" Problem,
    "seqpar_buffer" Buffer,
    "seqpar_summary" Summary,
    "seqpar_host_options" HostOptions,
    "seqpar_cuda_options" CudaOptions,
    "seqpar_nccl_options" NcclOptions,
    "seqpar_rank_report" RankReport,
}

/// A struct of the caller, whose version may be newer, as long as it asks for nothing new.
pub(super) fn growing<T: Growing>(pointer: *const T) -> Outcome<T> {
    let bytes = struct_bytes(pointer)?;
    let known = size_of::<T>();
    if bytes < known {
        return Err(Fault::argument(format!(
            "{}.struct_bytes is {bytes}: set it to sizeof({0}), {known} in this version",
            T::NAME
        )));
    }
    // SAFETY: the caller's struct has `bytes` bytes.
    let rest = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>().add(known), bytes - known) };
    if rest.iter().any(|&byte| byte != 0) {
        return Err(Fault::argument(format!(
            "{} has fields that this version ({}) does not know: load a newer libseqpar",
            T::NAME,
            env!("CARGO_PKG_VERSION")
        )));
    }
    // SAFETY: aligned, and at least as long as the type; any bytes are a value of it.
    Ok(unsafe { pointer.read() })
}

/// [`growing`], or `None` for null.
pub(super) fn growing_or_none<T: Growing>(pointer: *const T) -> Outcome<Option<T>> {
    if pointer.is_null() { Ok(None) } else { growing(pointer).map(Some) }
}

/// An array of such structs, whose elements lie apart by the size of the first.
pub(super) fn growing_array<T: Growing>(pointer: *const T, count: usize, most: usize) -> Outcome<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > most {
        return Err(Fault::argument(format!("{count} of {}: {most} at most", T::NAME)));
    }
    let step = struct_bytes(pointer)?;
    if !step.is_multiple_of(align_of::<T>()) {
        return Err(Fault::argument(format!("{}.struct_bytes is {step}: set it to sizeof({0})", T::NAME)));
    }
    let mut list = Vec::with_capacity(count);
    for i in 0..count {
        // SAFETY: the caller's array has `count` elements of `step` bytes.
        let element = unsafe { pointer.byte_add(i * step) };
        if struct_bytes(element)? != step {
            return Err(Fault::argument(format!("{}[{i}].struct_bytes is not that of element 0", T::NAME)));
        }
        list.push(growing(element)?);
    }
    Ok(list)
}

/// Fills a struct of the caller, as much of it as it has; `struct_bytes` stays.
pub(super) fn fill<T: Growing>(pointer: *mut T, value: &T) -> Outcome {
    let bytes = struct_bytes(pointer)?;
    let head = size_of::<usize>();
    if bytes < head {
        return Err(Fault::argument(format!("{}.struct_bytes is {bytes}: set it to sizeof({0})", T::NAME)));
    }
    let count = bytes.min(size_of::<T>()) - head;
    // SAFETY: both structs have that many bytes behind their size.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<MaybeUninit<u8>>().add(head);
        std::ptr::copy_nonoverlapping(from, pointer.cast::<MaybeUninit<u8>>().add(head), count);
    }
    Ok(())
}

fn struct_bytes<T: Growing>(pointer: *const T) -> Outcome<usize> {
    check_pointer(pointer, T::NAME)?;
    // SAFETY: every such struct starts with its size.
    let bytes = unsafe { pointer.cast::<usize>().read() };
    if bytes > LARGEST_STRUCT_BYTES {
        return Err(Fault::argument(format!("{}.struct_bytes is {bytes}: set it to sizeof({0})", T::NAME)));
    }
    Ok(bytes)
}

/// `count` plain numbers; null gives none.
pub(super) fn numbers<'a, T: bytemuck::AnyBitPattern>(
    pointer: *const T,
    count: usize,
    what: &str,
) -> Outcome<Option<&'a [T]>> {
    if pointer.is_null() {
        return Ok(None);
    }
    check_pointer(pointer, what)?;
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(Fault::argument(format!("{what} of {count} elements")));
    }
    // SAFETY: aligned; the caller's array has that many elements, and any bytes are a value.
    Ok(Some(unsafe { std::slice::from_raw_parts(pointer, count) }))
}

/// A string; `None` for null.
pub(super) fn text<'a>(pointer: *const c_char, what: &str) -> Outcome<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's string ends with a 0.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(Some).map_err(|_| Fault::argument(format!("{what} is no UTF-8")))
}

/// A place for one result.
pub(super) fn store<T>(place: *mut T, value: T, what: &str) -> Outcome {
    check_pointer(place, what)?;
    // SAFETY: aligned; the caller's memory.
    unsafe { place.write(value) };
    Ok(())
}

/// Checks a place before there is a result to lose.
pub(super) fn check_pointer<T>(pointer: *const T, what: &str) -> Outcome {
    if pointer.is_null() {
        return Err(Fault::argument(format!("{what} is null")));
    }
    if !pointer.is_aligned() {
        return Err(Fault::argument(format!("{what} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}

/// Writes a text and a 0 behind it, as much as the caller has room for, and its length.
pub(super) fn store_text(text: &str, to: *mut c_char, capacity: usize, bytes: *mut usize) -> Outcome {
    if to.is_null() && capacity > 0 {
        return Err(Fault::argument("text is null: give it with capacity 0 to ask for the size"));
    }
    store(bytes, text.len(), "bytes")?;
    if capacity > 0 {
        let count = text.len().min(capacity - 1);
        // SAFETY: the caller's memory has `capacity` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast::<u8>(), count);
            to.add(count).write(0);
        }
    }
    Ok(())
}

/// Writes as many numbers as the caller has room for, and how many there are.
pub(super) fn store_numbers(
    values: impl Iterator<Item = i64>,
    to: *mut i64,
    capacity: usize,
    count: *mut usize,
) -> Outcome {
    check_pointer(count, "count")?;
    if capacity > 0 {
        check_pointer(to, "indices")?;
    }
    let mut total = 0;
    for value in values {
        if total < capacity {
            // SAFETY: the caller's memory has `capacity` numbers.
            unsafe { to.add(total).write(value) };
        }
        total += 1;
    }
    store(count, total, "count")
}
