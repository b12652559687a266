//! Each wrapper of `seqpar::cuda` alone.

use seqpar::cuda::{
    Context, DeviceMemory, Event, PinnedMemory, Priority, Stream, copy_device_to_device, wait_value, write_value,
};
use seqpar::error::Error;

use crate::mock::workload::context;
use crate::mock::{MODES, Mock, on_mock};

#[test]
fn a_context_knows_its_device() {
    on_mock(|mock| {
        mock.configure("sms=7 capability=80 memory_bytes=1048576");
        assert!(Context::primary(1).unwrap_err().to_string().contains("cuDeviceGet"));
        assert!(Context::current().unwrap().is_none());
        let context = context();
        assert!(Context::current().unwrap().is_some());
        let attributes = context.attributes().unwrap();
        assert_eq!((attributes.capability, attributes.sms, attributes.memory_bytes), ((8, 0), 7, 1 << 20));
        assert_eq!(attributes.uuid, [1; 16]);
        assert!(DeviceMemory::new(2 << 20).unwrap_err().to_string().contains("CUDA_ERROR_OUT_OF_MEMORY"));
        drop(context);
        mock.assert_clean("a context alone");
        assert_eq!(mock.leaks(), Vec::<String>::new());
    });
}

#[test]
fn what_is_left_in_a_context_is_a_leak() {
    on_mock(|mock| {
        let context = context();
        let (_stream, _memory) = (Stream::new(Priority::Low).unwrap(), DeviceMemory::new(8).unwrap());
        drop(context);
        assert_eq!(mock.reports(), ["LEAK: a context was released before stream, buffer#1"]);
    });
}

/// Two streams, 64 zeros and 64 ones.
struct Pair {
    a: Stream,
    b: Stream,
    zeros: DeviceMemory,
    ones: DeviceMemory,
    context: Context,
}

impl Pair {
    fn new(mock: &Mock, mode: &str, seed: u64) -> Self {
        let context = context();
        mock.reset(mode, seed);
        let (zeros, ones) = (DeviceMemory::new(64).unwrap(), DeviceMemory::new(64).unwrap());
        let (a, b) = (Stream::new(Priority::Low).unwrap(), Stream::new(Priority::High).unwrap());
        zeros.fill(0, &a).unwrap();
        ones.fill(1, &a).unwrap();
        context.synchronize().unwrap();
        Self { a, b, zeros, ones, context }
    }

    fn each(mock: &Mock, body: impl Fn(&Self, &str)) {
        for mode in MODES {
            for seed in 0..10 {
                let pair = Self::new(mock, mode, seed);
                body(&pair, &format!("{mode} {seed}"));
                pair.context.synchronize().unwrap();
                mock.assert_clean(&format!("{mode} {seed}"));
            }
        }
    }
}

#[test]
fn pinned_memory_is_read_and_written_when_the_copy_runs() {
    on_mock(|mock| {
        let pair = Pair::new(mock, "late", 1);
        let mut pinned = PinnedMemory::new(64).unwrap();
        pinned.as_mut_slice().fill(9);
        // SAFETY: both are alive; nothing else touches them.
        unsafe { copy_device_to_device(pinned.address(), pair.ones.address(), 64, &pair.a).unwrap() };
        assert_eq!(pinned.as_slice(), [9; 64], "not synchronised yet");
        pair.a.synchronize().unwrap();
        assert_eq!(pinned.as_slice(), [1; 64]);
        mock.assert_clean("pinned");
    });
}

#[test]
fn a_copy_to_the_host_is_there_when_it_returns() {
    on_mock(|mock| {
        Pair::each(mock, |pair, at| {
            let mut bytes = [5; 64];
            pair.ones.write(0, &[3; 32], &pair.b).unwrap();
            pair.ones.read(0, &mut bytes, &pair.b).unwrap();
            assert_eq!((bytes[31], bytes[32]), (3, 1), "{at}");
        });
    });
}

#[test]
fn polling_ends_in_every_mode() {
    on_mock(|mock| {
        Pair::each(mock, |pair, _| {
            let event = Event::new(false).unwrap();
            pair.ones.fill(4, &pair.a).unwrap();
            event.record(&pair.a).unwrap();
            while !event.is_done().unwrap() {}
            while !pair.a.is_done().unwrap() {}
        });
    });
}

