//! The primitives of `csrc/ptx` and their emulation.
//!
//! - Conformance: one tiny kernel a primitive (`csrc/emu/kernels/probe_*.cu`), seeded inputs,
//!   outputs compared with a reference written here from the PTX ISA, in several schedules.
//! - Faults: the same kernels with one mistake each. The emulation must report it, by the right
//!   message and in every schedule tried, and must be silent about the correct twin.
//! - Twins: `csrc/ptx` and `csrc/emu/ptx.h` declare the same functions; generated files are what
//!   their generators write.
//!
//! With `CONFORMANCE_DUMP=path` the test `dump` writes all conformance cases as JSON: symbol, grid,
//! block, shared memory, arguments, tensor map, inputs, the emulation's outputs, and how exact they
//! are (`bits`: the ISA leaves no choice; `nan`: any NaN for a NaN; `error`: within the ISA's stated
//! error). `scripts/conformance_gpu.py` builds the same kernels with nvcc, runs the dump on a GPU
//! and compares.

mod emulation;
mod support;

#[path = "emulated_ptx/copies.rs"]
mod copies;
#[path = "emulated_ptx/faults.rs"]
mod faults;
#[path = "emulated_ptx/faults_copies.rs"]
mod faults_copies;
#[path = "emulated_ptx/faults_global.rs"]
mod faults_global;
#[path = "emulated_ptx/matrix.rs"]
mod matrix;
#[path = "emulated_ptx/probe.rs"]
mod probe;
#[path = "emulated_ptx/twins.rs"]
mod twins;
#[path = "emulated_ptx/values.rs"]
mod values;
#[path = "emulated_ptx/warp.rs"]
mod warp;
#[path = "emulated_ptx/wgmma.rs"]
mod wgmma;

#[test]
fn dump() {
    let Ok(path) = std::env::var("CONFORMANCE_DUMP") else { return };
    let all = [values::cases(), warp::cases(), matrix::cases(), copies::cases(), wgmma::cases()];
    probe::dump(&path, &all.concat());
}
