//! Operands that a kernel must refuse before it touches memory.

use seqpar::Error;
use seqpar::dtype::Dtype;
use seqpar::kernel::host::{Tensor, run_piece};
use seqpar::kernel::spec::{ClassEmbed, Epilogue, Gemm, Kernel};

fn tensor(memory: &mut [u64], dtype: Dtype, shape: [usize; 4]) -> Tensor {
    let strides = [shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1];
    // SAFETY: the memory is initialised, aligned, larger than every shape of this file, and lives
    // until the kernels of a test have ended.
    unsafe { Tensor::new(memory.as_mut_ptr().cast(), dtype, shape, strides) }
}

#[test]
fn wrong_operands_are_errors_that_name_the_operand() {
    let kernel = Kernel::Gemm(Gemm::linear(Dtype::F32, 2, 3, 4, 5, true, Epilogue::None));
    let mut memory = [[0u64; 64]; 4];
    let good = |memory: &mut [[u64; 64]; 4]| {
        let [w, bias, a, out] = memory;
        [
            vec![tensor(w, Dtype::F32, [1, 5, 1, 4])],
            vec![tensor(bias, Dtype::F32, [1, 1, 1, 5])],
            vec![tensor(a, Dtype::F32, [2, 3, 1, 4])],
            vec![tensor(out, Dtype::F32, [2, 3, 1, 5])],
        ]
    };
    let operands = good(&mut memory);
    run_piece(&kernel, 0, &operands, 1).unwrap();
    run_piece(&kernel, 0, &operands, 0).unwrap();
    assert!(run_piece(&kernel, 1, &operands, 1).is_err());
    assert!(run_piece(&kernel, 0, &operands[..3], 1).is_err());

    let mut refused = |i: usize, dtype: Dtype, shape: [usize; 4], views: usize, name: &str| {
        let mut operands = good(&mut memory);
        let mut other = [0u64; 64];
        operands[i] = vec![tensor(&mut other, dtype, shape); views];
        let error = run_piece(&kernel, 0, &operands, 1).unwrap_err();
        assert!(matches!(error, Error::Shape(_)) && error.to_string().contains(name), "{error}");
    };
    refused(0, Dtype::F32, [1, 5, 1, 4], 0, "(w)");
    refused(0, Dtype::F32, [1, 4, 1, 5], 1, "(w)");
    refused(1, Dtype::F32, [1, 1, 1, 4], 1, "(bias)");
    refused(2, Dtype::F16, [2, 3, 1, 4], 1, "(a)");
    refused(2, Dtype::F32, [2, 3, 1, 4], 2, "(a)");
    refused(3, Dtype::F32, [1, 3, 1, 5], 1, "(out)");
}

#[test]
fn a_class_outside_the_table_is_an_error() {
    let kernel = Kernel::ClassEmbed(ClassEmbed { dtype: Dtype::F32, batch: 1, classes: 2, hidden: 4 });
    for class in [-1i32, 2, i32::MAX] {
        let mut memory = [[0u64; 8]; 4];
        memory[2][0] = u64::from(class as u32);
        let [t_emb, table, class, out] = &mut memory;
        let operands = [
            vec![tensor(t_emb, Dtype::F32, [1, 1, 1, 4])],
            vec![tensor(table, Dtype::F32, [1, 2, 1, 4])],
            vec![tensor(class, Dtype::I32, [1, 1, 1, 1])],
            vec![tensor(out, Dtype::F32, [1, 1, 1, 4])],
        ];
        let error = run_piece(&kernel, 0, &operands, 1).unwrap_err();
        assert!(error.to_string().contains("class"), "{error}");
    }
}
