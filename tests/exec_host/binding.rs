//! Binding: scattering, gathering, the caller's own buffers, and what is refused.

use seqpar::Error;
use seqpar::dtype::Dtype;
use seqpar::exec::host::{HostTensor, prepare_unchecked, run_tensors};
use seqpar::plan::{Builder, Placement, Plan, Role, check_world};
use seqpar::shard::{IndexMap, Run};

use super::plans::{all_gather, counting, lawful, options, run, two_streams};

/// Rank r holds some samples, scattered rows, all heads and some columns of x; y is x.
fn scattered() -> Vec<Plan> {
    let dims = [2, 7, 2, 6];
    let rows = [
        vec![Run { start: 4, len: 2 }, Run { start: 0, len: 1 }],
        vec![Run { start: 1, len: 3 }, Run { start: 6, len: 1 }],
    ];
    let plan = |rank: usize| {
        let mut b = Builder::new(rank, 4);
        let stream = b.stream("compute");
        let rows = IndexMap::from_runs(rows[rank % 2].clone());
        let cols = if rank < 2 { IndexMap::from_indices([5, 0, 1]) } else { IndexMap::from_indices([2, 4, 3]) };
        let local = [2, rows.len(), 2, cols.len()];
        let place = |name: &str| {
            let index = [None, Some(rows.clone()), None, Some(cols.clone())];
            Some(Placement { tensor: name.into(), dims, index })
        };
        let x = b.buffer("x", Role::Input, Dtype::Bf16, local, place("x"));
        let y = b.buffer("y", Role::Output, Dtype::Bf16, local, place("y"));
        b.copy(stream, "copy", x, y);
        b.finish()
    };
    (0..4).map(plan).collect()
}

#[test]
fn any_index_map_scatters_and_gathers() {
    let x = counting([2, 7, 2, 6], Dtype::Bf16);
    let (out, _) = run(&mut lawful(scattered(), options()), &[("x", x.clone())]);
    assert_eq!(out["y"], x);
}

#[test]
fn an_element_that_no_rank_or_two_unequal_ranks_deliver_is_an_error() {
    let mut plans = scattered();
    plans[3].buffers[1].placement = plans[2].buffers[1].placement.clone();
    plans[3].buffers[1].dims = plans[2].buffers[1].dims;
    for access in &mut plans[3].accesses {
        access.region.end[1] = 3;
        access.shape[1] = 3;
    }
    let inputs = [("x".to_string(), counting([2, 7, 2, 6], Dtype::Bf16))].into();
    let error = run_tensors(&mut prepare_unchecked(plans, None, options()).unwrap(), &inputs).unwrap_err().to_string();
    assert!(error.contains("\"y\"") && error.contains("ranks 2 and 3"), "{error}");
    let mut plans = scattered();
    plans[3].buffers[1].placement = None;
    let error = run_tensors(&mut prepare_unchecked(plans, None, options()).unwrap(), &inputs).unwrap_err().to_string();
    assert!(error.contains("no rank delivers element [0, 1, 0, 2]"), "{error}");
}

#[test]
fn wrong_tensors_are_named_with_what_was_expected_and_found() {
    let mut prepared = lawful(two_streams(2, [1, 4, 1, 4]), options());
    let mut fail = |inputs: Vec<(&str, HostTensor)>| {
        let inputs = inputs.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        match run_tensors(&mut prepared, &inputs) {
            Err(Error::Bind(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let missing = fail(vec![]);
    assert!(missing.contains("\"x\" is missing: expected f32 [1, 4, 1, 4]"), "{missing}");
    let dtype = fail(vec![("x", counting([1, 4, 1, 4], Dtype::F16))]);
    assert!(dtype.contains("expected f32 [1, 4, 1, 4], found f16 [1, 4, 1, 4]"), "{dtype}");
    let dims = fail(vec![("x", counting([1, 5, 1, 4], Dtype::F32))]);
    assert!(dims.contains("found f32 [1, 5, 1, 4]"), "{dims}");
    let unknown = fail(vec![("z", counting([1, 4, 1, 4], Dtype::F32))]);
    assert!(unknown.contains("no input tensor \"z\": the plan's inputs are x"), "{unknown}");
    let cut = HostTensor { dtype: Dtype::F32, dims: [1, 4, 1, 4], bytes: vec![0; 9] };
    assert!(fail(vec![("x", cut)]).contains("9 bytes"));
}

#[test]
fn own_buffers_are_read_and_written_in_place() {
    let mut prepared = lawful(two_streams(2, [1, 4, 1, 4]), options());
    let (x, y) = (prepared.plan(0).buffer_named("x").unwrap(), prepared.plan(0).buffer_named("y").unwrap());
    let input: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let mut outputs = [vec![0f32; 16], vec![0f32; 16]];
    let mut odd = [0u8; 65];
    let mut bindings = prepared.bindings();
    for (rank, output) in outputs.iter_mut().enumerate() {
        bindings.input(rank, x, bytemuck::cast_slice(&input)).unwrap();
        bindings.output(rank, y, bytemuck::cast_slice_mut(output)).unwrap();
    }
    assert!(bindings.input(0, y, &[0; 64]).is_err() && bindings.input(0, x, &[0; 4]).is_err());
    assert!(bindings.input(2, x, &[0; 64]).is_err());
    prepared.run(&mut bindings).unwrap();
    assert_eq!(bindings.gather().unwrap()["y"].to_f32(), input);
    let start = if odd.as_ptr().addr().is_multiple_of(2) { 1 } else { 0 };
    bindings.output(0, y, &mut odd[start..start + 64]).unwrap();
    assert!(prepared.run(&mut bindings).unwrap_err().to_string().contains("align"));
    drop(bindings);
    assert_eq!(outputs, [input.clone(), input]);
    let mut other = lawful(two_streams(2, [1, 4, 1, 4]), options());
    let mut foreign = prepared.bindings();
    assert!(other.run(&mut foreign).is_err());
}

#[test]
fn measured_memory_is_the_plans() {
    for world in [1, 2, 4, 8] {
        for plans in [two_streams(world, [1, 33, 1, 5]), all_gather(&vec![3; world], 7, Dtype::F32)] {
            let checked = check_world(plans.clone()).unwrap();
            let expected: Vec<usize> = checked.iter().map(|plan| plan.memory().peak_bytes).collect();
            let total = plans[0].buffer(plans[0].buffer_named("x").unwrap()).placement.clone().unwrap().dims;
            let (_, report) = run(&mut lawful(plans, options()), &[("x", counting(total, Dtype::F32))]);
            assert_eq!(report.peak_bytes, expected);
        }
    }
}

#[test]
fn worlds_that_do_not_fit_are_refused() {
    assert!(prepare_unchecked(vec![], None, options()).is_err());
    let mut plans = two_streams(2, [1, 4, 1, 4]);
    plans.swap(0, 1);
    assert!(prepare_unchecked(plans, None, options()).is_err());
    let mut plans = two_streams(1, [1, 4, 1, 4]);
    plans[0].buffers[0].placement.as_mut().unwrap().dims[1] = 5;
    assert!(prepare_unchecked(plans, None, options()).is_err());
}
