//! The rules of the source tree: a lower layer never names a higher one, unsafe code stays where
//! it is argued for, no panic on a path a user can reach, files that one can read in one go.
//! The scanners are shown to find violations in small snippets.

use std::fs;
use std::path::{Path, PathBuf};

/// Module prefixes with the height of their layer; the longest prefix decides. Modules of one
/// height do not name each other, unless they share the first name.
const LAYERS: [(&str, usize); 20] = [
    ("error", 0),
    ("json", 0),
    ("dtype", 0),
    ("shape", 0),
    ("mesh", 0),
    ("shard", 0),
    ("machine", 0),
    ("kernel", 1),
    ("plan", 2),
    ("ffi", 2),
    ("cuda", 3),
    ("rendezvous", 3),
    ("strategy", 4),
    ("comm", 4),
    ("exec", 5),
    ("auto", 6),
    ("dit", 7),
    ("bench", 8),
    ("capi", 9),
    ("bin", 9),
];

/// Executing kernels stands beside the strategies, above the plan.
const KERNEL_LAYERS: [(&str, usize); 4] =
    [("kernel::spec", 1), ("kernel::oracle", 4), ("kernel::host", 4), ("kernel::cuda", 4)];

const UNSAFE_HOMES: [&str; 10] = [
    "ffi",
    "cuda",
    "comm/nccl",
    "comm/peer",
    "capi",
    "kernel/host",
    "exec/host/memory.rs",
    "exec/cuda/enqueue.rs",
    "exec/cuda/kernels.rs",
    "exec/cuda/prepared.rs",
];

const PANICS: [&str; 5] = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!"];

#[test]
fn a_lower_layer_never_names_a_higher_one() {
    refuse_none(sources().iter().flat_map(|file| {
        upward_names(&file.module, &file.text).into_iter().map(|what| format!("{}: {what}", file.name))
    }));
}

/// Executors that must not know each other.
const EXECUTORS: [&str; 3] = ["host", "sim", "cuda"];

#[test]
fn no_executor_names_another() {
    refuse_none(sources().iter().flat_map(|file| {
        names_of_other_executors(&file.module, &file.text).into_iter().map(|what| format!("{}: {what}", file.name))
    }));
}

#[test]
fn every_module_has_a_layer() {
    let all = sources();
    let unknown = all.iter().filter(|file| file.name != "lib.rs" && layer(&file.module).is_none());
    refuse_none(unknown.map(|file| format!("{}: give it a layer in tests/layering.rs", file.name)));
}

#[test]
fn plans_know_no_threads() {
    let in_plan = sources().into_iter().filter(|file| file.name.starts_with("plan/"));
    refuse_none(
        in_plan
            .flat_map(|file| threads(&code(&file.text)).into_iter().map(move |what| format!("{}: {what}", file.name))),
    );
}

#[test]
fn unsafe_code_stays_in_its_homes_and_is_argued_for() {
    refuse_none(sources().iter().flat_map(|file| {
        unsafe_violations(&file.name, &file.text).into_iter().map(|what| format!("{}: {what}", file.name))
    }));
}

#[test]
fn nothing_a_user_reaches_panics() {
    refuse_none(
        sources().iter().flat_map(|file| panics(&file.text).into_iter().map(|what| format!("{}: {what}", file.name))),
    );
}

#[test]
fn files_are_short() {
    let mut lengths: Vec<(usize, String)> =
        sources().into_iter().map(|file| (file.text.lines().count(), file.name)).collect();
    lengths.sort();
    let long: Vec<_> = lengths.iter().filter(|(lines, _)| *lines > 600).collect();
    assert!(long.is_empty(), "above 600 lines, split them: {long:?}");
    let median = &lengths[lengths.len() / 2];
    assert!(median.0 <= 200, "the median file has {} lines ({}): at most 200", median.0, median.1);
}

fn refuse_none(violations: impl Iterator<Item = String>) {
    let violations: Vec<String> = violations.collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

struct Source {
    /// Path under src/.
    name: String,
    /// Module path: `strategy::usp`.
    module: Vec<String>,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 30, "only {} files under src", files.len());
    let source = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        let module = name.trim_end_matches(".rs").trim_end_matches("/mod").split('/').map(String::from).collect();
        Source { module, text: fs::read_to_string(&path).unwrap(), name }
    };
    files.into_iter().map(source).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// First name and height of the layer of a module path, if it is one of ours.
fn layer(path: &[String]) -> Option<(String, usize)> {
    let first = path.first()?;
    let two = path.iter().take(2).cloned().collect::<Vec<_>>().join("::");
    let height = KERNEL_LAYERS
        .iter()
        .find(|(prefix, _)| *prefix == two)
        .or_else(|| LAYERS.iter().find(|(prefix, _)| prefix == first))?
        .1;
    Some((first.clone(), height))
}

