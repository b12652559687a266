//! The flight record: its ring, its JSON, and what the comparison finds in sets of records.

use seqpar::comm::flight::{Dump, ENTRIES, Flight, SCHEMA, compare};
use seqpar::comm::signature::{Category, Part, Signature};
use seqpar::dtype::Dtype;
use seqpar::plan::CommKind;
use serde_json::Value;

fn whole(seq: u64, kind: CommKind, elems: u64) -> Signature {
    let peer = (kind == CommKind::Broadcast).then_some(0);
    Signature { comm: 0, seq, tag: 0, kind, part: Part::Whole, dtype: Dtype::Bf16, peer, elems }
}

/// Records of four ranks that did the same `ops` ops.
fn records(ops: u64) -> Vec<Flight> {
    let flight = |rank| {
        let flight = Flight::new("world", rank, 4);
        (0..ops).for_each(|seq| schedule(&flight, whole(seq, CommKind::AllGather, 8)));
        (0..ops).for_each(|seq| flight.complete(seq));
        flight
    };
    (0..4).map(flight).collect()
}

fn schedule(flight: &Flight, call: Signature) {
    flight.schedule(&format!("op {}", call.seq % 7), &call);
}

fn dumps(records: &[Flight]) -> Vec<Dump> {
    records.iter().map(|flight| flight.dump(None)).collect()
}

/// The first difference: category, seq, culprits.
fn first(records: &[Flight]) -> (Category, u64, Vec<u32>) {
    let found = compare(&dumps(records));
    let finding = found[0].findings[0].clone();
    (finding.category, finding.seq, finding.culprits)
}

#[test]
fn records_that_agree_have_no_findings() {
    assert_eq!(compare(&dumps(&records(10))), []);
    assert_eq!(compare(&dumps(&records(0))), []);
}

#[test]
fn every_category_is_found_with_its_culprit() {
    let odd = |call: Signature| {
        let records = records(5);
        for (rank, flight) in records.iter().enumerate() {
            schedule(flight, if rank == 2 { call } else { whole(5, CommKind::Broadcast, 8) });
        }
        first(&records)
    };
    let usual = whole(5, CommKind::Broadcast, 8);
    assert_eq!(odd(whole(5, CommKind::AllReduce, 8)), (Category::Kind, 5, vec![2]));
    assert_eq!(odd(Signature { elems: 9, ..usual }), (Category::Size, 5, vec![2]));
    assert_eq!(odd(Signature { dtype: Dtype::F32, ..usual }), (Category::Dtype, 5, vec![2]));
    assert_eq!(odd(Signature { peer: Some(1), ..usual }), (Category::Peer, 5, vec![2]));
}

#[test]
fn two_ops_swapped_on_one_rank_are_an_order() {
    let records = records(5);
    for (rank, flight) in records.iter().enumerate() {
        let mut ops = [(CommKind::AllReduce, 3), (CommKind::AllGather, 4), (CommKind::AllGather, 5)];
        if rank == 1 {
            ops.swap(0, 2);
        }
        for (i, (kind, elems)) in ops.into_iter().enumerate() {
            schedule(flight, whole(5 + i as u64, kind, elems));
        }
    }
    assert_eq!(first(&records), (Category::Order, 5, vec![1]));
}

#[test]
fn a_rank_that_stopped_earlier_is_found_by_its_state() {
    // It did not call what all others did.
    let stopped = records(5);
    for flight in stopped.iter().filter(|flight| flight.dump(None).rank != 3) {
        schedule(flight, whole(5, CommKind::AllGather, 8));
    }
    assert_eq!(first(&stopped), (Category::State, 5, vec![3]));
    // It called it, and never ended it.
    let hung = records(5);
    for (rank, flight) in hung.iter().enumerate() {
        schedule(flight, whole(5, CommKind::AllGather, 8));
        if rank == 0 { flight.start(5) } else { flight.complete(5) }
    }
    assert_eq!(first(&hung), (Category::State, 5, vec![0]));
    // It has no record at all: killed.
    let mut killed = dumps(&hung);
    killed.remove(0);
    let found = compare(&killed);
    assert_eq!((found[0].findings[0].category, &found[0].findings[0].culprits), (Category::State, &vec![0]));
    assert!(found[0].to_string().contains("no dump"), "{}", found[0]);
}

