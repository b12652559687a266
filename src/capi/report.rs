//! What the last finished run did.

use std::ffi::c_char;

use super::abi::RankReport;
use super::handle::held;
use super::plans::no_rank;
use super::read::{fill, store_text};
use super::status::{Fault, Outcome, Status, guard};
use super::world::{Prepared, World};
use crate::exec::{Report, overlap, record, trace};

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_report(prepared: *const Prepared, rank: usize, report: *mut RankReport) -> Status {
    guard(|| {
        let prepared = held(prepared)?;
        let world = prepared.enter()?;
        let of = finished(&world)?;
        let bytes = of.bytes_sent.get(rank).zip(of.peak_bytes.get(rank));
        let (bytes_sent, peak_bytes) = bytes.ok_or_else(|| no_rank(rank, of.bytes_sent.len()))?;
        let time = overlap(of).into_iter().find(|overlap| overlap.rank == rank).unwrap_or_default();
        let value = RankReport {
            struct_bytes: 0,
            wall_ns: of.wall_ns,
            bytes_sent: *bytes_sent,
            peak_bytes: *peak_bytes as u64,
            compute_ns: time.compute_ns,
            comm_ns: time.comm_ns,
            exposed_ns: time.exposed_ns,
        };
        fill(report, &value)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_report_json(
    prepared: *const Prepared,
    text: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
) -> Status {
    guard(|| {
        let prepared = held(prepared)?;
        let world = prepared.enter()?;
        let json = record::of_report(finished(&world)?, "run", record::MEASURED, world.strategy);
        store_text(&record::of_reports(&[json]), text, capacity, bytes)
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_report_trace(
    prepared: *const Prepared,
    text: *mut c_char,
    capacity: usize,
    bytes: *mut usize,
) -> Status {
    guard(|| {
        let prepared = held(prepared)?;
        let world = prepared.enter()?;
        store_text(&trace::to_json(finished(&world)?), text, capacity, bytes)
    })
}

fn finished(world: &World) -> Outcome<&Report> {
    world.report.as_ref().ok_or_else(|| Fault::argument("no run was finished: call seqpar_run and seqpar_finish first"))
}
