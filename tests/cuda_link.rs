//! Loopback made slow, and through pinned host memory, on the mock driver: the bits are those of
//! plain copies, nothing is reported, and by the device's clock a message takes at least what the
//! link says.
#![cfg(feature = "cuda")]

mod emulation;
mod mock;
mod support;

use seqpar::cuda::{DeviceMemory, Priority, Staging, Stream};
use seqpar::dtype::Dtype;
use seqpar::exec::cuda::{CudaOptions, Kernels, Link, Route, prepare, run_tensors};
use seqpar::exec::{HostTensor, Report, SpanKind};
use seqpar::plan::lower::Gates;
use seqpar::plan::{Builder, Checked, CommKind, Direction, Placement, Plan, Role, check_world};
use seqpar::strategy::{self, LayerProblem, Options};

use mock::workload::context;
use mock::{MODES, Mock, on_mock};
use support::cases::{Case, layer_inputs};
use support::worlds::{World, worlds};
use support::{Rng, Tensors, assert_same_bits};

const LINK: Link = Link { bytes_per_s: 50e6, latency_s: 20e-6 };

fn layer(case: &Case, ranks: usize) -> LayerProblem {
    LayerProblem {
        attention: case.problem(case.even(ranks)),
        hidden: 64,
        qkv_bias: true,
        proj_bias: false,
        text_weights: false,
        qk_norm: None,
        rope: None,
        mlp: None,
    }
}

fn plans(case: &Case, world: &World, ranks: usize) -> Vec<Checked<Plan>> {
    let problem = layer(case, ranks);
    let options = Options { gated: true, ..Options::default() };
    check_world(strategy::layer(&problem, world.strategy, &world.mesh, &options).unwrap()).unwrap()
}

fn run(
    mock: &Mock,
    plans: Vec<Checked<Plan>>,
    inputs: &Tensors,
    options: CudaOptions,
    what: &str,
) -> (Tensors, Report) {
    let context = context();
    // SAFETY: the mock does not read images.
    let kernels = unsafe { Kernels::load(&context, &[b"any image"]) }.unwrap();
    let prepared = prepare(context, kernels, plans, options).unwrap();
    let result = run_tensors(&prepared, inputs, 2);
    mock.assert_clean(what);
    drop(prepared);
    assert_eq!(mock.leaks(), Vec::<String>::new(), "{what}");
    result.unwrap_or_else(|e| panic!("{what}: {e}"))
}

#[test]
fn a_link_and_a_route_change_no_bit() {
    on_mock(|mock| {
        let case = Case { text: 3, ..Case::plain(Dtype::Bf16, 9, 3, 64) };
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        for ranks in [2, 3] {
            for (i, world) in worlds(ranks).into_iter().enumerate() {
                // Three ranks: what two do not have, sums of three and rings that go round.
                if ranks == 3 && !["fastseq", "ring", "megatron"].contains(&world.strategy.name()) {
                    continue;
                }
                mock.reset("late", 1);
                let (plain, _) = run(mock, plans(&case, &world, ranks), &inputs, CudaOptions::default(), "plain");
                let ways = [(Some(LINK), Route::Device), (None, Route::Pinned), (Some(LINK), Route::Pinned)];
                let ways = ways.into_iter().enumerate().filter(|(j, _)| ranks == 2 || *j == 2);
                for (j, (link, route)) in ways {
                    let mode = MODES[(i + j) % MODES.len()];
                    mock.reset(mode, 3);
                    let mut options = CudaOptions::default();
                    (options.link, options.route) = (link, route);
                    options.graph = (i + j) % 2 == 0;
                    options.gates = if options.graph { Gates::Events } else { Gates::Flags };
                    let what =
                        format!("{} of {ranks}, {mode}, {link:?}, {route:?}, graph {}", world.name(), options.graph);
                    let (outputs, _) = run(mock, plans(&case, &world, ranks), &inputs, options, &what);
                    assert_same_bits(&what, &outputs, &plain);
                }
            }
        }
    });
}

/// What the op receives takes its port for its bytes, and a latency besides.
fn shortest_ns(plan: &Plan, op: seqpar::plan::OpId) -> u64 {
    let received: usize = (plan.comm(op).unwrap().transfers.iter().zip(plan.accesses(op)))
        .filter(|(t, _)| t.direction == seqpar::plan::Direction::Recv && t.peer != plan.rank)
        .map(|(_, access)| plan.access_bytes(access))
        .sum();
    if received == 0 { 0 } else { ((received as f64 / LINK.bytes_per_s + LINK.latency_s) * 1e9) as u64 }
}