#[test]
fn each_rank_that_differs_has_its_own_first_difference() {
    let records = records(3);
    for (rank, flight) in records.iter().enumerate() {
        for seq in 3..6 {
            let elems = if (rank, seq) == (1, 3) || (rank, seq) == (0, 5) { 1 } else { 8 };
            schedule(flight, whole(seq, CommKind::AllGather, elems));
        }
    }
    let found = compare(&dumps(&records));
    let firsts: Vec<(u64, Vec<u32>)> = found[0].findings.iter().map(|f| (f.seq, f.culprits.clone())).collect();
    assert_eq!(firsts, [(3, vec![1]), (5, vec![0])]);
}

#[test]
fn the_ring_keeps_the_last_calls_and_the_comparison_begins_behind_the_lost_ones() {
    let records = records(ENTRIES as u64 + 100);
    let dump = records[0].dump(Some("why".into()));
    assert_eq!((dump.calls.len(), dump.overwritten), (ENTRIES, 100));
    let seqs: Vec<u64> = dump.calls.iter().map(|call| call.signature.seq).collect();
    assert!(seqs.iter().copied().eq(100..100 + ENTRIES as u64));
    // One rank made one more call long ago, so that its ring begins elsewhere.
    schedule(&records[1], whole(ENTRIES as u64 + 100, CommKind::AllGather, 8));
    let found = compare(&dumps(&records));
    assert_eq!(found[0].findings.len(), 1, "{}", found[0]);
    assert_eq!(found[0].findings[0].category, Category::State);
}

#[test]
fn the_json_is_what_the_schema_says() {
    let flight = Flight::new("a \"b\"", 1, 2);
    let send = Signature { part: Part::Send, peer: Some(0), ..whole(0, CommKind::AllToAll, 5) };
    flight.schedule("exchange", &send);
    flight.start(0);
    flight.complete(0);
    flight.schedule("next", &whole(1, CommKind::AllReduce, 6));
    let dump = flight.dump(Some("rank 0 is lost".into()));
    let value: Value = serde_json::from_str(&dump.json()).unwrap();
    assert_eq!(value["schema"], SCHEMA);
    assert_eq!((&value["comm"], &value["rank"], &value["world"]), (&"a \"b\"".into(), &1.into(), &2.into()));
    assert_eq!(value["failure"], "rank 0 is lost");
    let calls = value["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 2);
    for (key, expected) in [("label", "exchange"), ("kind", "all-to-all"), ("part", "send"), ("dtype", "bf16")] {
        assert_eq!(calls[0][key], expected);
    }
    assert_eq!((&calls[0]["seq"], &calls[0]["elems"], &calls[0]["peer"]), (&0.into(), &5.into(), &0.into()));
    let times = ["scheduled_ns", "started_ns", "completed_ns"].map(|key| calls[0][key].as_u64().unwrap());
    assert!(times.is_sorted() && times[2] <= value["now_ns"].as_u64().unwrap(), "{times:?}");
    assert_eq!((&calls[1]["state"], &calls[1]["completed_ns"]), (&"scheduled".into(), &Value::Null));
}

/// Reads what [`Dump::json`] writes.
pub(crate) fn parse(text: &str) -> Dump {
    use seqpar::comm::flight::{Call, State};
    use seqpar::comm::signature::{dtype_named, kind_named};
    let value: Value = serde_json::from_str(text).unwrap();
    let call = |call: &Value| Call {
        signature: Signature {
            comm: 0,
            seq: call["seq"].as_u64().unwrap(),
            tag: call["tag"].as_u64().unwrap() as u32,
            kind: kind_named(call["kind"].as_str().unwrap()).unwrap(),
            part: Part::named(call["part"].as_str().unwrap()).unwrap(),
            dtype: dtype_named(call["dtype"].as_str().unwrap()).unwrap(),
            peer: call["peer"].as_u64().map(|peer| peer as u32),
            elems: call["elems"].as_u64().unwrap(),
        },
        label: call["label"].as_str().unwrap().to_string(),
        state: State::named(call["state"].as_str().unwrap()).unwrap(),
        scheduled_ns: call["scheduled_ns"].as_u64().unwrap(),
        started_ns: call["started_ns"].as_u64(),
        completed_ns: call["completed_ns"].as_u64(),
    };
    Dump {
        comm: value["comm"].as_str().unwrap().to_string(),
        rank: value["rank"].as_u64().unwrap() as u32,
        world: value["world"].as_u64().unwrap() as u32,
        failure: value["failure"].as_str().map(String::from),
        now_ns: value["now_ns"].as_u64().unwrap(),
        overwritten: value["overwritten"].as_u64().unwrap(),
        calls: value["calls"].as_array().unwrap().iter().map(call).collect(),
    }
}
