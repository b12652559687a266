//! Whole tensors through a prepared world: uploaded, scattered, run, gathered. For tests and the
//! command line; frameworks bind their own memory.

use std::collections::BTreeMap;

use super::bound::Bound;
use super::prepared::Prepared;
use crate::cuda::{DeviceMemory, Priority, Stream};
use crate::error::{Error, Result};
use crate::exec::placed::{check_tensor, for_each_run, gather, missing, names, placed};
use crate::exec::{HostTensor, Report};
use crate::plan::Role;

/// Scatters `inputs`, runs `times` times, and gathers the outputs of the last run.
///
/// # Errors
/// A missing or unknown tensor, one of another dtype or other extents than the plans expect, and
/// what a run reports.
pub fn run_tensors(
    prepared: &Prepared,
    inputs: &BTreeMap<String, HostTensor>,
    times: usize,
) -> Result<(BTreeMap<String, HostTensor>, Report)> {
    let stream = Stream::new(Priority::Low)?;
    let memory = Buffers::upload(prepared, inputs, &stream)?;
    // `memory` holds every input and output and lives longer than `bound`.
    let mut bound = Bound::new(prepared, &memory.addresses())?;
    let mut report = None;
    for _ in 0..times.max(1) {
        bound.run(&stream)?;
        report = Some(bound.finish()?);
    }
    drop(bound);
    let report = report.ok_or_else(|| Error::Unsupported("0 runs: run at least once".into()))?;
    Ok((memory.download(prepared, &stream)?, report))
}

/// The inputs and outputs of all ranks, each in device memory of its own.
struct Buffers {
    of: Vec<Vec<Option<DeviceMemory>>>,
}

impl Buffers {
    fn upload(prepared: &Prepared, inputs: &BTreeMap<String, HostTensor>, stream: &Stream) -> Result<Self> {
        let known = names(&prepared.buffers, Role::Input);
        if let Some(name) = inputs.keys().find(|name| !known.contains(name)) {
            return Err(Error::Bind(format!("no input tensor \"{name}\": the plan's inputs are {}", known.join(", "))));
        }
        let mut of: Vec<Vec<Option<DeviceMemory>>> =
            prepared.buffers.iter().map(|list| list.iter().map(|_| None).collect()).collect();
        for role in [Role::Input, Role::Output] {
            for (rank, id) in Bound::buffers_of(prepared, role) {
                let memory = DeviceMemory::new(prepared.buffers[rank][id].bytes())?;
                memory.fill(0xff, stream)?;
                of[rank][id] = Some(memory);
            }
        }
        for (rank, id, buffer, placement) in placed(&prepared.buffers, Role::Input) {
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

    fn addresses(&self) -> Vec<Vec<Option<u64>>> {
        let address = |memory: &Option<DeviceMemory>| memory.as_ref().map(DeviceMemory::address);
        self.of.iter().map(|list| list.iter().map(address).collect()).collect()
    }

    fn download(&self, prepared: &Prepared, stream: &Stream) -> Result<BTreeMap<String, HostTensor>> {
        let mut bytes: BTreeMap<(usize, usize), Vec<u8>> = BTreeMap::new();
        for (rank, id) in Bound::buffers_of(prepared, Role::Output) {
            if let Some(memory) = &self.of[rank][id] {
                let mut local = vec![0; memory.bytes()];
                memory.read(0, &mut local, stream)?;
                bytes.insert((rank, id), local);
            }
        }
        gather(&prepared.buffers, |rank, id| bytes.get(&(rank, id)).map(Vec::as_slice))
    }
}