/// Paths from the crate's root to something in a higher layer, docs included.
fn upward_names(module: &[String], text: &str) -> Vec<String> {
    // The root and the binaries stand above everything.
    let Some((own, height)) = layer(module) else { return Vec::new() };
    let mut found = Vec::new();
    for (line, path) in paths(module, text) {
        let Some((name, target)) = layer(&path) else { continue };
        let upward = target > height || target == height && height >= 2 && name != own;
        // A declaration or a front page may name its own children.
        if upward && !path.starts_with(module) {
            found.push(format!("line {line} names {}, a higher layer", path.join("::")));
        }
    }
    found
}

/// Paths from one executor to another; what both need stands in `exec`.
fn names_of_other_executors(module: &[String], text: &str) -> Vec<String> {
    let executor = |path: &[String]| match path {
        [first, second, ..] if first == "exec" && EXECUTORS.contains(&second.as_str()) => Some(second.clone()),
        _ => None,
    };
    let Some(own) = executor(module) else { return Vec::new() };
    let named = paths(module, text).into_iter().filter_map(|(line, path)| Some((line, executor(&path)?)));
    named.filter(|(_, other)| *other != own).map(|(line, other)| format!("line {line} names exec::{other}")).collect()
}

/// All paths that start at the crate's root, with their line; `super` is resolved, groups in
/// braces are taken apart.
fn paths(module: &[String], text: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for root in ["crate::", "seqpar::", "super::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut base = Vec::new();
            let mut rest = &text[at + root.len()..];
            if root == "super::" {
                base = module[..module.len().saturating_sub(1)].to_vec();
                while let Some(shorter) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = shorter;
                }
            }
            let line = text[..at].lines().count().max(1);
            let mut ends = Vec::new();
            tails(&base, rest, &mut ends);
            found.extend(ends.into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// Appends `base` extended by each path that `rest` starts with.
fn tails(base: &[String], rest: &str, found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    let mut rest = rest;
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            for item in items(group) {
                tails(&path, item.trim_start(), found);
            }
            return;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 {
            path.push(rest[..end].to_string());
        }
        match rest[end..].strip_prefix("::") {
            Some(more) if end > 0 => rest = more,
            _ => return found.push(path),
        }
    }
}

/// The items of a group whose opening bracket is behind us, nested groups whole.
fn items(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut list) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' if depth == 0 => {
                list.push(&group[start..at]);
                return list;
            }
            '}' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                list.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    list
}

fn threads(code: &str) -> Vec<String> {
    ["std::thread", "std::sync", "core::sync", "Mutex", "Atomic"]
        .into_iter()
        .filter(|name| code.contains(name))
        .map(|name| format!("names {name}"))
        .collect()
}

fn unsafe_violations(name: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let at_home = UNSAFE_HOMES.iter().any(|home| {
        name == *home || name.strip_prefix(home).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    });
    let (code, lines): (Vec<&str>, Vec<&str>) = (code.lines().collect(), text.lines().collect());
    let mut found = Vec::new();
    for (i, line) in code.iter().enumerate() {
        for (at, _) in line.match_indices("unsafe") {
            let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            let rest = &line[at + "unsafe".len()..];
            if is_word(line[..at].chars().next_back()) || is_word(rest.chars().next()) {
                continue;
            }
            // The type of a pointer to an unsafe function promises nothing by itself.
            let abi = |c: char| c == '"' || c == 'C' || c == ' ';
            if rest.trim_start().trim_start_matches("extern").trim_start_matches(abi).starts_with("fn(") {
                continue;
            }
            if !at_home {
                found.push(format!("line {}: unsafe outside {UNSAFE_HOMES:?}", i + 1));
            } else if !is_argued(&lines, i) {
                found.push(format!("line {}: unsafe without a SAFETY comment above it", i + 1));
            }
        }
    }
    found
}

/// True if the comment above the statement, item or attribute of line `i` says why it is safe, or
/// the one above the unsafe trait or impl around it, which speaks for every method. A method that
/// implements a trait's is bound to what the trait says of it.
fn is_argued(lines: &[&str], i: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let around = lines[..i].iter().rposition(|line| !line.is_empty() && indent(line) < indent(lines[i]));
    let outer = |from: usize| lines[..from].iter().rposition(|l| !l.is_empty() && indent(l) < indent(lines[from]));
    let mut blocks = std::iter::successors(around, |&block| outer(block));
    let speaks = |block: usize| {
        let header = lines[block];
        let is_unsafe = header.contains("unsafe impl") || header.contains("unsafe trait");
        is_unsafe && is_argued_above(lines, block)
    };
    let implements = |block: usize| lines[block].trim_start().starts_with("impl") && lines[block].contains(" for ");
    is_argued_above(lines, i) || lines[i].contains("unsafe fn") && around.is_some_and(implements) || blocks.any(speaks)
}

