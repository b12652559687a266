//! Files: what they hold and what is refused.

use serde_json::{Value, json};

use crate::records::{data_of, folder, kernel_row, record, refusal, report, row, seqpar, write};

/// What closes a script, opens a comment, quotes and escapes.
const HOSTILE: &str = "</script><img src=x onerror=alert(1)><!-- \" ' & \u{2028} \\";

#[test]
fn a_label_cannot_break_out() {
    let folder = folder("hostile");
    let mut hostile = report(HOSTILE, "measured", HOSTILE, 1);
    hostile["streams"][0][0] = HOSTILE.into();
    hostile["strategy"] = HOSTILE.into();
    let mut odd = row(HOSTILE, 256, 10.0);
    odd["model"] = HOSTILE.into();
    write(&folder, "a.json", &record(vec![odd], vec![hostile]));
    let made = seqpar(&["report", "a.json", "-o", "a.html", "--svg", "a.svg", "--title", HOSTILE], &folder);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let page = std::fs::read_to_string(folder.join("a.html")).unwrap();
    // The page's own three: data, and the one with all scripts.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<img"), "a label became markup");
    let data = data_of(&page);
    assert_eq!(data["reports"][0]["ops"][0], HOSTILE);
    assert_eq!(data["rows"][0]["model"], HOSTILE);
    assert_eq!(data["title"], HOSTILE);
    let svg = std::fs::read_to_string(folder.join("a.svg")).unwrap();
    assert!(!svg.contains("<img") && !svg.contains("<script"));
    assert!(svg.contains("&lt;/script&gt;"));
}

