//! Memory that is given twice in one call.

use std::ptr::null_mut;

use seqpar::capi::abi::Tensor;
use seqpar::dtype::Dtype;
use seqpar::kernel::spec::{Kernel, Mode};

use crate::kernels::{OnHost, call, every_kernel};
use crate::memory::Memory;
use crate::support::Rng;
use crate::support::tensors::random_operands;
use crate::{last_error, name_of, ok, refused};

fn moved(tensor: Tensor, bytes: usize) -> Tensor {
    Tensor { data: tensor.data.wrapping_byte_add(bytes), ..tensor }
}

#[test]
fn what_a_kernel_writes_overlaps_nothing_else() {
    let kernels = OnHost::new(1);
    let mut tried = 0;
    for kernel in every_kernel(Dtype::F32, 16, 8) {
        let specs = kernel.operands();
        let inputs = random_operands(&kernel, &mut Rng(1));
        let mut memory: Vec<Memory> = inputs.iter().map(Memory::of).collect();
        let tensors: Vec<Tensor> = memory.iter_mut().map(Memory::tensor).collect();
        ok(call(kernels.0, &kernel, &tensors, null_mut()));
        for (i, written) in specs.iter().enumerate().filter(|(_, spec)| spec.mode != Mode::Read) {
            for (j, other) in specs.iter().enumerate().filter(|(j, _)| *j != i) {
                let what = format!("{}: {} over {}", kernel.name(), written.name, other.name);
                let replaced = other.name == "residual" && written.name == "out";
                // All of it, and all but its first four elements.
                for bytes in [0, 16] {
                    let mut given = tensors.clone();
                    given[i] = moved(tensors[j], bytes);
                    let is_tiny = other.bytes() <= bytes as u64;
                    let in_place = replaced && bytes == 0;
                    if is_tiny || in_place {
                        continue;
                    }
                    let status = call(kernels.0, &kernel, &given, null_mut());
                    assert_eq!(name_of(status), "SEQPAR_INVALID_ARGUMENT", "{what}, {bytes}: {}", last_error());
                    assert!(last_error().contains("overlap, and one is written"), "{what}: {}", last_error());
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 50, "{tried}");
}

/// The residual may take the place of x; what is read may be given twice.
#[test]
fn what_may_overlap_does() {
    let kernels = OnHost::new(1);
    for kernel in every_kernel(Dtype::F32, 16, 8) {
        let specs = kernel.operands();
        let at = |name: &str| specs.iter().position(|spec| spec.name == name);
        let inputs = random_operands(&kernel, &mut Rng(2));
        let mut memory: Vec<Memory> = inputs.iter().map(Memory::of).collect();
        let mut tensors: Vec<Tensor> = memory.iter_mut().map(Memory::tensor).collect();
        match kernel {
            Kernel::GateResidual(_) | Kernel::GateResidualNormModulate(_) => {
                ok(call(kernels.0, &kernel, &tensors, null_mut()));
                let (x, out) = (at("residual").unwrap(), at("out").unwrap());
                let want = memory[out].values();
                tensors[out] = tensors[x];
                ok(call(kernels.0, &kernel, &tensors, null_mut()));
                assert_eq!(memory[x].values().data, want.data, "in place");
                // The header's names are in the words.
                tensors[out] = moved(tensors[x], 16);
                refused(call(kernels.0, &kernel, &tensors, null_mut()), "SEQPAR_INVALID_ARGUMENT", "residual");
                refused(call(kernels.0, &kernel, &tensors, null_mut()), "SEQPAR_INVALID_ARGUMENT", "x");
            }
            Kernel::Attention(_) => {
                tensors[at("v").unwrap()] = tensors[at("k").unwrap()];
                ok(call(kernels.0, &kernel, &tensors, null_mut()));
            }
            _ => {}
        }
    }
}
