//! Whole tensors through a prepared world: uploaded, scattered, run, gathered. For tests and the
//! command line; frameworks bind their own memory.

use std::collections::BTreeMap;

use super::bound::Bound;
use super::prepared::Prepared;
use crate::cuda::{DeviceMemory, Priority, Stream};
use crate::error::{Error, Result};
use crate::exec::placed::{check_tensor, for_each_run, gather, missing, names, placed};
use crate::exec::{HostTensor, Report};
use crate::plan::{Buffer, Role};

/// Scatters `inputs`, runs `times` times, and gathers the outputs of the last run. All ranks are
/// here ([`super::prepare`]).
///
/// # Errors
/// A missing or unknown tensor, one of another dtype or other extents than the plans expect, and
/// what a run reports.
pub fn run_tensors(
    prepared: &Prepared,
    inputs: &BTreeMap<String, HostTensor>,
    times: usize,
) -> Result<(BTreeMap<String, HostTensor>, Report)> {
    check_names(&prepared.buffers, inputs)?;
    let (outputs, report) = run_local(prepared, inputs, times)?;
    Ok((gathered(&prepared.buffers, &outputs)?, report))
}

/// The outputs of the ranks that are here, by rank and buffer.
pub type Outputs = Vec<Vec<Option<Vec<u8>>>>;

/// As [`run_tensors`], without the other ranks' parts.
///
/// # Errors
/// As [`run_tensors`].
pub fn run_local(
    prepared: &Prepared,
    inputs: &BTreeMap<String, HostTensor>,
    times: usize,
) -> Result<(Outputs, Report)> {
    with_tensors(prepared, inputs, |bound, stream, outputs| {
        let report = run_times(bound, stream, times)?;
        Ok((outputs()?, report))
    })
}

/// Hands what is bound to whole tensors to `work`, with the stream to run it on and what reads the
/// outputs of the last run: for tests and measurements of many runs.
#[doc(hidden)]
pub fn with_tensors<T>(
    prepared: &Prepared,
    inputs: &BTreeMap<String, HostTensor>,
    work: impl FnOnce(&mut Bound<'_>, &Stream, &dyn Fn() -> Result<Outputs>) -> Result<T>,
) -> Result<T> {
    let _current = prepared.context.enter()?;
    let stream = Stream::new(Priority::Low)?;
    let mut memory = Buffers::upload(&prepared.buffers, inputs, &stream)?;
    // `memory` holds every input and output and lives longer than `bound`.
    let mut bound = Bound::new(prepared, &memory.addresses())?;
    let result = work(&mut bound, &stream, &|| memory.download(&prepared.buffers, &stream));
    drop(bound);
    if prepared.is_wedged() {
        memory.leave();
    }
    result
}

fn run_times(bound: &mut Bound<'_>, stream: &Stream, times: usize) -> Result<Report> {
    let mut once = || bound.run(stream).and_then(|()| bound.finish());
    for _ in 1..times {
        once()?;
    }
    once()
}

/// Refuses an input that no rank has.
pub(super) fn check_names(buffers: &[Vec<Buffer>], inputs: &BTreeMap<String, HostTensor>) -> Result<()> {
    let known = names(buffers, Role::Input);
    match inputs.keys().find(|name| !known.contains(name)) {
        Some(name) => {
            Err(Error::Bind(format!("no input tensor \"{name}\": the plan's inputs are {}", known.join(", "))))
        }
        None => Ok(()),
    }
}

/// The global outputs of a world, from those of all its ranks, in order.
///
/// # Errors
/// Outputs that are not there.
pub fn gathered(buffers: &[Vec<Buffer>], outputs: &Outputs) -> Result<BTreeMap<String, HostTensor>> {
    gather(buffers, |rank, id| outputs.get(rank)?.get(id)?.as_deref())
}

/// The inputs and outputs of some ranks, each in device memory of its own.
struct Buffers {
    of: Vec<Vec<Option<DeviceMemory>>>,
}

impl Buffers {
    fn upload(buffers: &[Vec<Buffer>], inputs: &BTreeMap<String, HostTensor>, stream: &Stream) -> Result<Self> {
        let mut of = Vec::new();
        for list in buffers {
            let mut own = Vec::new();
            for buffer in list {
                own.push(match buffer.role {
                    Role::Temp => None,
                    Role::Input | Role::Output => {
                        let memory = DeviceMemory::new(buffer.bytes())?;
                        memory.fill(0xff, stream)?;
                        Some(memory)
                    }
                });
            }
            of.push(own);
        }
        for (rank, id, buffer, placement) in placed(buffers, Role::Input) {
            let tensor = inputs.get(&placement.tensor).ok_or_else(|| missing(rank, buffer))?;
            check_tensor(&placement.tensor, tensor, buffer, placement)?;
            let mut local = vec![0; buffer.bytes()];
            for_each_run(buffer, placement, |at, global, len| {
                local[at..at + len].copy_from_slice(&tensor.bytes[global..global + len]);
            });
            if let Some(memory) = &of[rank][id] {
                memory.write(0, &local, stream)?;
            }
        }
        stream.synchronize()?;
        Ok(Self { of })
    }

    fn leave(&mut self) {
        self.of.iter_mut().flatten().flatten().for_each(DeviceMemory::leave);
    }

    fn addresses(&self) -> Vec<Vec<Option<u64>>> {
        let address = |memory: &Option<DeviceMemory>| memory.as_ref().map(DeviceMemory::address);
        self.of.iter().map(|list| list.iter().map(address).collect()).collect()
    }

    fn download(&self, buffers: &[Vec<Buffer>], stream: &Stream) -> Result<Outputs> {
        let mut outputs = Vec::new();
        for (list, own) in buffers.iter().zip(&self.of) {
            let mut bytes = Vec::new();
            for (buffer, memory) in list.iter().zip(own) {
                bytes.push(match memory {
                    Some(memory) if buffer.role == Role::Output => {
                        let mut local = vec![0; memory.bytes()];
                        memory.read(0, &mut local, stream)?;
                        Some(local)
                    }
                    _ => None,
                });
            }
            outputs.push(bytes);
        }
        Ok(outputs)
    }
}
