//! The one place that hands device memory to the driver: every address comes from [`Bound`], whose
//! maker promised that what is bound is alive and ours; temporaries, flags and scratch belong to
//! it. That no two calls conflict is the law of the plans and of their lowered form.

use super::bound::Bound;
use super::prepared::ExternalCall;
use super::resolve::{Call, Message, Resolved};
use super::transport::Transport;
use crate::cuda::{Graph, Stream, copy_device_to_device, launch, wait_value, write_value};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Enqueues all calls of a run behind `caller`, and lets `caller` wait for their end. Where they are
/// `captured`, timers are taken by the graph.
pub(super) fn enqueue(bound: &Bound<'_>, caller: &Stream, captured: bool) -> Result<()> {
    let prepared = bound.prepared;
    // The runs before this one are over for `caller`.
    bound.flags.fill(0, caller)?;
    if let Some(ports) = &bound.ports {
        ports.clear(caller)?;
    }
    if prepared.options.poison {
        prepared.ranks.iter().try_for_each(|rank| rank.arena.fill(0xff, caller))?;
    }
    for word in bound.told.words() {
        // SAFETY: a word of `bound`.
        unsafe { write_value(word, 0, caller)? };
    }
    bound.fork.record(caller)?;
    for stream in &prepared.streams {
        stream.wait(&bound.fork)?;
    }
    for resolved in &bound.calls {
        enqueue_one(bound, resolved, captured).map_err(|error| named(bound, resolved, error))?;
    }
    for (stream, join) in prepared.streams.iter().zip(&bound.joins) {
        join.record(stream)?;
        caller.wait(join)?;
    }
    Ok(())
}

/// Launches the graph that [`enqueue`] was captured into.
pub(super) fn launch_graph(graph: &Graph, caller: &Stream) -> Result<()> {
    // SAFETY: as for the calls themselves; see the module.
    unsafe { graph.launch(caller) }
}

fn enqueue_one(bound: &Bound<'_>, resolved: &Resolved, captured: bool) -> Result<()> {
    let prepared = bound.prepared;
    let stream = &prepared.streams[resolved.stream];
    match &resolved.call {
        Call::Wait(event) => stream.wait(&prepared.events[*event]),
        Call::Record(event) => prepared.events[*event].record(stream),
        Call::Begin(timer) if captured => bound.timers[*timer].0.record_in_graph(stream),
        Call::End(timer) if captured => bound.timers[*timer].1.record_in_graph(stream),
        Call::Begin(timer) => bound.timers[*timer].0.record(stream),
        Call::End(timer) => bound.timers[*timer].1.record(stream),
        Call::Launch { function, geometry, params } => {
            // SAFETY: the launch layer made the parameters for this function; see the module.
            unsafe { launch(function, geometry, params, stream) }
        }
        Call::Copy { to, from, bytes } => {
            // SAFETY: both runs lie in buffers of the plans; see the module.
            unsafe { copy_device_to_device(*to, *from, *bytes, stream) }
        }
        Call::Staged { staging, to, from, bytes } => {
            // SAFETY: as for `Copy`; a staging belongs to `bound` and to one stream.
            unsafe { bound.stagings[*staging].copy(*to, *from, *bytes, stream) }
        }
        // SAFETY: a flag of `bound`, raised by a stream that does not depend on this one; or one of its
        // wires, raised by a peer as their module proves.
        Call::WaitFlag(address) => unsafe { wait_value(*address, 1, stream) },
        // SAFETY: a flag of `bound`, or of its wires, which keep the peers' flags mapped.
        Call::RaiseFlag(address) => unsafe { write_value(*address, 1, stream) },
        // SAFETY: as above.
        #[cfg(feature = "nccl")]
        Call::LowerFlag(address) => unsafe { write_value(*address, 0, stream) },
        Call::Exchange(_) => Err(Error::Unsupported("messages that are not connected".into())),
        // SAFETY: a word of `bound`.
        Call::Tell { address, count } => unsafe { write_value(*address, *count, stream) },
        Call::Group { communicator, dtype, messages } => {
            let label = resolved.op.map_or("", |op| prepared.rank(resolved.rank).plan.label(op));
            group(&prepared.transport, *communicator, label, *dtype, messages, stream)
        }
        Call::External { call, parts } => {
            let label = resolved.op.map_or("", |op| prepared.rank(resolved.rank).plan.label(op));
            call(ExternalCall { rank: resolved.rank, label, stream, parts })
        }
    }
}

#[cfg(feature = "nccl")]
fn group(
    transport: &Transport,
    communicator: usize,
    label: &str,
    dtype: Dtype,
    messages: &[Message],
    stream: &Stream,
) -> Result<()> {
    let Transport::Nccl(agreed) = transport else { return no_library() };
    agreed.group(communicator, label, |group| {
        for message in messages {
            // SAFETY: every address is a region of the plan, or scratch of `Bound`; see the module.
            unsafe {
                match *message {
                    Message::Send { peer, from, elems } => group.send(from, elems, dtype, peer, stream)?,
                    Message::Recv { peer, to, elems } => group.recv(to, elems, dtype, peer, stream)?,
                    Message::AllGather { from, to, elems } => group.all_gather(from, to, elems, dtype, stream)?,
                    Message::Broadcast { root, address, elems } => {
                        group.broadcast(address, address, elems, dtype, root, stream)?;
                    }
                    Message::ReduceScatter { from, to, elems } => {
                        group.reduce_scatter(from, to, elems, dtype, stream)?;
                    }
                    Message::AllReduce { from, to, elems } => group.all_reduce(from, to, elems, dtype, stream)?,
                }
            }
        }
        Ok(())
    })
}

#[cfg(not(feature = "nccl"))]
fn group(_: &Transport, _: usize, _: &str, _: Dtype, _: &[Message], _: &Stream) -> Result<()> {
    no_library()
}

fn no_library() -> Result<()> {
    Err(Error::Unsupported("a group of calls without a communication library: prepare with its transport".into()))
}

/// What failed between ranks says where by itself.
fn named(bound: &Bound<'_>, resolved: &Resolved, error: Error) -> Error {
    match (resolved.op, error) {
        (_, error @ Error::Between(_)) => error,
        (Some(op), error) => bound.prepared.rank(resolved.rank).failed(op, error),
        (None, error) => error,
    }
}