#[test]
fn a_flag_orders_what_came_before_it() {
    on_mock(|mock| {
        Pair::each(mock, |pair, at| {
            let (flag, target) = (pair.zeros.address(), DeviceMemory::new(64).unwrap());
            // SAFETY: the flag orders the two uses of the data.
            unsafe {
                wait_value(flag, 1, &pair.b).unwrap();
                copy_device_to_device(target.address(), pair.ones.address(), 64, &pair.b).unwrap();
                pair.ones.fill(8, &pair.a).unwrap();
                write_value(flag, 1, &pair.a).unwrap();
            }
            let mut bytes = [0; 64];
            target.read(0, &mut bytes, &pair.b).unwrap();
            assert_eq!(bytes, [8; 64], "{at}");
        });
    });
}

#[test]
fn a_flag_before_its_data_is_reported() {
    on_mock(|mock| {
        for mode in MODES {
            let pair = Pair::new(mock, mode, 3);
            let (flag, target) = (pair.zeros.address(), DeviceMemory::new(64).unwrap());
            // SAFETY: copies of bytes, unordered on purpose.
            unsafe {
                wait_value(flag, 1, &pair.b).unwrap();
                copy_device_to_device(target.address(), pair.ones.address(), 64, &pair.b).unwrap();
                write_value(flag, 1, &pair.a).unwrap();
                pair.ones.fill(8, &pair.a).unwrap();
            }
            pair.context.synchronize().unwrap();
            let reports = mock.reports();
            assert!(reports.iter().any(|r| r.starts_with("RACE")), "{mode}: {reports:?}");
        }
    });
}

#[test]
fn a_flag_that_nobody_writes_is_a_deadlock_and_an_error() {
    on_mock(|mock| {
        for mode in MODES {
            let pair = Pair::new(mock, mode, 0);
            mock.configure("deadlock_s=0.2");
            // SAFETY: the flag is alive.
            unsafe { wait_value(pair.zeros.address(), 1, &pair.a).unwrap() };
            let error = pair.a.synchronize().unwrap_err();
            assert!(matches!(error, Error::Cuda { call: "cuStreamSynchronize", code: 702, .. }), "{mode}: {error}");
            let reports = mock.reports().join("\n");
            assert!(reports.contains("DEADLOCK") && reports.contains("which holds 0"), "{mode}: {reports}");
            mock.reset("late", 0);
        }
    });
}

#[test]
fn virtual_time_shows_overlap() {
    on_mock(|mock| {
        let _context = context();
        let time = |two_streams: bool| {
            let pair = Pair::new(mock, "random", 5);
            let [first, second] = [(); 2].map(|()| DeviceMemory::new(2 << 20).unwrap());
            let [begin, end, joined] = [(); 3].map(|()| Event::new(true).unwrap());
            let other = if two_streams { &pair.b } else { &pair.a };
            begin.record(&pair.a).unwrap();
            pair.b.wait(&begin).unwrap();
            first.fill(0, &pair.a).unwrap();
            second.fill(0, other).unwrap();
            joined.record(&pair.b).unwrap();
            pair.a.wait(&joined).unwrap();
            end.record(&pair.a).unwrap();
            pair.a.synchronize().unwrap();
            end.milliseconds_since(&begin).unwrap()
        };
        let (serial, overlapped) = (time(false), time(true));
        assert!(overlapped < 0.51 * serial, "{overlapped} ms beside {serial} ms");
        assert!(Event::new(false).unwrap().milliseconds_since(&Event::new(true).unwrap()).is_err());
    });
}

#[test]
fn bad_addresses_are_reported_and_end_the_context() {
    on_mock(|mock| {
        let pair = Pair::new(mock, "late", 0);
        // SAFETY: the mock checks addresses before it touches them.
        unsafe { copy_device_to_device(pair.zeros.address() + 32, pair.ones.address(), 64, &pair.a).unwrap() };
        let error = pair.a.synchronize().unwrap_err().to_string();
        assert!(error.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{error}");
        assert!(Event::new(false).unwrap_err().to_string().contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "it stays");
        assert!(mock.reports()[0].contains("OUT OF BOUNDS"), "{:?}", mock.reports());
        mock.reset("late", 0);
        let gone = DeviceMemory::new(64).unwrap().address();
        // SAFETY: as above.
        unsafe { copy_device_to_device(gone, pair.ones.address(), 64, &pair.a).unwrap() };
        pair.a.synchronize().unwrap_err();
        assert!(mock.reports()[0].contains("USE AFTER FREE"), "{:?}", mock.reports());
        mock.reset("late", 0);
        let fresh = DeviceMemory::new(64).unwrap();
        // SAFETY: both are alive.
        unsafe { copy_device_to_device(pair.zeros.address(), fresh.address(), 64, &pair.a).unwrap() };
        pair.a.synchronize().unwrap();
        assert!(mock.reports()[0].contains("UNINITIALISED"), "{:?}", mock.reports());
        mock.reset("late", 0);
    });
}