#[test]
fn the_page_names_no_other_file_and_no_network() {
    let folder = folder("offline");
    write(&folder, "a.json", &record(vec![row("ring", 256, 9.0)], vec![report("run", "measured", "project", 1)]));
    assert!(seqpar(&["report", "a.json", "-o", "a.html"], &folder).status.success());
    let page = std::fs::read_to_string(folder.join("a.html")).unwrap();
    for forbidden in
        ["http:", "https:", "//cdn", "url(", "@import", " src=", "fetch(", "XMLHttpRequest", "<link rel=\"stylesheet"]
    {
        assert!(!page.contains(forbidden), "the page holds {forbidden}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.starts_with("<!doctype html>"));
}

#[test]
fn several_records_become_one_page() {
    let folder = folder("several");
    write(&folder, "a.json", &record(vec![row("ring", 256, 9.0)], vec![report("run", "measured", "project", 1)]));
    let mut faster = record(vec![kernel_row("gemm_f32", 1e9, 5e4)], vec![report("run", "simulated", "project", 2)]);
    faster["roof"]["flops_per_s"] = json!(2e11);
    faster["roof"]["bytes_per_s"] = json!(1e10);
    write(&folder, "b.json", &faster);
    // What a run command prints is a record without a version.
    let printed =
        json!({ "strategy": "fastseq", "wall_ms": 1.0, "reports": [report("run", "measured", "project", 3)] });
    write(&folder, "c.json", &printed);
    let made = seqpar(&["report", "a.json", "b.json", "c.json", "-o", "all.html"], &folder);
    assert_eq!(String::from_utf8(made.stdout).unwrap(), "all.html\n");
    let data = data_of(&std::fs::read_to_string(folder.join("all.html")).unwrap());
    let names: Vec<&str> = data["reports"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    // A prediction keeps the name of its measurement; a second measurement takes its file's.
    assert_eq!(names, ["run", "run", "run (c)"]);
    assert_eq!(data["rows"].as_array().unwrap().len(), 2);
    // A roof is what can be reached.
    assert_eq!((&data["roof"]["flops_per_s"], &data["roof"]["bytes_per_s"]), (&json!(2e11), &json!(2e10)));
    // 100 of 300 µs of transfer a rank, of which 50 under the projection.
    let overlap = &data["reports"][0]["overlap"][0];
    assert_eq!(overlap["comm_ns"], 100_000);
    assert_eq!(overlap["exposed_ns"], 50_000);
    assert_eq!(overlap["hidden"], 0.5);
    assert_eq!(data["reports"][0]["exposed"][1], json!([[100_000, 150_000]]));
}

#[test]
fn the_svg_shows_every_stream_and_span() {
    let folder = folder("svg");
    write(&folder, "a.json", &record(vec![], vec![report("run", "measured", "project", 1)]));
    assert!(seqpar(&["report", "a.json", "--svg", "a.svg"], &folder).status.success());
    let svg = std::fs::read_to_string(folder.join("a.svg")).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.trim_end().ends_with("</svg>"));
    assert_eq!(svg.matches("<title>").count(), 6);
    assert_eq!(svg.matches(">rank ").count(), 2);
    assert_eq!(svg.matches("<title>attention[1]: 150 µs</title>").count(), 2);
    // A gap a rank, and the legend's.
    assert_eq!(svg.matches("fill=\"url(#exposed)\"").count(), 3);
    assert!(svg.contains("measured, 300 µs, 50 % of the transfers hidden"));
    for open in ["<rect", "<text", "<line", "<g"] {
        assert!(!svg.contains(&format!("{open}>")), "{open} without attributes");
    }
}

#[test]
fn the_trace_is_that_of_the_one_report() {
    let folder = folder("trace");
    let two = vec![report("one", "measured", "project", 1), report("two", "measured", "project", 2)];
    write(&folder, "a.json", &record(vec![], two));
    let why = refusal(&["report", "a.json", "--trace", "t.json"], &folder, 2);
    assert!(why.contains("--pick") && why.contains("\"one\", \"two\""), "{why}");
    assert!(seqpar(&["report", "a.json", "--trace", "t.json", "--pick", "two"], &folder).status.success());
    let trace: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("t.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let spans: Vec<&Value> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert_eq!(spans.len(), 6);
    assert_eq!((&spans[0]["name"], &spans[0]["dur"]), (&json!("project"), &json!(200.0)));
}

#[test]
fn bad_records_are_one_line() {
    let folder = folder("refusals");
    let good = record(vec![], vec![report("run", "measured", "project", 1)]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.to_string()
    };
    let cases: Vec<(String, &str)> = vec![
        ("{".into(), "is no JSON"),
        ("[1]".into(), "is no record"),
        ("{}".into(), "neither rows nor reports"),
        (with(&|r| r["record"] = json!(2)), "version 2"),
        (with(&|r| r["rows"] = json!(3)), "\"rows\" is no list"),
        (with(&|r| r["rows"] = json!([3])), "row 0 is no object"),
        (with(&|r| r["reports"][0]["spans"][0][0] = json!(9)), "report 0 is damaged"),
        (with(&|r| r["reports"][0]["spans"][0][2] = json!(9)), "report 0 is damaged"),
        (with(&|r| r["reports"][0]["spans"][0][6] = json!(-1)), "report 0 is damaged"),
        (with(&|r| r["reports"][0]["spans"][1][5] = json!(1u64 << 40)), "report 0 is damaged"),
        (with(&|r| r["reports"][0]["spans"][0] = json!([0, 1])), "report 0 is damaged"),
        (with(&|r| r["reports"][0]["kind"] = json!("guessed")), "report 0 is damaged"),
        (with(&|r| r["reports"][0]["kinds"] = json!(["knitting", "comm"])), "report 0 is damaged"),
    ];
    for (text, expected) in cases {
        std::fs::write(folder.join("bad.json"), &text).unwrap();
        let why = refusal(&["report", "bad.json", "-o", "out.html"], &folder, 1);
        assert!(why.contains(expected) && why.contains("bad.json"), "{text}: {why}");
        assert!(!folder.join("out.html").exists());
    }
    write(&folder, "rows.json", &record(vec![row("ring", 1, 1.0)], vec![]));
    assert!(refusal(&["report", "missing.json", "-o", "o.html"], &folder, 1).contains("missing.json: cannot read it"));
    assert!(refusal(&["report", "rows.json"], &folder, 2).contains("--output"));
    assert!(refusal(&["report", "-o", "o.html"], &folder, 2).contains("FILE"));
    assert!(refusal(&["report", "rows.json", "-o", "rows.json"], &folder, 2).contains("name another file"));
    assert!(refusal(&["report", "rows.json", "-o", "a.x", "--svg", "a.x"], &folder, 2).contains("name two"));
    assert!(refusal(&["report", "rows.json", "-o", "no/folder.html"], &folder, 1).contains("cannot write"));
    assert!(refusal(&["report", "rows.json", "--svg", "a.svg"], &folder, 1).contains("only rows"));
    assert!(refusal(&["report", "rows.json", "--trace", "a.json"], &folder, 1).contains("only rows"));
    assert!(refusal(&["report", "rows.json", "-o", "o.html", "--pick", "x"], &folder, 2).contains("--pick"));
}
