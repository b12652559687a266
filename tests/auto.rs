//! The choice of a strategy by simulation, and where one overtakes another.

use seqpar::Error;
use seqpar::auto::{Ask, choose, crossover, explain, predict};
use seqpar::dit::models::{Model, Sizes};
use seqpar::dtype::Dtype;
use seqpar::exec::sim::{SimMachine, SimOptions};
use seqpar::mesh::Mesh;
use seqpar::plan::Alike;
use seqpar::strategy::{Options, Strategy, alike, layer_rank};

/// Seconds of one layer, ulysses with the best of a few head groups.
fn layer_s(model: &Model, sizes: &Sizes, machine: &SimMachine, strategy: Strategy, ranks: usize) -> f64 {
    let mesh = strategy.mesh(ranks, None, None, model.heads, model.kv_heads).unwrap();
    let problem = model.layer(&model.kinds[0], sizes, ranks).unwrap();
    let with = |head_groups: usize| {
        let options = Options { head_groups, ..Options::default() };
        let build = |rank| layer_rank(&problem, strategy, &mesh, &options, rank);
        predict(machine, SimOptions::default(), strategy, mesh, &Alike::none(ranks), build).unwrap().seconds
    };
    [1, 2, 4].map(with).into_iter().fold(f64::INFINITY, f64::min)
}

/// The volume of fastseq is less for P = 2 alone, its gather can be hidden: it is ahead on NVLink
/// for few ranks, never for many, and on PCIe, where no projection hides the gather, not from
/// P = 4 on.
#[test]
fn fastseq_and_ulysses_change_places_where_their_volumes_say() {
    let ahead = |name: &str, model: &str, ranks: usize| {
        let (model, machine) = (Model::named(model).unwrap(), SimMachine::named(name).unwrap());
        let sizes = model.sizes();
        let of = |strategy| layer_s(model, &sizes, &machine, strategy, ranks);
        let (fastseq, ulysses) = (of(Strategy::Fastseq), of(Strategy::Ulysses));
        println!("{name} {} P = {ranks}: fastseq {:.1} us, ulysses {:.1} us", model.name, fastseq * 1e6, ulysses * 1e6);
        fastseq < ulysses
    };
    for (name, model) in [("h100x8", "flux"), ("h100x8", "dit-xl/2"), ("h200x8", "flux")] {
        assert!(ahead(name, model, 2), "{name} {model}");
        assert!(!ahead(name, model, 8), "{name} {model}");
    }
    for model in ["flux", "cogvideox-5b"] {
        assert!(!ahead("l40x8", model, 4) && !ahead("l40x8", model, 8), "{model}");
    }
}

/// The rule for one hop, 6·C·BW/(P·e·F): wide layers hide the gather, narrow ones do not.
#[test]
fn wide_layers_hide_more_of_the_gather() {
    let machine = SimMachine::named("l40x8").unwrap();
    let hidden = |heads: usize| {
        let model = Model { heads, kv_heads: heads, hidden: heads * 128, ..*Model::named("flux").unwrap() };
        let sizes = Sizes { dtype: Dtype::Bf16, ..model.sizes() };
        let problem = model.layer(&model.kinds[1], &sizes, 2).unwrap();
        let mesh = Strategy::Fastseq.mesh(2, None, None, heads, heads).unwrap();
        let options = Options::default();
        let build = |rank| layer_rank(&problem, Strategy::Fastseq, &mesh, &options, rank);
        let row = predict(&machine, SimOptions::default(), Strategy::Fastseq, mesh, &Alike::none(2), build).unwrap();
        1.0 - row.exposed_s / row.comm_s
    };
    let parts = [8, 24, 96].map(hidden);
    assert!(parts.windows(2).all(|pair| pair[0] < pair[1]), "hidden part by hidden size: {parts:.2?}");
}