#[test]
fn messages_take_the_time_of_the_link() {
    on_mock(|mock| {
        let case = Case::plain(Dtype::Bf16, 24, 2, 64);
        let inputs = layer_inputs(&case, &layer(&case, 1), &mut Rng(7));
        for world in worlds(2) {
            let longer_without = |link, route| {
                mock.reset("late", 5);
                let mut options = CudaOptions::default();
                (options.link, options.route, options.timed) = (link, route, true);
                let checked = plans(&case, &world, 2);
                let plans: Vec<Plan> = checked.iter().map(|plan| Plan::clone(plan)).collect();
                let (_, report) = run(mock, checked, &inputs, options, &world.name());
                let comms = report.spans.iter().filter(|span| span.kind == SpanKind::Comm);
                let long = comms.map(|span| {
                    let plan = &plans[span.rank];
                    let op = plan.op_ids().find(|op| plan.label(*op) == &*span.op).unwrap();
                    let least = shortest_ns(plan, op);
                    assert!(
                        link.is_none() || plan.comm(op).unwrap().kind.reduces() || span.end_ns - span.begin_ns >= least,
                        "{}: {} lasts {} ns, not {least}",
                        world.name(),
                        span.op,
                        span.end_ns - span.begin_ns
                    );
                    (span.end_ns - span.begin_ns >= least && least > 0) as usize
                });
                (long.sum::<usize>(), report.wall_ns)
            };
            let (slow, slow_ns) = longer_without(Some(LINK), Route::Device);
            let (plain, plain_ns) = longer_without(None, Route::Device);
            println!("{}: {slow} messages in {slow_ns} ns; without a link {plain_ns} ns", world.name());
            assert!(slow > 0 && plain < slow, "{}: {slow} with a link, {plain} without", world.name());
            assert!(slow_ns > plain_ns);
            let (pinned, _) = longer_without(Some(LINK), Route::Pinned);
            assert_eq!(pinned, slow, "{}", world.name());
        }
    });
}

/// Both ways at once take as long as one: a rank has a port out and another in.
#[test]
fn a_link_is_full_duplex() {
    on_mock(|mock| {
        mock.reset("late", 1);
        const ELEMS: usize = 2500;
        let dims = [1, 1, 1, ELEMS];
        let plan = |rank: usize| {
            let mut b = Builder::new(rank, 2);
            let comm = b.stream("comm");
            let place = |name: &str| {
                Some(Placement { tensor: format!("{name} of {rank}"), dims, index: [None, None, None, None] })
            };
            let x = b.buffer("x", Role::Input, Dtype::F32, dims, place("x"));
            let y = b.buffer("y", Role::Output, Dtype::F32, dims, place("y"));
            let tag = b.tag();
            let transfers = [(Direction::Send, 1 - rank, x), (Direction::Recv, 1 - rank, y)];
            b.comm(comm, "swap", CommKind::SendRecv, tag, &[0, 1], Dtype::F32, &transfers);
            b.finish()
        };
        let inputs: Tensors =
            [0, 1].map(|rank| (format!("x of {rank}"), HostTensor::zeros(Dtype::F32, dims))).into_iter().collect();
        let mut options = CudaOptions::default();
        (options.link, options.timed) = (Some(LINK), true);
        let (_, report) = run(mock, check_world((0..2).map(plan).collect()).unwrap(), &inputs, options, "swap");
        let one_ns = (4.0 * ELEMS as f64 / LINK.bytes_per_s + LINK.latency_s) * 1e9;
        for span in report.spans.iter().filter(|span| span.kind == SpanKind::Comm) {
            let ns = span.ns() as f64;
            assert!((one_ns..1.5 * one_ns).contains(&ns), "{ns} ns, not {one_ns}");
        }
    });
}

/// More bytes than two slots, in every order that the mock knows.
#[test]
fn copies_go_through_two_slots_in_turns() {
    on_mock(|mock| {
        let _context = context();
        for mode in MODES {
            for seed in 0..5 {
                mock.reset(mode, seed);
                let stream = Stream::new(Priority::Low).unwrap();
                let [from, to] = [(); 2].map(|()| DeviceMemory::new(1000).unwrap());
                let data: Vec<u8> = (0..1000).map(|i| (i * 7 % 251) as u8).collect();
                from.write(0, &data, &stream).unwrap();
                let staging = Staging::new(96).unwrap();
                for (at, bytes) in [(0, 500), (500, 90), (590, 0), (590, 410)] {
                    // SAFETY: all of it is alive until the read below has waited for it.
                    unsafe { staging.copy(to.address() + at, from.address() + at, bytes, &stream) }.unwrap();
                }
                let mut seen = vec![0; 1000];
                to.read(0, &mut seen, &stream).unwrap();
                assert_eq!(seen, data, "{mode} {seed}");
                mock.assert_clean(mode);
            }
        }
    });
}
