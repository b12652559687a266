//! The gates of a compilation: what `nvcc -Xptxas -v` said is read line by line, and anything but
//! plain figures refuses it. Spills, serialised wgmma (C7510, C7517, C7519), an ignored setmaxnreg
//! (C7508) and every other note or warning cost speed silently; figures that are not those of
//! `csrc/ptxas.txt` mean that a change touched a kernel that its author may not have looked at.

use super::resources::{self, Resources};

/// The kernels of a family's log.
///
/// # Errors
/// One line for each thing that refuses the compilation.
pub fn read(family: &str, log: &str) -> Result<Vec<Resources>, String> {
    let mut rows: Vec<Resources> = Vec::new();
    let mut refused = Vec::new();
    let mut function = String::new();
    for line in log.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let said = line.strip_prefix("ptxas info").map_or(line, |rest| rest.trim_start_matches([' ', ':']));
        if let Some(rest) = said.strip_prefix("Compiling entry function '") {
            let mut quoted = rest.split('\'');
            let (symbol, arch) = (quoted.next().unwrap_or(""), quoted.nth(1).unwrap_or(""));
            let named =
                Resources { symbol: symbol.into(), arch: arch.into(), family: family.into(), ..Default::default() };
            rows.push(named);
        } else if let Some(name) = said.strip_prefix("Function properties for ") {
            function = name.to_string();
        } else if said.contains("bytes stack frame") {
            let figures = figures(said);
            let spills = sum(&figures, "bytes spill stores") + sum(&figures, "bytes spill loads");
            if spills > 0 {
                refused.push(format!("{family}: {function} spills: {said}"));
            }
            if let Some(row) = rows.last_mut().filter(|row| row.symbol == function) {
                row.spill_bytes = spills;
                row.stack_bytes = sum(&figures, "bytes stack frame");
            }
        } else if let (Some(used), Some(row)) = (said.strip_prefix("Used "), rows.last_mut()) {
            let used = used.replace("used ", "");
            let figures = figures(&used);
            row.registers = sum(&figures, "registers");
            row.barriers = sum(&figures, "barriers");
            row.shared_bytes = sum(&figures, "bytes smem");
            row.constant_bytes = sum(&figures, "bytes cmem");
        } else if !is_silent(said) {
            refused.push(format!("{family}: {line}"));
        }
    }
    if rows.is_empty() && refused.is_empty() {
        refused.push(format!("{family}: no kernel in the compiler's output"));
    }
    if refused.is_empty() { Ok(rows) } else { Err(refused.join("\n")) }
}

/// Lines that say nothing of a kernel's quality.
fn is_silent(said: &str) -> bool {
    said.ends_with("bytes gmem") || said.starts_with("Compile time =")
}

/// `12 bytes smem, 3 barriers` as numbers with their units.
fn figures(text: &str) -> Vec<(u32, &str)> {
    let figure = |part: &str| part.trim().split_once(' ').and_then(|(n, _)| n.parse().ok());
    text.split(',').filter_map(|part| Some((figure(part)?, part.trim().split_once(' ')?.1))).collect()
}

fn sum(figures: &[(u32, &str)], unit: &str) -> u32 {
    figures.iter().filter(|(_, of)| of.starts_with(unit)).map(|(n, _)| n).sum()
}

/// Holds a compilation of all families to the checked-in table.
///
/// # Errors
/// One line for each kernel that differs, and one that says what to do.
pub fn compare(compiler: &str, rows: &[Resources], table: &str) -> Result<(), String> {
    let expected = resources::parse(table)?;
    let same = |a: &Resources, b: &Resources| a.symbol == b.symbol && a.arch == b.arch;
    let mut differences = Vec::new();
    for row in rows {
        match expected.iter().find(|other| same(row, other)) {
            None => differences.push(format!("{} for {}: not in csrc/ptxas.txt", row.symbol, row.arch)),
            Some(other) if other != row => differences.push(difference(row, other)),
            Some(_) => {}
        }
    }
    for row in expected.iter().filter(|row| !rows.iter().any(|other| same(row, other))) {
        differences.push(format!("{} for {}: in csrc/ptxas.txt, but not compiled", row.symbol, row.arch));
    }
    if differences.is_empty() {
        return Ok(());
    }
    let of = compiler_of(table);
    differences.push(if of == compiler {
        "if that is meant: UPDATE_PTXAS=1 cargo test --test kernels_nvcc".into()
    } else {
        format!("csrc/ptxas.txt is of nvcc {of}, this is {compiler}: set NVCC to what scripts/cuda_wheels.sh prints")
    });
    Err(differences.join("\n"))
}

fn difference(row: &Resources, expected: &Resources) -> String {
    let figures = |row: &Resources| {
        [
            ("family", row.family.clone()),
            ("registers", row.registers.to_string()),
            ("stack bytes", row.stack_bytes.to_string()),
            ("spill bytes", row.spill_bytes.to_string()),
            ("shared bytes", row.shared_bytes.to_string()),
            ("barriers", row.barriers.to_string()),
            ("constant bytes", row.constant_bytes.to_string()),
        ]
    };
    let changed: Vec<String> = (figures(row).into_iter().zip(figures(expected)))
        .filter(|(is, was)| is != was)
        .map(|((name, is), (_, was))| format!("{name} {is}, in csrc/ptxas.txt {was}"))
        .collect();
    format!("{} for {}: {}", row.symbol, row.arch, changed.join("; "))
}

const COLUMNS: [&str; 9] =
    ["symbol", "arch", "family", "registers", "spill_bytes", "stack_bytes", "shared_bytes", "barriers", "const_bytes"];

/// The table as text, sorted and aligned. `compiler` is the version it is of.
pub fn render(compiler: &str, rows: &[Resources]) -> String {
    let mut rows = rows.to_vec();
    rows.sort();
    let mut lines: Vec<Vec<String>> = vec![COLUMNS.map(String::from).to_vec()];
    lines[0][0] = format!("# {}", COLUMNS[0]);
    lines.extend(rows.iter().map(cells));
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let mut text = format!("# nvcc {compiler}. UPDATE_PTXAS=1 cargo test --test kernels_nvcc writes this file.\n");
    for line in &lines {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            match column {
                0 => text += &format!("{cell:width$}"),
                1 | 2 => text += &format!("  {cell:width$}"),
                _ => text += &format!("  {cell:>width$}"),
            }
        }
        text.push('\n');
    }
    text
}

/// The compiler's version that [`render`] was given.
pub fn compiler_of(table: &str) -> &str {
    let rest = table.strip_prefix("# nvcc ").unwrap_or("");
    rest.split(". ").next().unwrap_or("")
}

fn cells(row: &Resources) -> Vec<String> {
    let figures = [row.registers, row.spill_bytes, row.stack_bytes, row.shared_bytes, row.barriers, row.constant_bytes];
    let names = [&row.symbol, &row.arch, &row.family].map(Clone::clone);
    names.into_iter().chain(figures.map(|n| n.to_string())).collect()
}
