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

/// The lines of a table.
///
/// # Errors
/// A line that is not nine cells: three names and six numbers.
pub(super) fn parse(table: &str) -> Result<Vec<Resources>, String> {
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
