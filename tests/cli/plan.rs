//! `seqpar plan`: what is printed is what would run.

use super::files::Folder;

const LAYER: &str = "--tokens 64 --heads 8 --head-dim 16";

#[test]
fn json_has_ops_edges_bytes_and_peak_of_every_rank() {
    let folder = Folder::new();
    let value = folder.json(&format!("plan --strategy fastseq --ranks 4 {LAYER}"));
    assert_eq!(value["law"], "ok");
    let ranks = value["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 4);
    let (volume, p) = (64 * 8 * 16 * 4, 4);
    for rank in ranks {
        let ops = rank["ops"].as_array().unwrap();
        assert!(!ops.is_empty() && !rank["edges"].as_array().unwrap().is_empty());
        // All-gather of x and all-to-all of the output, each rank's part of the group's volume.
        assert_eq!(rank["bytes_sent"], volume * (p - 1) / p + volume * (p - 1) / (p * p));
        assert!(rank["peak_bytes"].as_u64().unwrap() > volume);
    }
}

#[test]
fn the_closed_forms_of_the_other_strategies_hold() {
    let folder = Folder::new();
    let (v, p) = (64 * 8 * 16 * 4, 4);
    for (strategy, expected) in
        [("ulysses", 4 * v * (p - 1) / (p * p)), ("ring", 2 * v * (p - 1) / p), ("kv-gather", 2 * v * (p - 1) / p)]
    {
        let value = folder.json(&format!("plan --strategy {strategy} --ranks {p} {LAYER}"));
        for rank in value["ranks"].as_array().unwrap() {
            assert_eq!(rank["bytes_sent"], expected, "{strategy}");
        }
    }
}

#[test]
fn text_is_stable_and_one_rank_can_be_picked() {
    let folder = Folder::new();
    let line = format!("plan --strategy ulysses --ranks 2 {LAYER} --text-tokens 5 --text replicate --dtype bf16");
    let all = folder.ok(&line);
    assert_eq!(all, folder.ok(&line));
    let one = folder.ok(&format!("{line} --rank 1"));
    assert!(one.len() < all.len() && !one.is_empty());
    assert!(all.contains("law: ok") && one.contains("law: ok"), "{one}");
    let value = folder.json(&format!("{line} --rank 1"));
    assert_eq!(value["ranks"].as_array().unwrap().len(), 1);
}

#[test]
fn explain_compares_all_strategies() {
    let folder = Folder::new();
    let text = folder.ok(&format!("plan --explain --ranks 4 {LAYER}"));
    let value = folder.json(&format!("plan --explain --ranks 4 {LAYER}"));
    let rows = value["strategies"].as_array().unwrap();
    for name in ["fastseq", "ulysses", "ring", "usp", "megatron", "kv-gather"] {
        assert!(text.contains(name), "{name} is not in {text}");
        let row = rows.iter().find(|row| row["strategy"] == name).unwrap();
        assert!(row["predicted_ms"].as_f64().unwrap() > 0.0 && row["bytes_sent"].as_u64().unwrap() > 0);
    }
    let keeps = |name: &str| rows.iter().find(|row| row["strategy"] == name).unwrap()["keeps_bits"].clone();
    assert_eq!((keeps("ulysses"), keeps("ring")), (true.into(), false.into()));
}
