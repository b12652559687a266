//! `seqpar dit` and `seqpar sample` on the checkpoint of digits.
//!
//! The golden numbers were printed by `scripts/reference_dit.py golden`, a numpy implementation
//! in float64 that shares nothing with this crate.

use super::files::{Folder, Tensor, digits, named};
use super::oracle::assert_near;

/// Elements that the golden numbers stand for.
const PICKS: [usize; 10] = [0, 1, 17, 100, 200, 255, 256, 300, 400, 511];
/// `dit` at t = [500, 3], class = [7, null].
const CALL: [f64; 10] =
    [0.300149, 0.980617, -0.368749, 0.834902, 1.047474, 0.863100, -0.178887, -0.272532, 2.663643, -0.934513];
/// `sample`, class = [3, 8], 4 steps.
const SAMPLES: [f64; 10] =
    [-0.996948, -0.992886, -0.971448, -0.540674, -0.150151, -0.995207, -0.996048, -0.622568, -0.994322, -0.997818];
/// `sample`, class = [3, 8], 3 steps, guidance 2.
const GUIDED: [f64; 10] =
    [-0.998952, -0.998269, -0.974941, -0.999000, -0.447970, -1.000000, -0.991083, -0.479087, -0.996256, -0.999014];

/// sin(0.7 i), the latents of the reference.
fn ramp() -> Tensor {
    let values: Vec<f32> = (0..512).map(|i| (0.7 * f64::from(i)).sin() as f32).collect();
    Tensor::f32(&[2, 1, 16, 16], &values)
}

fn folder() -> Folder {
    let folder = Folder::new();
    let class = Tensor::i64(&[7, 10]);
    folder.write("in", &named([("latent", ramp()), ("timestep", Tensor::f32(&[2], &[500.0, 3.0])), ("class", class)]));
    folder.write("noise", &named([("noise", ramp()), ("class", Tensor::i64(&[3, 8]))]));
    folder
}

fn picked(tensor: &Tensor) -> Vec<f64> {
    let values = tensor.values();
    PICKS.iter().map(|&i| values[i]).collect()
}

#[test]
fn one_call_is_near_the_reference_and_keeps_its_bits_over_ranks() {
    let (folder, weights) = (folder(), digits());
    let line = format!("dit --weights {weights} --input in");
    folder.ok(&format!("{line} --output one"));
    let one = folder.read("one");
    assert_eq!(one["out"].shape, [2, 1, 16, 16]);
    assert_near("out", &picked(&one["out"]), &CALL, 1e-4);
    for flags in ["--ranks 3 --strategy fastseq", "--ranks 4 --strategy ulysses", "--ranks 2"] {
        folder.ok(&format!("{line} --output many {flags}"));
        assert!(folder.read("many") == one, "{flags} changed a bit");
    }
    for flags in ["--ranks 4 --strategy usp --ulysses 2 --ring 2", "--ranks 2 --strategy megatron"] {
        folder.ok(&format!("{line} --output many {flags}"));
        assert_near(flags, &folder.read("many")["out"].values(), &one["out"].values(), 1e-4);
    }
    folder.ok(&format!("{line} --output bf16 --dtype bf16"));
    assert_near("bf16", &picked(&folder.read("bf16")["out"]), &CALL, 0.1);
}

#[test]
fn samples_are_near_the_reference() {
    let (folder, weights) = (folder(), digits());
    let line = format!("sample --weights {weights} --noise noise --output out.png --latents out");
    folder.ok(&format!("{line} --steps 4"));
    assert_near("samples", &picked(&folder.read("out")["samples"]), &SAMPLES, 1e-3);
    folder.ok(&format!("{line} --steps 3 --cfg 2"));
    assert_near("guided", &picked(&folder.read("out")["samples"]), &GUIDED, 1e-3);
}

#[test]
fn the_picture_is_the_same_on_any_number_of_ranks() {
    let (folder, weights) = (Folder::new(), digits());
    let line = format!("sample --weights {weights} --class 0,5,10 --seed 7 --steps 3 --no-verify --output");
    folder.ok(&format!("{line} one.png"));
    let picture = |name: &str| std::fs::read(folder.path(name)).unwrap();
    for (ranks, strategy) in [(2, "fastseq"), (3, "ulysses"), (4, "kv-gather"), (3, "auto")] {
        folder.ok(&format!("{line} many.png --ranks {ranks} --strategy {strategy}"));
        assert!(picture("one.png") == picture("many.png"), "{strategy} on {ranks} ranks changed the picture");
    }
    folder.ok(&format!("{line} other.png --seed 8").replacen("--seed 7 ", "", 1));
    assert!(picture("one.png") != picture("other.png"), "the seed does nothing");
}

#[test]
fn guidance_on_two_groups_has_the_bits_of_one_after_the_other() {
    let (folder, weights) = (folder(), digits());
    let line = format!("sample --weights {weights} --noise noise --steps 2 --cfg 1.5 --no-verify --output");
    folder.ok(&format!("{line} a.png --latents a"));
    for flags in ["--cfg-ranks 2", "--cfg-ranks 2 --ranks 2 --strategy fastseq", "--ranks 2 --strategy ulysses"] {
        folder.ok(&format!("{line} b.png --latents b {flags}"));
        assert!(folder.read("a") == folder.read("b"), "{flags} changed a bit");
    }
}

#[test]
fn sampling_on_several_ranks_compares_itself_with_one() {
    let (folder, weights) = (folder(), digits());
    let line = format!("sample --weights {weights} --noise noise --steps 2 --ranks 2 --output out.png");
    let text = folder.ok(&format!("{line} --strategy fastseq --trace trace.json"));
    for word in ["bit-identical", "moved", "overlap", "single, 1 rank", "out.png", "trace.json"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
    let value = folder.json(&format!("{line} --strategy ulysses"));
    assert_eq!(value["verified"]["bit_identical"], true, "{value}");
    assert!(folder.json(&format!("{line} --no-verify"))["verified"].is_null());
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.path("trace.json")).unwrap()).unwrap();
    assert!(trace.is_array() || trace["traceEvents"].is_array());
    assert_eq!(&std::fs::read(folder.path("out.png")).unwrap()[1..4], b"PNG");
}
