//! Handles that were given back, and handles that two threads have.

use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use seqpar::capi::abi::{HostOptions, RankReport};
use seqpar::capi::kernels::{Kernels, seqpar_kernels_destroy};
use seqpar::capi::plans::{Plans, seqpar_plans_check, seqpar_plans_destroy, seqpar_plans_world};
use seqpar::capi::prepare::seqpar_prepare_host;
use seqpar::capi::report::seqpar_report;
use seqpar::capi::run::{seqpar_bind, seqpar_finish, seqpar_prepared_destroy, seqpar_run};
use seqpar::capi::world::Prepared;
use seqpar::dtype::Dtype;
use seqpar::strategy::Strategy;

use crate::kernels::{OnHost, call, every_kernel, sized};
use crate::memory::ABSENT;
use crate::plans::problem_of;
use crate::support::cases::Case;
use crate::world::{Bound, World};
use crate::{last_error, ok, refused};

const DESTROYED: &str = "or it was destroyed";

#[test]
fn what_was_given_back_is_refused_and_given_back_once() {
    let kernels: *mut Kernels = {
        let made = OnHost::new(1);
        made.0
    };
    let kernel = every_kernel(Dtype::F32, 16, 8).remove(0);
    let tensors = vec![ABSENT; kernel.operands().len()];
    refused(call(kernels, &kernel, &tensors, null_mut()), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
    let world = World::new(&problem_of(&Case::plain(Dtype::F32, 8, 2, 8), Strategy::Ulysses, 2));
    let plans: *mut Plans = world.0;
    let mut prepared = null_mut();
    let (mut ranks, mut report): (usize, RankReport) = (0, sized());
    // SAFETY: all places are alive; nobody looks behind a handle.
    unsafe {
        ok(seqpar_prepare_host(plans, null(), &mut prepared));
        seqpar_plans_destroy(plans);
        refused(seqpar_plans_world(plans, &mut ranks), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
        refused(seqpar_plans_check(plans), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
        seqpar_prepared_destroy(prepared);
        refused(seqpar_run(prepared, null_mut()), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
        refused(seqpar_finish(prepared), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
        refused(seqpar_report(prepared, 0, &mut report), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
        // A new handle never takes the place of an old one.
        let again = OnHost::new(1);
        assert_ne!(again.0, kernels);
        for _ in 0..2 {
            seqpar_kernels_destroy(kernels);
            seqpar_plans_destroy(plans);
            seqpar_prepared_destroy(prepared);
            seqpar_plans_destroy(again.0.cast());
        }
        let tensors = vec![ABSENT; kernel.operands().len()];
        refused(call(again.0, &kernel, &tensors, null_mut()), "SEQPAR_INVALID_ARGUMENT", "data is null");
    }
}

/// Runs on a link so slow that another thread comes in between.
fn slow_world() -> (World, *mut Prepared, Vec<Bound>, Vec<Vec<u128>>) {
    let world = World::new(&problem_of(&Case::plain(Dtype::F32, 8, 2, 8), Strategy::Ulysses, 2));
    let options = HostOptions { link_latency_s: 0.5, ..sized() };
    let mut prepared = null_mut();
    // SAFETY: all are alive.
    ok(unsafe { seqpar_prepare_host(world.0, &options, &mut prepared) });
    let bound = world.bound();
    let mut memory: Vec<Vec<u128>> = bound.iter().map(|of| vec![0; of.bytes.div_ceil(16) + 1]).collect();
    for (of, memory) in bound.iter().zip(&mut memory) {
        // SAFETY: the memory outlives the runs.
        ok(unsafe { seqpar_bind(prepared, of.rank, of.index, memory.as_mut_ptr().cast(), of.bytes) });
    }
    (world, prepared, bound, memory)
}

#[test]
fn a_second_thread_is_told_and_takes_nothing_from_under_the_first() {
    let (_world, prepared, _bound, _memory) = slow_world();
    let number = prepared as usize;
    // SAFETY: what is bound is alive.
    let run = move || unsafe { seqpar_run(number as *mut Prepared, null_mut()) };
    let is_taken = |status: i32| status != 0 && last_error().contains("another thread");
    std::thread::scope(|scope| {
        let first = scope.spawn(move || {
            loop {
                let status = run();
                if !is_taken(status) {
                    return status;
                }
            }
        });
        // Asked until its run has begun.
        let begin = Instant::now();
        // SAFETY: a handle that is alive.
        while !is_taken(unsafe { seqpar_finish(prepared) }) {
            assert!(begin.elapsed() < Duration::from_secs(60), "it never began");
            std::thread::sleep(Duration::from_millis(1));
        }
        refused(run(), "SEQPAR_INVALID_ARGUMENT", "another thread");
        // SAFETY: given up.
        unsafe { seqpar_prepared_destroy(prepared) };
        assert!(!first.is_finished(), "the one who gives it back does not wait");
        refused(run(), "SEQPAR_INVALID_ARGUMENT", DESTROYED);
        assert_eq!(first.join().unwrap(), 0, "the run goes on");
    });
}
