//! `seqpar flight`: findings on stdout, exit code 1 if there are any, hostile files refused.

use seqpar::comm::flight::Flight;
use seqpar::comm::signature::{Part, Signature};
use seqpar::dtype::Dtype;
use seqpar::plan::CommKind;

use super::files::Folder;

/// The records of three ranks; the last op of rank 1 has `elems` elements, those of others 8.
fn write(folder: &Folder, elems: u64) {
    for rank in 0..3 {
        let flight = Flight::new("world", rank, 3);
        for seq in 0..4 {
            let elems = if rank == 1 && seq == 3 { elems } else { 8 };
            let (kind, part) = (CommKind::AllGather, Part::Whole);
            flight.schedule(
                "gather \"k\"",
                &Signature { comm: 0, seq, tag: 0, kind, part, dtype: Dtype::Bf16, peer: None, elems },
            );
        }
        std::fs::write(folder.path(&format!("{rank}.json")), flight.dump(Some("why".into())).json()).unwrap();
    }
}

#[test]
fn records_that_agree_end_with_0_and_others_with_1() {
    let folder = Folder::new();
    write(&folder, 8);
    let output = folder.run("flight 0.json 1.json 2.json");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "3 records agree\n");
    write(&folder, 9);
    let output = folder.run("flight 0.json 1.json 2.json");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let expected =
        "world, seq 3: size differs, culprit rank 1; ranks 0, 2: all-gather of 8 bf16, rank 1: all-gather of 9 bf16\n";
    assert_eq!(text, expected);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "error: the records differ in 1 place\n");
}

#[test]
fn json_has_every_finding() {
    let folder = Folder::new();
    write(&folder, 9);
    // Rank 2 has no record: it counts as stopped.
    let output = folder.run("flight --json 0.json 1.json");
    assert_eq!(output.status.code(), Some(1));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = value["findings"].as_array().unwrap();
    let one = |differs: &str| findings.iter().find(|finding| finding["differs"] == differs).unwrap();
    assert_eq!(one("state")["culprits"][0], 2);
    assert_eq!((&one("size")["seq"], &one("size")["culprits"]), (&3.into(), &serde_json::json!([0, 1])));
}

#[test]
fn files_that_are_no_flight_records_are_refused_in_one_line() {
    let folder = Folder::new();
    write(&folder, 8);
    let whole = std::fs::read_to_string(folder.path("0.json")).unwrap();
    let cases = [
        ("x", "expected value"),
        ("{}", "no flight record"),
        (&whole.replace("flight-1", "flight-2"), "no flight record"),
        (&whole.replace("\"world\":3", "\"world\":0"), "missing or of another type"),
        (&whole.replace("\"world\":3", "\"world\":4294967295"), "missing or of another type"),
        (&whole.replace("\"all-gather\"", "\"all-knowing\""), "missing or of another type"),
        (&whole.replace("\"seq\":3", "\"seq\":18446744073709551615"), "missing or of another type"),
        (&whole.replace("\"rank\":0", "\"rank\":1"), "another file is of rank 1"),
    ];
    for (text, why) in cases {
        std::fs::write(folder.path("bad.json"), text).unwrap();
        let output = folder.run("flight 1.json bad.json");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{stderr}");
        assert!(stderr.contains(why) && stderr.contains("bad.json"), "{stderr}");
    }
    // A number far away is no reason to look at all numbers before it.
    std::fs::write(folder.path("far.json"), whole.replace("\"seq\":3", "\"seq\":18446744073709551614")).unwrap();
    assert_eq!(folder.run("flight 1.json far.json 2.json").status.code(), Some(1));
    assert_eq!(folder.run("flight").status.code(), Some(2));
    assert_eq!(folder.run("flight no-such-file.json").status.code(), Some(1));
}