fn is_argued_above(lines: &[&str], i: usize) -> bool {
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    if says(lines[i]) {
        return true;
    }
    for line in lines[..i].iter().rev().map(|line| line.trim()) {
        let is_comment = line.starts_with("//");
        if is_comment && says(line) {
            return true;
        }
        let ends_before = line.is_empty() || [';', '{', '}'].iter().any(|&c| line.ends_with(c));
        if !is_comment && ends_before {
            return false;
        }
    }
    false
}

fn panics(text: &str) -> Vec<String> {
    let code = without_tests(&code(text));
    let mut found = Vec::new();
    for word in PANICS {
        for (at, _) in code.match_indices(word) {
            // Option's and Result's take one message; a method of ours may share the name.
            if word == ".expect(" && items(&code[at + word.len()..]).len() > 1 {
                continue;
            }
            found.push((code[..at].matches('\n').count() + 1, word));
        }
    }
    found.sort();
    found.into_iter().map(|(line, word)| format!("line {line}: {word}")).collect()
}

/// The source with comments, strings and characters blanked, line by line the same.
fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let mut i = 0;
    while i < chars.len() {
        let next = chars.get(i + 1).copied();
        let word_before = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_');
        let end = match chars[i] {
            '/' if next == Some('/') => (i..chars.len()).find(|&j| chars[j] == '\n').unwrap_or(chars.len()),
            '/' if next == Some('*') => block_comment_end(&chars, i),
            '"' => string_end(&chars, i + 1),
            'r' if !word_before && matches!(next, Some('"' | '#')) => raw_string_end(&chars, i + 1).unwrap_or(i),
            'b' if !word_before && next == Some('"') => string_end(&chars, i + 2),
            // A lifetime has no closing quote two or (escaped) more places on.
            '\'' if next == Some('\\') => (i + 3..chars.len()).find(|&j| chars[j] == '\'').map_or(i, |j| j + 1),
            '\'' if chars.get(i + 2) == Some(&'\'') => i + 3,
            _ => i,
        };
        if end == i {
            out.push(chars[i]);
            i += 1;
        } else {
            out.extend(chars[i..end].iter().map(|&c| blank(c)));
            i = end;
        }
    }
    out
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|&&c| c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let closes =
        |&j: &usize| chars[j] == '"' && chars[j + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    Some((start + hashes + 1..chars.len()).find(closes).map_or(chars.len(), |j| j + 1 + hashes))
}

/// The code with every item under `#[cfg(test)]` blanked.
fn without_tests(code: &str) -> String {
    let mut out = code.to_string();
    while let Some(at) = out.find("#[cfg(test)]") {
        let mut depth = 0;
        let end = out[at..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == '}' || c == ';')).then_some(at + i + 1)
        });
        let end = end.unwrap_or(out.len());
        let blanked: String = out[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(at..end, &blanked);
    }
    out
}

fn module(path: &str) -> Vec<String> {
    path.split("::").map(String::from).collect()
}

#[test]
fn the_scanner_finds_upward_names() {
    for (from, text) in [
        ("plan::law", "use crate::exec::Report;"),
        ("plan::law", "use crate::{error::Result, strategy::Options};"),
        ("plan::law", "/// As in [`crate::strategy::layer`].\nfn f() {}"),
        ("plan::law", "/// ```\n/// use seqpar::exec::host::prepare;\n/// ```"),
        ("plan::law", "use super::super::strategy::Options;"),
        ("error", "/// See [`crate::plan`]."),
        ("kernel::spec::gemm", "use crate::kernel::host::run;"),
        ("kernel::host::gemm", "use crate::strategy::Options;"),
        ("strategy::usp", "use crate::kernel::host::run;"),
        ("comm::local", "let x: crate::exec::Span;"),
        ("auto", "use crate::dit::Config;"),
    ] {
        assert_eq!(upward_names(&module(from), text).len(), 1, "{from}: {text}");
    }
    for (from, text) in [
        ("strategy::usp", "use crate::plan::{Builder, View};\nuse super::context::Context;"),
        ("strategy::usp", "use super::super::plan::View; use crate::kernel::spec::Gemm;"),
        ("exec::host", "use crate::kernel::host::run; use crate::comm::local::Link;"),
        ("plan", "[`crate::plan::memory`] planning"),
        ("kernel::host", "use crate::kernel::oracle::gemm;"),
        ("plan::law", "use mycrate::exec::Report; // execute"),
    ] {
        assert_eq!(upward_names(&module(from), text), Vec::<String>::new(), "{from}: {text}");
    }
}

