//! Faults of the network below NCCL: a library that is loaded before all others (`LD_PRELOAD`) and
//! stands between a program and `send`. `SEQPAR_SOCKET_FAULT` names one: `delay_us=N` before each
//! message, `bytes_per_s=N`, `short=N` (at most N bytes at once), `cut_after=N` and `flip_at=N` (the
//! byte with that number). Messages below 4 KiB pass: ranks meet and agree as ever, data suffer.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SMALL: usize = 4096;

type SendFn = unsafe extern "C" fn(c_int, *const c_void, usize, c_int) -> isize;

#[derive(Clone, Copy)]
enum Fault {
    DelayUs(u64),
    BytesPerS(u64),
    Short(usize),
    CutAfter(u64),
    FlipAt(u64),
}

/// Bytes of data that this process has sent.
static SENT: AtomicU64 = AtomicU64::new(0);

fn fault() -> Option<Fault> {
    static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
    *FAULT.get_or_init(|| {
        let text = std::env::var("SEQPAR_SOCKET_FAULT").ok()?;
        let (kind, value) = text.split_once('=')?;
        let value: u64 = value.parse().ok()?;
        match kind {
            "delay_us" => Some(Fault::DelayUs(value)),
            "bytes_per_s" => Some(Fault::BytesPerS(value.max(1))),
            "short" => Some(Fault::Short((value as usize).max(1))),
            "cut_after" => Some(Fault::CutAfter(value)),
            "flip_at" => Some(Fault::FlipAt(value)),
            _ => None,
        }
    })
}

fn real() -> Option<SendFn> {
    static REAL: OnceLock<Option<SendFn>> = OnceLock::new();
    *REAL.get_or_init(|| {
        // SAFETY: looks a name up.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"send".as_ptr()) };
        // SAFETY: `send` of the C library has this type; null is no function.
        unsafe { std::mem::transmute::<*mut c_void, Option<SendFn>>(found) }
    })
}

/// `send` of the C library, with the fault.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(socket: c_int, data: *const c_void, bytes: usize, flags: c_int) -> isize {
    let Some(real) = real() else { return failed(libc::ENOSYS) };
    // SAFETY: the caller's promise.
    let pass = |data: *const c_void, bytes: usize| unsafe { real(socket, data, bytes, flags) };
    let (Some(fault), true) = (fault(), bytes >= SMALL) else { return pass(data, bytes) };
    let before = SENT.load(Ordering::Relaxed);
    let sent = match fault {
        Fault::DelayUs(us) => {
            std::thread::sleep(Duration::from_micros(us));
            pass(data, bytes)
        }
        Fault::BytesPerS(_) => pass(data, bytes),
        Fault::Short(most) => pass(data, bytes.min(most)),
        Fault::CutAfter(most) if before >= most => {
            // SAFETY: the caller's socket; the peer learns of it.
            unsafe { libc::shutdown(socket, libc::SHUT_RDWR) };
            return failed(libc::ECONNRESET);
        }
        Fault::CutAfter(_) => pass(data, bytes),
        Fault::FlipAt(at) if (before..before + bytes as u64).contains(&at) => {
            // SAFETY: the caller's bytes.
            let mut copy = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), bytes) }.to_vec();
            copy[(at - before) as usize] ^= 1;
            pass(copy.as_ptr().cast(), bytes)
        }
        Fault::FlipAt(_) => pass(data, bytes),
    };
    if sent > 0 {
        SENT.fetch_add(sent as u64, Ordering::Relaxed);
        if let Fault::BytesPerS(rate) = fault {
            std::thread::sleep(Duration::from_secs_f64(sent as f64 / rate as f64));
        }
    }
    sent
}

fn failed(error: c_int) -> isize {
    // SAFETY: this thread's own.
    unsafe { *libc::__errno_location() = error };
    -1
}
