//! Machine files: those of this crate are whole, and a bad one is refused by one line.

use seqpar::exec::sim::{Device, MACHINES, SimMachine};

#[test]
fn every_machine_of_the_crate_can_be_read() {
    for (name, text) in MACHINES {
        let machine = SimMachine::named(name).unwrap();
        assert_eq!((machine.name.as_str(), SimMachine::parse(name, text).unwrap()), (name, machine.clone()));
        // Whoever edits one finds the source behind every constant.
        let constants = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        for line in constants {
            assert!(line.split_once('#').is_some_and(|(_, source)| source.trim().len() > 4), "{name}: {line}");
        }
    }
    let ranks = |name| SimMachine::named(name).unwrap().ranks;
    assert_eq!((ranks("h100x8"), ranks("h100x4"), ranks("h100x8-ib")), (8, 4, 4096));
}

#[test]
fn the_host_machine_is_the_one_that_auto_uses() {
    let Device::Host(host) = SimMachine::named("cpu").unwrap().device else { panic!("cpu is no host") };
    assert_eq!(host.machine, seqpar::machine::Machine::cpu());
    assert_eq!(SimMachine::named("cpu").unwrap(), SimMachine::host(seqpar::machine::Machine::cpu()));
}

#[test]
fn bad_files_are_refused_by_line_or_key() {
    let good = MACHINES[0].1;
    let edited = |key: &str, line: &str| {
        let lines = good.lines().map(|old| if old.starts_with(&format!("{key} ")) { line } else { old });
        lines.collect::<Vec<_>>().join("\n")
    };
    for (text, words) in [
        (String::new(), vec!["kind", "missing"]),
        ("kind = \"gpu\"".into(), vec!["line 1", "no source"]),
        ("hello".into(), vec!["line 1", "key = value"]),
        ("kind = \"tpu\"  # mine".into(), vec!["kind", "host or gpu"]),
        (edited("sms", ""), vec!["sms", "missing"]),
        (edited("sms", "sms = many  # guess"), vec!["sms", "many", "number"]),
        (edited("sms", "sms = -3  # guess"), vec!["sms", "-3"]),
        (edited("sms", "sms = NaN  # guess"), vec!["sms", "NaN"]),
        (edited("sms", "sms = inf  # guess"), vec!["sms", "inf"]),
        (edited("sms", "sms = 24  # guess"), vec!["sms", "channels"]),
        (edited("ring_gbps", "ring_gbps = 0  # guess"), vec!["ring_gbps"]),
        (edited("ll_rate", "ll_rate = 2  # guess"), vec!["ll_rate"]),
        (edited("node_gpus", "node_gpus = 7.5  # guess"), vec!["node_gpus", "whole"]),
        (format!("{good}\nsms = 1  # again"), vec!["sms", "twice"]),
        (format!("{good}\nspeed = 1  # mine"), vec!["speed", "unknown"]),
        (edited("nodes", "nodes = 2  # two"), vec!["net", "missing"]),
        (format!("\u{1b}[31m{}", "x".repeat(500)), vec!["line 1"]),
    ] {
        let error = SimMachine::parse("mine", &text).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("machine mine") && error.len() < 300 && !error.contains('\u{1b}'), "{error}");
        for word in words {
            assert!(error.contains(word), "no {word:?} in {error}");
        }
    }
    let error = SimMachine::named("h100").unwrap_err().to_string();
    assert!(error.contains("\"h100\"") && error.contains("h100x8-ib") && error.contains("path"), "{error}");
}