#[test]
fn the_fastest_lawful_candidate_is_chosen() {
    let machine = SimMachine::named("h100x8").unwrap();
    let model = Model::named("dit-xl/2").unwrap();
    let problem = model.layer(&model.kinds[0], &model.sizes(), 4).unwrap();
    let ask = Ask {
        machine: &machine,
        options: SimOptions::default(),
        ranks: 4,
        heads: (model.heads, model.kv_heads),
        degrees: (Some(2), Some(2)),
    };
    let likes = |strategy, mesh: &Mesh| alike(&problem.attention, strategy, mesh);
    let of_rank = |strategy, mesh: &Mesh, rank| layer_rank(&problem, strategy, mesh, &Options::default(), rank);
    let rows = explain(&ask, likes, of_rank).unwrap();
    assert_eq!(rows.len(), 6);
    assert_eq!(rows, explain(&ask, |_, mesh| Alike::none(mesh.world()), of_rank).unwrap());
    assert!(rows.windows(2).all(|pair| pair[0].seconds <= pair[1].seconds));
    let usp = rows.iter().find(|row| row.strategy == Strategy::Usp).unwrap();
    assert_eq!((usp.mesh.ulysses, usp.mesh.ring, usp.keeps_bits), (2, 2, false));
    for row in &rows {
        assert!(row.exposed_s <= row.comm_s && row.compute_s <= row.seconds, "{row:?}");
        // Nothing runs, or is exposed, longer than the whole.
        assert!(row.exposed_s + row.compute_s <= row.seconds * 1.001, "{row:?}");
    }
    let kept = choose(&rows, false).unwrap();
    assert!(kept.keeps_bits && rows.iter().filter(|row| row.keeps_bits).all(|row| row.seconds >= kept.seconds));
    assert_eq!(choose(&rows, true).unwrap(), &rows[0]);
    assert!(choose(std::slice::from_ref(usp), false).unwrap_err().to_string().contains("--allow-reorder"));
    // The law is asked of every candidate.
    let broken = explain(
        &ask,
        |_, mesh| Alike::none(mesh.world()),
        |strategy, mesh, rank| {
            let mut plan = of_rank(strategy, mesh, rank)?;
            if rank == 1 {
                plan.ops.pop();
            }
            Ok(plan)
        },
    );
    assert!(matches!(broken, Err(Error::Law { .. })), "{broken:?}");
}

#[test]
fn a_crossover_is_found_on_either_side() {
    // Lines that meet at 5, at a tenth, nowhere.
    for (meets, slope) in [(Some(5.0), 1.0), (Some(0.1), 1.0), (None, 0.0)] {
        let a = |factor: f64| Ok(1.0 + slope / factor);
        let b = |_: f64| Ok(1.0 + meets.map_or(1.0, |meets: f64| slope / meets));
        let found = crossover(a, b).unwrap();
        match (found, meets) {
            (Some(found), Some(meets)) => assert!((found / meets - 1.0).abs() < 0.02, "{found} for {meets}"),
            (found, meets) => assert_eq!(found.is_some(), meets.is_some()),
        }
    }
    let fails = |_: f64| Err(Error::Unsupported("no".into()));
    assert!(crossover(fails, |_| Ok(1.0)).is_err());
}

/// What one core does in less than 10 s and 60 s optimised; here with room for a debug build and
/// busy neighbours.
#[test]
fn thousands_of_ranks_take_seconds() {
    let machine = SimMachine::named("h100x8-ib").unwrap();
    let model = Model::named("dit-xl/2").unwrap();
    for (tokens, ranks, kinds, most_s) in [(65_536, 1024, 1, 20), (65_536, 4096, 1, 120), (65_537, 1024, 129, 40)] {
        let start = std::time::Instant::now();
        let sizes = Sizes { tokens, ..model.sizes() };
        let mesh = Strategy::Usp.mesh(ranks, Some(8), None, model.heads, model.kv_heads).unwrap();
        let problem = model.layer(&model.kinds[0], &sizes, ranks).unwrap();
        let options = Options::default();
        let alike = alike(&problem.attention, Strategy::Usp, &mesh);
        assert_eq!(alike.firsts().count(), kinds);
        let build = |rank| layer_rank(&problem, Strategy::Usp, &mesh, &options, rank);
        let row = predict(&machine, SimOptions::default(), Strategy::Usp, mesh, &alike, build).unwrap();
        println!("{ranks} ranks: {:?}, {:.1} ms a layer", start.elapsed(), row.seconds * 1e3);
        assert!(start.elapsed().as_secs() < most_s, "{ranks} ranks took {:?}", start.elapsed());
    }
}
