//! Scheduler overhead: host time of one `run`, a launch of the executor's, beside the same driver
//! calls written out by hand: as many launches, copies, records and waits on as many streams, with
//! everything looked up before. Both are enqueued only; the device catches up between two.

use std::time::Instant;

use seqpar::Result;
use seqpar::cuda::{
    Context, DeviceMemory, Event, Function, Geometry, Priority, Stream, capture, copy_device_to_device, launch,
};
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::program::{Action, Part, Program, world};
use seqpar::exec::cuda::{CudaOptions, Kernels, prepare, with_tensors};
use seqpar::kernel::cuda::launches;
use seqpar::plan::lower::Gates;
use seqpar::plan::{Checked, Plan};
use serde_json::json;

use crate::ground::{Done, Ground, median};
use crate::loopback::{layer, plans, world_named};
use crate::operands::Operands;
use crate::support::Rng;
use crate::support::cases::{Case, layer_inputs};

pub(crate) fn overhead(ground: &Ground) -> Done {
    let (warm_up, rounds) = ground.pick((20, 200), (1, 2));
    // Small, so that the device is done sooner than the host.
    let case = Case::plain(Dtype::Bf16, ground.pick(256, 16), 8, 64);
    let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(9));
    for (name, ranks) in [("single", 1), ("fastseq", 2), ("fastseq", 4), ("ulysses", 4), ("usp 2x2", 4)] {
        let plans = plans(&case, &world_named(ranks, name)?, ranks)?;
        let ops: usize = plans.iter().map(|plan| plan.ops.len()).sum();
        for graph in [false, true] {
            let context = Context::primary(0)?;
            let kernels = ground.kernels(&context)?;
            let hand = Hand::new(&kernels, &plans)?;
            let mut options = CudaOptions::default();
            (options.graph, options.poison) = (graph, false);
            let prepared = prepare(context, kernels, plans.clone(), options)?;
            let times = with_tensors(&prepared, &inputs, |bound, stream, _| {
                let replay = if graph { Some(hand.captured()?) } else { None };
                let mut times = (Vec::new(), Vec::new());
                for round in 0..warm_up + rounds {
                    let begin = Instant::now();
                    bound.run(stream)?;
                    let ours = begin.elapsed();
                    bound.finish()?;
                    let begin = Instant::now();
                    match &replay {
                        Some(replay) => {
                            hand.start.record(stream)?;
                            // SAFETY: all that it uses belongs to `hand`, one run at a time.
                            unsafe { replay.launch(stream) }?;
                            hand.end.record(stream)?;
                        }
                        None => hand.enqueue(stream)?,
                    }
                    let theirs = begin.elapsed();
                    stream.synchronize()?;
                    if round >= warm_up {
                        times.0.push(ours.as_secs_f64() * 1e6);
                        times.1.push(theirs.as_secs_f64() * 1e6);
                    }
                }
                Ok(times)
            })?;
            let (ours, theirs) = (median(times.0), median(times.1));
            // Times on the mock are its own.
            let ok = ground.mock || ours <= 1.1 * theirs;
            let fields = json!({
                "us": ours, "by_hand_us": theirs, "ratio": ours / theirs, "ops": ops,
                "us_per_op": ours / ops as f64, "driver_calls": hand.calls.len(),
            });
            ground.say(&format!("{name} of {ranks}, graph {graph}"), ok, fields);
        }
    }
    Ok(())
}

enum Call {
    Launch(Function, Geometry, Vec<u8>),
    Copy(usize),
    Record(usize),
    Wait(usize),
}

/// The driver calls of a program, written out.
struct Hand {
    /// With the stream of each.
    calls: Vec<(usize, Call)>,
    streams: Vec<Stream>,
    events: Vec<Event>,
    fork: Event,
    joins: Vec<Event>,
    start: Event,
    end: Event,
    from: DeviceMemory,
    to: DeviceMemory,
    _operands: Vec<Operands>,
}

