//! `seqpar layer`: values against f64, bits over ranks and strategies.

use safetensors::tensor::Dtype;

use super::files::{Folder, Tensor, Tensors, named};
use super::oracle::{self, Rows, assert_near};

const H: usize = 4;
const HKV: usize = 2;
const D: usize = 8;
const C: usize = 24;
const SAMPLES: usize = 2;

fn weights(prefix: &str, seed: usize) -> Tensors {
    let small = |shape: &[usize], seed| {
        let wave = Tensor::waves(Dtype::F32, shape, seed);
        let values: Vec<f32> = wave.values().iter().map(|x| (x * 0.3) as f32).collect();
        Tensor::f32(shape, &values)
    };
    let rows = (H + 2 * HKV) * D;
    [("qkv_weight", vec![rows, C]), ("qkv_bias", vec![rows]), ("proj_weight", vec![C, H * D]), ("proj_bias", vec![C])]
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| (format!("{prefix}{name}"), small(&shape, seed + i)))
        .collect()
}

fn joint(text_weights: bool) -> Tensors {
    let (n, t) = (19, 3);
    let mask: Vec<u8> = (0..SAMPLES * (t + n)).map(|i| u8::from(i % 5 != 0)).collect();
    let mut tensors = named([
        ("x", Tensor::waves(Dtype::F32, &[SAMPLES, n, C], 1)),
        ("text_x", Tensor::waves(Dtype::F32, &[SAMPLES, t, C], 2)),
        ("key_mask", Tensor::u8(&[SAMPLES, t + n], &mask)),
    ]);
    tensors.extend(weights("", 10));
    if text_weights {
        tensors.extend(weights("text_", 20));
    }
    tensors
}

/// `out` and `text_out` in f64.
fn reference(input: &Tensors) -> (Vec<f64>, Vec<f64>) {
    let text_prefix = if input.contains_key("text_qkv_weight") { "text_" } else { "" };
    let linear = |x: &[f64], prefix: &str, name: &str, inputs: usize| {
        let values = |part: &str| input[&format!("{prefix}{name}_{part}")].values();
        oracle::linear(x, &values("weight"), Some(&values("bias")), inputs)
    };
    let (image, text) = (&input["x"], &input["text_x"]);
    let (n, t) = (image.shape[1], text.shape[1]);
    let image_qkv = linear(&image.values(), "", "qkv", C);
    let text_qkv = linear(&text.values(), text_prefix, "qkv", C);
    let width = (H + 2 * HKV) * D;
    let part = |first: usize, heads: usize| {
        let mut values = Vec::new();
        for b in 0..SAMPLES {
            for (rows, qkv) in [(t, &text_qkv), (n, &image_qkv)] {
                for row in qkv.chunks(width).skip(b * rows).take(rows) {
                    values.extend_from_slice(&row[first * D..(first + heads) * D]);
                }
            }
        }
        Rows::new(values, [SAMPLES, t + n, heads, D])
    };
    let (q, k, v) = (part(0, H), part(H, HKV), part(H + HKV, HKV));
    let (out, _) = oracle::attention(&q, &k, &v, Some(&input["key_mask"].bytes));
    let (text_rows, image_rows) = oracle::split(&out, t);
    (linear(&image_rows, "", "proj", H * D), linear(&text_rows, text_prefix, "proj", H * D))
}

#[test]
fn every_strategy_gives_the_layer_and_those_of_r1_its_bits() {
    for text_weights in [false, true] {
        let folder = Folder::new();
        let input = joint(text_weights);
        folder.write("in", &input);
        let line = format!("layer --input in --heads {H} --kv-heads {HKV}");
        folder.ok(&format!("{line} --output one"));
        let one = folder.read("one");
        let (image, text) = reference(&input);
        let near = |output: &Tensors, what: &str| {
            assert_near(&format!("{what} out"), &output["out"].values(), &image, 2e-5);
            assert_near(&format!("{what} text_out"), &output["text_out"].values(), &text, 2e-5);
        };
        near(&one, "one rank");
        assert_eq!((&one["out"].shape, &one["text_out"].shape), (&vec![2, 19, C], &vec![2, 3, C]));
        for (flags, same) in [
            ("--ranks 2 --strategy fastseq", true),
            ("--ranks 3 --strategy fastseq --text replicate", true),
            ("--ranks 4 --strategy ulysses", true),
            ("--ranks 3 --strategy kv-gather --threads 6", true),
            ("--ranks 1 --strategy fastseq", true),
            ("--ranks 2", true),
            ("--ranks 2 --strategy megatron", false),
            ("--ranks 3 --strategy ring", false),
            ("--ranks 4 --strategy usp", false),
            ("--ranks 4 --allow-reorder", false),
        ] {
            folder.ok(&format!("{line} --output many {flags}"));
            let many = folder.read("many");
            near(&many, flags);
            assert!(!same || many == one, "{flags} changed a bit");
        }
    }
}

#[test]
fn biases_are_optional() {
    let folder = Folder::new();
    let mut input = joint(false);
    for name in ["qkv_bias", "proj_bias"] {
        let zeros = vec![0.0; input[name].shape[0]];
        input.insert(name.into(), Tensor::f32(&[zeros.len()], &zeros));
    }
    folder.write("zeros", &input);
    input.retain(|name, _| !name.ends_with("bias"));
    folder.write("none", &input);
    for file in ["zeros", "none"] {
        folder.ok(&format!("layer --input {file} --output {file}.out --heads {H} --kv-heads {HKV}"));
    }
    let values = |file: &str| folder.read(file)["out"].values();
    assert_eq!(values("zeros.out"), values("none.out"));
}

#[test]
fn each_text_twin_may_stand_alone() {
    let folder = Folder::new();
    let twins = weights("text_", 20);
    for present in 1..15u32 {
        // The file names some twins; the whole one writes out what that means.
        let mut some = joint(false);
        let mut whole = joint(false);
        for (i, (name, twin)) in twins.iter().enumerate() {
            let own = present >> i & 1 == 1;
            if own {
                some.insert(name.clone(), twin.clone());
            }
            let shared = whole[&name["text_".len()..]].clone();
            whole.insert(name.clone(), if own { twin.clone() } else { shared });
        }
        folder.write("some", &some);
        folder.write("whole", &whole);
        let line = format!("--heads {H} --kv-heads {HKV}");
        folder.ok(&format!("layer --input whole --output a {line}"));
        folder.ok(&format!("layer --input some --output b {line} --ranks 3 --strategy fastseq --text replicate"));
        assert!(folder.read("a") == folder.read("b"), "twins {present:04b}");
    }
}

#[test]
fn text_may_have_a_bias_where_the_image_has_none() {
    let folder = Folder::new();
    let mut input = joint(true);
    input.retain(|name, _| !name.starts_with("qkv_bias") && !name.starts_with("proj_bias"));
    folder.write("text", &input);
    for name in ["qkv_bias", "proj_bias"] {
        let rows = input[&format!("text_{name}")].shape[0];
        input.insert(name.into(), Tensor::f32(&[rows], &vec![0.0; rows]));
    }
    let (image, text) = reference(&input);
    folder.ok(&format!("layer --input text --output out --heads {H} --kv-heads {HKV} --ranks 2 --strategy ulysses"));
    let out = folder.read("out");
    assert_near("out", &out["out"].values(), &image, 2e-5);
    assert_near("text_out", &out["text_out"].values(), &text, 2e-5);
}
