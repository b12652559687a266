//! The functions that the header declares, those of the Rust behind it, and their types in C's words.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::layouts::root;

/// `name` to `(type, type) -> type`.
pub(crate) type Declared = BTreeMap<String, String>;

pub(crate) fn header() -> String {
    fs::read_to_string(root().join("include/seqpar.h")).unwrap()
}

/// The header without comments and directives.
pub(crate) fn code() -> String {
    let mut text = header();
    while let Some(at) = text.find("/*") {
        let end = at + text[at..].find("*/").unwrap() + 2;
        text.replace_range(at..end, " ");
    }
    text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}

pub(crate) fn in_header() -> Declared {
    let code = code();
    let mut declared = Declared::new();
    for statement in code.split([';', '{', '}']).map(str::trim) {
        let Some((before, arguments)) = statement.split_once('(') else { continue };
        let arguments = arguments.trim_end_matches(')').split(',').map(str::trim);
        let (returned, name) = before.rsplit_once([' ', '*']).unwrap();
        let star = if before.contains('*') { "*" } else { "" };
        let types: Vec<String> = arguments.filter(|a| *a != "void").map(c_type).collect();
        let returned = tidy(&format!("{}{star}", returned.trim_end_matches('*')));
        declared.insert(name.to_string(), format!("({}) -> {returned}", types.join(", ")));
    }
    declared
}

/// The type of `const seqpar_plans *plans`; an array is a pointer.
fn c_type(argument: &str) -> String {
    let (argument, star) = argument.split_once('[').map_or((argument, ""), |(before, _)| (before, "*"));
    let end = argument.rfind(|c: char| !c.is_alphanumeric() && c != '_').unwrap();
    tidy(&format!("{}{star}", &argument[..=end]))
}

fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace(" *", "*")
}

pub(crate) fn in_rust() -> Declared {
    let mut declared = Declared::new();
    visit(&root().join("src/capi"), &mut declared);
    declared
}

fn visit(folder: &Path, declared: &mut Declared) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, declared);
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        for (at, marker) in text.match_indices("extern \"C\" fn ") {
            let signature = text[at + marker.len()..].split('{').next().unwrap();
            let (name, rest) = signature.split_once('(').unwrap();
            let (arguments, returned) = rest.rsplit_once(')').unwrap();
            let types = arguments.split(',').filter_map(|a| Some(rust_type(a.split_once(':')?.1.trim())));
            let returned = returned.trim().strip_prefix("->").map_or("void".into(), |t| rust_type(t.trim()));
            let types: Vec<String> = types.collect();
            declared.insert(name.trim().to_string(), format!("({}) -> {returned}", types.join(", ")));
        }
    }
}

/// `*const Plans` is `const seqpar_plans*`.
fn rust_type(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("*const ") {
        return format!("const {}*", rust_type(rest));
    }
    if let Some(rest) = name.strip_prefix("*mut ") {
        return format!("{}*", rust_type(rest));
    }
    match name {
        "c_void" => "void".into(),
        "c_char" => "char".into(),
        "usize" => "size_t".into(),
        "u8" => "uint8_t".into(),
        "i32" => "int32_t".into(),
        "i64" => "int64_t".into(),
        other => c_name(other),
    }
}

/// `KernelsOptions` is `seqpar_kernels_options`.
pub(crate) fn c_name(name: &str) -> String {
    let mut out = String::from("seqpar");
    for c in name.chars() {
        if c.is_uppercase() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
