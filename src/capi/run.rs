//! Binding, running, finishing.

use std::ffi::c_void;

use super::compute::no_stream;
use super::handle::{held, take};
use super::read::check_pointer;
use super::status::{Fault, Outcome, Status, guard, guard_destroy};
use super::world::{Executor, Prepared, Slot, World};
use crate::exec::host;
use crate::plan::BufferId;

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_bind(
    prepared: *mut Prepared,
    rank: usize,
    index: usize,
    data: *mut c_void,
    bytes: usize,
) -> Status {
    guard(|| {
        let prepared = held(prepared.cast_const())?;
        let mut world = prepared.enter()?;
        if world.running {
            return Err(Fault::argument("a run is in flight: call seqpar_finish before seqpar_bind"));
        }
        let slot = world.slot(rank, index)?;
        let unfit = |why: String| Fault::Crate(crate::Error::Bind(why));
        if bytes != slot.bytes {
            return Err(unfit(format!(
                "buffer {} of rank {rank} has {} bytes, {bytes} were given",
                slot.name, slot.bytes
            )));
        }
        let address = data.expose_provenance();
        if bytes > 0 {
            check_pointer(data.cast::<u8>(), "data")?;
            if !address.is_multiple_of(slot.alignment) || address.checked_add(bytes).is_none() {
                return Err(unfit(format!(
                    "buffer {} of rank {rank}: align it to {} bytes",
                    slot.name, slot.alignment
                )));
            }
        }
        if slot.address == Some(address) {
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        if let Executor::Device(on_device) = &mut world.executor {
            on_device.unbind()?;
        }
        world.slot(rank, index)?.address = Some(address);
        world.is_bound = false;
        Ok(())
    })
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_run(prepared: *mut Prepared, stream: *mut c_void) -> Status {
    guard(|| {
        let prepared = held(prepared.cast_const())?;
        let mut world = prepared.enter()?;
        world.check_bound()?;
        let World { executor, slots, running, report, .. } = &mut *world;
        match executor {
            Executor::Host { prepared, report } => {
                no_stream(stream)?;
                *report = None;
                *report = Some(run_on_host(prepared, slots)?);
            }
            #[cfg(feature = "cuda")]
            Executor::Device(on_device) => on_device.run(slots, stream as u64)?,
        }
        (*running, *report) = (true, None);
        Ok(())
    })
}

fn run_on_host(prepared: &mut host::Prepared, slots: &[Vec<Option<Slot>>]) -> Outcome<crate::exec::Report> {
    let mut bindings = prepared.bindings();
    for (rank, list) in slots.iter().enumerate() {
        for (index, slot) in list.iter().enumerate() {
            let Some((slot, address)) = slot.as_ref().and_then(|slot| Some((slot, slot.address?))) else { continue };
            let data = match slot.bytes {
                0 => std::ptr::NonNull::<u64>::dangling().as_ptr().cast(),
                _ => std::ptr::with_exposed_provenance_mut::<u8>(address),
            };
            let buffer = BufferId(index as u32);
            if slot.writes {
                // SAFETY: the caller's memory, of that many bytes and his to lend during the run; no
                // other buffer overlaps it.
                bindings.output(rank, buffer, unsafe { std::slice::from_raw_parts_mut(data, slot.bytes) })?;
            } else {
                // SAFETY: as above; only inputs may overlap it.
                bindings.input(rank, buffer, unsafe { std::slice::from_raw_parts(data, slot.bytes) })?;
            }
        }
    }
    Ok(prepared.run(&mut bindings)?)
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_finish(prepared: *mut Prepared) -> Status {
    guard(|| {
        let prepared = held(prepared.cast_const())?;
        finish(&mut *prepared.enter()?)
    })
}

fn finish(world: &mut World) -> Outcome {
    if !world.running {
        return Err(Fault::argument("nothing was run: call seqpar_run first"));
    }
    let finished: Outcome<Option<crate::exec::Report>> = match &mut world.executor {
        Executor::Host { report, .. } => Ok(report.take()),
        #[cfg(feature = "cuda")]
        Executor::Device(on_device) => on_device.finish(),
    };
    // A run that is late is still one.
    world.running = match &world.executor {
        Executor::Host { .. } => false,
        #[cfg(feature = "cuda")]
        Executor::Device(on_device) => finished.is_err() && !on_device.is_at_rest(),
    };
    world.report = finished?;
    Ok(())
}

/// See the header.
///
/// # Safety
/// What the header asks of its arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn seqpar_prepared_destroy(prepared: *mut Prepared) {
    guard_destroy(|| drop(take(prepared)));
}
