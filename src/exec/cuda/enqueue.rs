//! The one place that hands device memory to the driver: every address comes from [`Bound`], whose
//! maker promised that what is bound is alive and ours; temporaries, flags and scratch belong to
//! it. That no two calls conflict is the law of the plans and of their lowered form.

use super::bound::Bound;
use super::finish::HOW_TO_BE_TOLD;
use super::prepared::ExternalCall;
use super::ranges::Issue;
use super::resolve::{Call, Message, Resolved};
use super::transport::Transport;
use crate::cuda::{Event, Graph, Stream, copy_device_to_device, fill_device, launch, wait_value, write_value};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::plan::OpId;

/// Enqueues all calls of a run behind `caller`, and lets `caller` wait for their end.
pub(super) fn enqueue(bound: &Bound<'_>, caller: &Stream) -> Result<()> {
    let prepared = bound.prepared;
    // The runs before this one are over for `caller`.
    bound.flags.fill(0, caller)?;
    if let Some(ports) = &bound.ports {
        ports.clear(caller)?;
    }
    if prepared.options.poison {
        prepared.ranks.iter().try_for_each(|rank| rank.arena.fill(0xff, caller))?;
    }
    for word in bound.progress.cleared() {
        // SAFETY: a word of `bound`.
        unsafe { write_value(word, 0, caller)? };
    }
    bound.fork.record(caller)?;
    for stream in &prepared.streams {
        stream.wait(&bound.fork)?;
    }
    let mut calls = bound.calls.iter().enumerate();
    let mut issue = Issue::new(bound.ranges.as_ref());
    let enqueued = calls.try_for_each(|(at, call)| {
        issue.at(at);
        enqueue_one(bound, call).map_err(|error| named(bound, at, error))
    });
    drop(issue);
    if enqueued.is_err() {
        open_gates(bound, caller);
    }
    // After a failure too: what was enqueued uses the caller's memory.
    let joins = prepared.streams.iter().zip(&bound.joins);
    let joined = joins.map(|(stream, join)| join.record(stream).and_then(|()| caller.wait(join)));
    enqueued.and(joined.fold(Ok(()), Result::and))
}

/// Nobody here waits for what will not be enqueued any more; a peer must not take it for done.
fn open_gates(bound: &Bound<'_>, caller: &Stream) {
    let own = bound.flags.address()..bound.flags.address() + bound.flags.bytes() as u64;
    for call in &bound.calls {
        if let Call::RaiseFlag(address) = call.call
            && own.contains(&address)
        {
            // SAFETY: a flag of `bound`. What it lets run is worthless and ours.
            if let Err(error) = unsafe { write_value(address, 1, caller) } {
                log::error!("a gate stays shut until its deadline: {error}");
            }
        }
    }
}

/// Launches the graph that [`enqueue`] was captured into.
pub(super) fn launch_graph(graph: &Graph, caller: &Stream) -> Result<()> {
    // SAFETY: as for the calls themselves; see the module.
    unsafe { graph.launch(caller) }
}

fn enqueue_one(bound: &Bound<'_>, resolved: &Resolved) -> Result<()> {
    let prepared = bound.prepared;
    let stream = &prepared.streams[resolved.stream];
    match &resolved.call {
        Call::Wait(event) => stream.wait(&prepared.events[*event]),
        Call::Record(event) => prepared.events[*event].record(stream),
        Call::Begin(timer) => time(bound, &bound.timers[*timer].0, stream),
        Call::End(timer) => time(bound, &bound.timers[*timer].1, stream),
        Call::Launch { function, geometry, params } => {
            // SAFETY: the launch layer made the parameters for this function; see the module.
            unsafe { launch(function, geometry, params, stream) }
        }
        Call::Copy { to, from, bytes } => {
            // SAFETY: both runs lie in buffers of the plans; see the module.
            unsafe { copy_device_to_device(*to, *from, *bytes, stream) }
        }
        // SAFETY: the run lies in a buffer of the plans; see the module.
        Call::Clear { to, bytes } => unsafe { fill_device(*to, 0, *bytes, stream) },
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
        Call::Tell { address, place } => unsafe {
            write_value(*address, bound.progress.count(resolved.stream, *place), stream)
        },
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

fn time(bound: &Bound<'_>, timer: &Event, stream: &Stream) -> Result<()> {
    if bound.prepared.options.graph { timer.record_in_graph(stream) } else { timer.record(stream) }
}

/// What the driver says of work that it was given before, at whatever call comes next: memory errors,
/// lost launches, assertions and traps of a kernel.
const OF_EARLIER_WORK: [u32; 10] = [214, 700, 702, 710, 714, 715, 716, 717, 718, 719];

/// With the op that call `at` is made for. What failed between ranks says where by itself.
fn named(bound: &Bound<'_>, at: usize, error: Error) -> Error {
    match (op_of(&bound.calls, at), error) {
        (_, error @ Error::Between(_)) => error,
        (Some((rank, op)), Error::Cuda { call, code, why }) if OF_EARLIER_WORK.contains(&code) => {
            let label = bound.prepared.rank(rank).plan.label(op);
            let known = format!("work up to op \"{label}\" of rank {rank}, the one being enqueued");
            Error::Cuda { call, code, why: format!("{why}; it is of {known}; {HOW_TO_BE_TOLD}") }
        }
        (Some((rank, op)), error) => bound.prepared.rank(rank).failed(op, error),
        (None, error) => error,
    }
}

/// Rank and op that call `at` is made for; waits belong to the op behind them, records to the one
/// before.
pub(super) fn op_of(calls: &[Resolved], at: usize) -> Option<(usize, OpId)> {
    let of = calls.get(at)?;
    let on_its_stream = |other: &&Resolved| other.stream == of.stream && other.op.is_some();
    let call = match of.call {
        Call::Wait(_) => calls[at..].iter().find(on_its_stream),
        _ => calls[..=at].iter().rfind(on_its_stream),
    };
    call.and_then(|call| Some((call.rank, call.op?)))
}