impl Hand {
    fn new(kernels: &Kernels, plans: &[Checked<Plan>]) -> Result<Self> {
        let lowered: Vec<_> = plans.iter().map(|plan| plan.lowered(Gates::Events)).collect();
        let program: Program =
            world(&plans.iter().map(|plan| &**plan).collect::<Vec<_>>(), &lowered.iter().collect::<Vec<_>>())?;
        let upload = Stream::new(Priority::Low)?;
        let bytes = |part: &Part| {
            let plan = &plans[part.rank];
            plan.access_bytes(&plan.accesses(part.op)[part.access])
        };
        let (mut calls, mut operands, mut most) = (Vec::new(), Vec::new(), 1);
        for step in &program.steps {
            let plan = &plans[step.rank];
            match &step.action {
                Action::Wait(event) => calls.push((step.stream, Call::Wait(*event))),
                Action::Record(event) => calls.push((step.stream, Call::Record(*event))),
                Action::Message { from, .. } => calls.push((step.stream, Call::Copy(bytes(from)))),
                Action::Copy(op) => {
                    let part = Part { rank: step.rank, op: *op, access: 0 };
                    calls.push((step.stream, Call::Copy(bytes(&part))));
                }
                Action::Kernel(op, _) => {
                    let Some(kernel) = plan.kernel(*op) else { continue };
                    let own = Operands::new(kernel, &upload)?;
                    for piece in 0..kernel.pieces() {
                        for one in launches(kernel, piece, &own.views(piece), &kernels.device())? {
                            let [grid, block] = [one.grid, one.block];
                            let geometry = Geometry { grid, block, shared_bytes: one.shared_bytes, dependent: false };
                            let call = Call::Launch(kernels.prepare(&one)?, geometry, kernels.encode(&one)?);
                            calls.push((step.stream, call));
                        }
                    }
                    operands.push(own);
                }
                _ => {}
            }
        }
        upload.synchronize()?;
        for (_, call) in &calls {
            if let Call::Copy(bytes) = call {
                most = most.max(*bytes);
            }
        }
        let streams = program.streams.iter().map(|_| Stream::new(Priority::Low)).collect::<Result<Vec<_>>>()?;
        let event = |_| Event::new(false);
        Ok(Self {
            calls,
            joins: (0..streams.len()).map(event).collect::<Result<_>>()?,
            streams,
            events: (0..program.events).map(event).collect::<Result<_>>()?,
            fork: Event::new(false)?,
            start: Event::new(true)?,
            end: Event::new(true)?,
            from: DeviceMemory::new(most)?,
            to: DeviceMemory::new(most)?,
            _operands: operands,
        })
    }

    fn enqueue(&self, caller: &Stream) -> Result<()> {
        self.start.record(caller)?;
        self.body(caller)?;
        self.end.record(caller)
    }

    fn body(&self, caller: &Stream) -> Result<()> {
        self.fork.record(caller)?;
        for stream in &self.streams {
            stream.wait(&self.fork)?;
        }
        for (stream, call) in &self.calls {
            let stream = &self.streams[*stream];
            match call {
                Call::Wait(event) => stream.wait(&self.events[*event])?,
                Call::Record(event) => self.events[*event].record(stream)?,
                // SAFETY: both are as long as the longest copy; what they hold is nobody's result.
                Call::Copy(bytes) => unsafe {
                    copy_device_to_device(self.to.address(), self.from.address(), *bytes, stream)?;
                },
                // SAFETY: the operands live as long as `self`; what they hold is nobody's result.
                Call::Launch(function, geometry, params) => unsafe { launch(function, geometry, params, stream)? },
            }
        }
        for (stream, join) in self.streams.iter().zip(&self.joins) {
            join.record(stream)?;
            caller.wait(join)?;
        }
        Ok(())
    }

    fn captured(&self) -> Result<seqpar::cuda::Graph> {
        let origin = Stream::new(Priority::Low)?;
        capture(&origin, || self.body(&origin))
    }
}
