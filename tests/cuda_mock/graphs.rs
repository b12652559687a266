//! Capture and replay.

use seqpar::cuda::{DeviceMemory, Event, Priority, Stream, capture};

use crate::mock::workload::{Ring, context};
use crate::mock::{MODES, on_mock};

#[test]
fn a_replayed_ring_is_right_every_time() {
    on_mock(|mock| {
        let context = context();
        for mode in MODES {
            mock.reset(mode, 7);
            let ring = Ring::new(6, 64).unwrap();
            let graph = capture(&ring.compute, || ring.run(None)).unwrap();
            for _ in 0..20 {
                // SAFETY: the ring outlives the work.
                unsafe { graph.launch(&ring.compute).unwrap() };
            }
            assert_eq!(ring.result().unwrap(), ring.expected(), "{mode}");
            context.synchronize().unwrap();
            mock.assert_clean(mode);
        }
    });
}

#[test]
fn a_wait_dropped_before_the_capture_is_reported() {
    on_mock(|mock| {
        let context = context();
        for mode in MODES {
            // Waits 2 to 8 of a ring order copies; without the first or the last it cannot be captured.
            for dropped in 2..9 {
                mock.reset(mode, dropped as u64);
                let ring = Ring::new(6, 64).unwrap();
                let graph = capture(&ring.compute, || ring.run(Some(dropped))).unwrap();
                // SAFETY: the ring outlives the work, and its copies are of bytes.
                unsafe { graph.launch(&ring.compute).unwrap() };
                context.synchronize().unwrap();
                let reports = mock.reports();
                assert!(reports.iter().any(|r| r.starts_with("RACE")), "{mode} {dropped}: {reports:?}");
            }
        }
    });
}

#[test]
fn what_cannot_be_captured_is_an_error_and_leaves_the_stream_usable() {
    on_mock(|mock| {
        let _context = context();
        let [a, b] = [(); 2].map(|()| Stream::new(Priority::Low).unwrap());
        let (outside, inside) = (Event::new(false).unwrap(), Event::new(false).unwrap());
        outside.record(&b).unwrap();
        let code = |result: seqpar::error::Result<seqpar::cuda::Graph>| result.unwrap_err().to_string();
        assert!(code(capture(&a, || a.synchronize())).contains("CAPTURE_UNSUPPORTED"));
        assert!(code(capture(&a, || a.wait(&outside))).contains("CAPTURE_ISOLATION"));
        let ring = Ring::new(2, 8).unwrap();
        assert!(code(capture(&a, || Ring::new(2, 8).map(drop))).contains("CAPTURE_UNSUPPORTED"));
        let memory = DeviceMemory::new(4).unwrap();
        let unjoined = capture(&a, || {
            inside.record(&a)?;
            b.wait(&inside)?;
            memory.fill(3, &b)
        });
        assert!(code(unjoined).contains("CAPTURE_UNJOINED"));
        // All of them are usable again.
        for stream in [&a, &b, &ring.compute, &ring.communication] {
            stream.synchronize().unwrap();
        }
        ring.run(None).unwrap();
        assert_eq!(ring.result().unwrap(), ring.expected());
        let graph = capture(&a, || memory.fill(3, &a)).unwrap();
        // SAFETY: the memory outlives the work.
        unsafe { graph.launch(&a).unwrap() };
        a.synchronize().unwrap();
        mock.assert_clean("captures that failed");
    });
}