#[test]
fn the_scanner_finds_one_executor_in_another() {
    for (from, text) in [
        ("exec::sim", "use crate::exec::host::Link;"),
        ("exec::sim::ports", "use super::super::host::Link;"),
        ("exec::host::stream", "/// As [`crate::exec::sim`] does."),
    ] {
        assert_eq!(names_of_other_executors(&module(from), text).len(), 1, "{from}: {text}");
    }
    for (from, text) in [
        ("exec", "pub use host::Link; use crate::exec::sim::simulate;"),
        ("exec::sim::run", "use crate::exec::{Report, Span}; use super::ports::Ports;"),
        ("auto", "use crate::exec::sim::simulate; use crate::exec::host::Link;"),
    ] {
        assert_eq!(names_of_other_executors(&module(from), text), Vec::<String>::new(), "{from}: {text}");
    }
}

#[test]
fn the_scanner_finds_unsafe_code() {
    let argued =
        "fn f(p: *const u8) -> u8 {\n    // SAFETY: p is valid.\n    let x =\n        unsafe { *p };\n    x\n}";
    let bare = "fn f(p: *const u8) -> u8 {\n    // SAFETY: said of q.\n    g();\n    unsafe { *p }\n}";
    assert_eq!(unsafe_violations("kernel/host/simd.rs", argued).len(), 0);
    assert_eq!(unsafe_violations("exec/host/memory.rs", argued).len(), 0);
    assert_eq!(unsafe_violations("kernel/host/simd.rs", bare).len(), 1);
    for elsewhere in ["plan/law.rs", "exec/host/run.rs", "kernel/hosted.rs", "lib.rs"] {
        assert_eq!(unsafe_violations(elsewhere, argued).len(), 1, "{elsewhere}");
    }
    let documented = "/// Reads.\n///\n/// # Safety\n/// p is valid.\n#[inline]\npub unsafe fn f(p: *const u8) {}";
    assert_eq!(unsafe_violations("kernel/host/simd.rs", documented).len(), 0);
    assert_eq!(unsafe_violations("kernel/host/simd.rs", "\nunsafe impl Sync for A {}").len(), 1);
    let methods = "\n// SAFETY: one instruction each.\nunsafe impl Lanes for A {\n    unsafe fn f() {\n        unsafe { g() }\n    }\n}\n\nfn h() {\n    unsafe { g() }\n}";
    assert_eq!(
        unsafe_violations("kernel/host/simd.rs", methods),
        ["line 10: unsafe without a SAFETY comment above it"]
    );
    let implemented = "impl Lanes for A {\n    unsafe fn f() {\n        unsafe { g() }\n    }\n}";
    assert_eq!(
        unsafe_violations("kernel/host/simd.rs", implemented),
        ["line 3: unsafe without a SAFETY comment above it"]
    );
    assert_eq!(unsafe_violations("plan/law.rs", "// unsafe { }\nlet s = \"unsafe {\"; #![deny(unsafe_op)]").len(), 0);
}

#[test]
fn the_scanner_finds_panics_outside_tests() {
    for text in [
        "x.unwrap();",
        "x.expect(\"y\")",
        "x.expect(&format!(\"a {}\", f(c, d)))",
        "panic!()",
        "fn f() { todo!() }",
        "match x { _ => unimplemented!(\"z\") }",
    ] {
        assert_eq!(panics(text).len(), 1, "{text}");
    }
    for text in [
        "x.unwrap_or(1).unwrap_or_default()",
        "input.expect(\"q\", \"[B, N]\", &[1, 2])?;",
        "// x.unwrap()\n/// panic! when\nlet s = \"panic!\"; let r = r#\"todo!\"#; let c = '\"';",
        "fn f<'a>(x: &'a str) {}\n#[cfg(test)]\nmod tests {\n    fn g() { x.unwrap(); }\n}",
    ] {
        assert_eq!(panics(text), Vec::<String>::new(), "{text}");
    }
    let after = "#[cfg(test)]\nmod tests { fn g() { x.unwrap(); } }\nfn h() { y.unwrap() }";
    assert_eq!(panics(after), ["line 3: .unwrap()"]);
}

#[test]
fn the_scanner_finds_threads() {
    assert_eq!(threads("use std::sync::Arc;").len(), 1);
    assert_eq!(threads(&code("// std::thread would\nlet threads = 1;")).len(), 0);
}
