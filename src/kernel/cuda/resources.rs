//! What ptxas says of each kernel, as lines of text: registers, spills, shared memory. The build
//! and its test hold every compilation to the checked-in table `csrc/ptxas.txt`.
//!
//! This file stands alone: `build.rs` and `tests/kernels_nvcc.rs` include it as well.

/// One kernel on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resources {
    /// Name of the entry point.
    pub symbol: String,
    /// `sm_80` or `sm_90a`.
    pub arch: String,
    /// Stem of its source in `csrc/kernels`, and of its fatbin.
    pub family: String,
    /// Registers of a thread at launch.
    pub registers: u32,
    /// Bytes of registers spilled to local memory, stores and loads together.
    pub spill_bytes: u32,
    /// Bytes of a thread's stack.
    pub stack_bytes: u32,
    /// Static shared memory of a block.
    pub shared_bytes: u32,
    /// Named barriers.
    pub barriers: u32,
    /// Constant memory, parameters included.
    pub constant_bytes: u32,
}

const COLUMNS: [&str; 9] =
    ["symbol", "arch", "family", "registers", "spill_bytes", "stack_bytes", "shared_bytes", "barriers", "const_bytes"];

/// The lines of a table.
///
/// # Errors
/// A line that is not one of [`render`]'s.
pub fn parse(table: &str) -> Result<Vec<Resources>, String> {
    table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse_line).collect()
}

fn parse_line(line: &str) -> Result<Resources, String> {
    let bad = || format!("not a line of resources: {line}");
    let cells: Vec<&str> = line.split_whitespace().collect();
    let [symbol, arch, family, figures @ ..] = cells.as_slice() else { return Err(bad()) };
    let figures: Vec<u32> = figures.iter().map(|cell| cell.parse()).collect::<Result<_, _>>().map_err(|_| bad())?;
    let [registers, spill_bytes, stack_bytes, shared_bytes, barriers, constant_bytes] = figures[..] else {
        return Err(bad());
    };
    Ok(Resources {
        symbol: symbol.to_string(),
        arch: arch.to_string(),
        family: family.to_string(),
        registers,
        spill_bytes,
        stack_bytes,
        shared_bytes,
        barriers,
        constant_bytes,
    })
}

/// The table as text, sorted and aligned. `compiler` is the version it is of.
pub fn render(compiler: &str, rows: &[Resources]) -> String {
    let mut rows = rows.to_vec();
    rows.sort();
    let mut lines: Vec<Vec<String>> = vec![COLUMNS.map(String::from).to_vec()];
    lines[0][0] = format!("# {}", COLUMNS[0]);
    lines.extend(rows.iter().map(Resources::cells));
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
pub fn compiler(table: &str) -> &str {
    let rest = table.strip_prefix("# nvcc ").unwrap_or("");
    rest.split(". ").next().unwrap_or("")
}

impl Resources {
    fn cells(&self) -> Vec<String> {
        let figures =
            [self.registers, self.spill_bytes, self.stack_bytes, self.shared_bytes, self.barriers, self.constant_bytes];
        let names = [&self.symbol, &self.arch, &self.family].map(Clone::clone);
        names.into_iter().chain(figures.map(|n| n.to_string())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let row = |symbol: &str, registers| Resources {
            symbol: symbol.into(),
            arch: "sm_80".into(),
            family: "adaln".into(),
            registers,
            constant_bytes: 720,
            ..Resources::default()
        };
        let text = render("13.0.88", &[row("b", 40), row("a_longer", 255)]);
        assert_eq!(parse(&text).unwrap(), [row("a_longer", 255), row("b", 40)]);
        assert_eq!(compiler(&text), "13.0.88");
        let lengths: Vec<usize> = text.lines().skip(1).map(str::len).collect();
        assert!(lengths.iter().all(|&n| n == lengths[0]), "{text}");
        assert!(parse("a sm_80 adaln 1 2 3 4 5").is_err());
        assert!(parse("a sm_80 adaln 1 2 3 4 5 x").is_err());
    }
}
