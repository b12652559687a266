//! Bad input: one line on stderr that names what is wrong, the right exit code, no file left.

use safetensors::tensor::Dtype;

use super::files::{Folder, Tensor, Tensors, digits, named};

/// Runs a line that must be refused with `code` and words that name what is wrong.
pub(crate) fn refused(folder: &Folder, line: &str, code: i32, words: &[&str]) {
    let before = folder.names();
    let output = folder.run(line);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "`seqpar {line}`: {stderr}");
    assert!(stdout.is_empty(), "`seqpar {line}` printed {stdout}");
    assert_eq!(stderr.lines().count(), 1, "`seqpar {line}`: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`seqpar {line}`: no {word:?} in {stderr}");
    }
    assert_eq!(folder.names(), before, "`seqpar {line}` left a file");
}

fn qkv() -> Tensors {
    named([
        ("q", Tensor::waves(Dtype::F32, &[2, 6, 4, 8], 1)),
        ("k", Tensor::waves(Dtype::F32, &[2, 6, 2, 8], 2)),
        ("v", Tensor::waves(Dtype::F32, &[2, 6, 2, 8], 3)),
    ])
}

const RUN: &str = "attention --input in --output out";

#[test]
fn hostile_files_are_refused_by_name() {
    let folder = Folder::new();
    folder.write("good", &qkv());
    let good = std::fs::read(folder.path("good")).unwrap();
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let mut long_header = good.clone();
    long_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let entry =
        |shape: &str, from: u64, to: u64| format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#);
    let huge = "[4294967296,4294967296,4294967296,4]";
    let half = u64::MAX / 2;
    let files = [
        (Vec::new(), "empty"),
        (good[..5].to_vec(), "5 bytes"),
        (good[..40].to_vec(), "cut short"),
        (good[..good.len() - 100].to_vec(), "cut short"),
        (long_header, "18446744073709551615"),
        (header("not json", 0), "not JSON"),
        (header("{\"q\":5}", 0), "\"q\""),
        (header(&format!(r#"{{"q":{}}}"#, entry(huge, 0, 8)), 8), "\"q\""),
        (header(&format!(r#"{{"q":{}}}"#, entry("[2]", 8, 0)), 8), "\"q\""),
        (header(&format!(r#"{{"q":{},"k":{}}}"#, entry("[2]", 0, 8), entry("[2]", 4, 12)), 12), "overlaps"),
        (header(&format!(r#"{{"q":{0},"q":{0}}}"#, entry("[2]", 0, 8)), 8), "twice"),
        (header(&format!(r#"{{"q":{},"k":{}}}"#, entry("[2]", 0, half), entry("[2]", half, u64::MAX)), 8), "outside"),
        (header(r#"{"q":{"dtype":"F77","shape":[2],"data_offsets":[0,8]}}"#, 8), "F77"),
        (header("{}", 0), "\"q\" is missing"),
    ];
    for (bytes, word) in files {
        std::fs::write(folder.path("in"), bytes).unwrap();
        refused(&folder, RUN, 1, &["in: ", word]);
    }
    std::fs::remove_file(folder.path("in")).unwrap();
    refused(&folder, RUN, 1, &["in: "]);
    std::fs::create_dir(folder.path("in")).unwrap();
    refused(&folder, RUN, 1, &["in: "]);
}

#[test]
fn unsuitable_tensors_are_refused_by_name() {
    let f32 = |shape: &[usize]| Tensor::waves(Dtype::F32, shape, 1);
    let cases: Vec<(&str, Option<Tensor>, &[&str])> = vec![
        ("q", None, &["\"q\" is missing", "k, v"]),
        ("v", None, &["\"v\" is missing"]),
        ("q", Some(f32(&[2, 6, 32])), &["\"q\"", "[2, 6, 32]", "[B, N, H, D]"]),
        ("k", Some(f32(&[6, 2, 8])), &["\"k\""]),
        ("q", Some(f32(&[2, 0, 4, 8])), &["\"q\"", "at least 1"]),
        ("q", Some(f32(&[3, 6, 4, 8])), &["\"k\"", "[2, 6, 2, 8]"]),
        ("q", Some(f32(&[2, 6, 4, 7])), &["\"k\""]),
        ("q", Some(f32(&[2, 6, 3, 8])), &["3", "multiple"]),
        ("v", Some(f32(&[2, 5, 2, 8])), &["\"v\"", "[2, 5, 2, 8]"]),
        ("v", Some(Tensor::waves(Dtype::F16, &[2, 6, 2, 8], 1)), &["\"v\"", "F16", "F32"]),
        (
            "q",
            Some(Tensor { dtype: Dtype::F64, bytes: vec![0; 3072], ..f32(&[2, 6, 4, 8]) }),
            &["\"q\"", "F64", "BF16"],
        ),
        ("text_q", Some(f32(&[2, 3, 4, 8])), &["\"text_q\"", "\"text_k\""]),
        ("key_mask", Some(Tensor::u8(&[2, 5], &[1; 10])), &["\"key_mask\"", "[2, 6]"]),
        ("key_mask", Some(Tensor::u8(&[2, 6], &[2; 12])), &["\"key_mask\"", "value 2"]),
        ("key_mask", Some(f32(&[2, 6])), &["\"key_mask\"", "F32", "U8"]),
        ("mask", Some(Tensor::u8(&[2, 6], &[1; 12])), &["\"mask\"", "key_mask"]),
    ];
    for (name, tensor, words) in cases {
        let folder = Folder::new();
        let mut input = qkv();
        match tensor {
            Some(tensor) => input.insert(name.into(), tensor),
            None => input.remove(name),
        };
        folder.write("in", &input);
        refused(&folder, RUN, 1, &[&["in: "], words].concat());
    }
}

#[test]
fn unsuitable_flags_are_usage_errors() {
    let folder = Folder::new();
    folder.write("in", &qkv());
    for (flags, words) in [
        ("--ranks 0", ["--ranks", "at least 1"]),
        ("--ranks -3", ["--ranks", "at least 1"]),
        ("--ranks two", ["--ranks", "whole number"]),
        ("--ranks 7 --strategy ulysses", ["7 ranks", "6"]),
        ("--ranks 2 --strategy single", ["single", "--ranks 1"]),
        ("--ranks 4 --strategy usp --ulysses 2 --ring 3", ["--ulysses 2", "--ranks 4"]),
        ("--ranks 4 --strategy usp --ulysses 3", ["--ulysses 3", "--ranks 4"]),
        ("--ranks 2 --strategy ring --ulysses 2 --ring 1", ["ring", "ulysses"]),
        ("--ranks 2 --strategy rign", ["rign", "ulysses, ring, usp, megatron, kv-gather or auto"]),
        ("--ranks 2 --strategy fastseq", ["fastseq", "seqpar layer"]),
        ("--ranks 2 --strategy megatron", ["megatron", "seqpar layer"]),
        ("--text both", ["--text", "replicate"]),
        ("--threads 0", ["--threads", "at least 1"]),
        ("--timeout -1", ["--timeout", "above 0"]),
        ("--timeout nan", ["--timeout", "above 0"]),
        ("--link-gbps 0", ["--link-gbps", "1e-6"]),
        ("--link-us inf", ["--link-us", "from 0"]),
        ("--trace out", ["--output", "--trace"]),
        ("--frobnicate", ["--frobnicate", ""]),
    ] {
        refused(&folder, &format!("{RUN} {flags}"), 2, &words);
    }
    refused(&folder, "attention --input in --output in", 2, &["--output", "--input"]);
    refused(&folder, "attention --input in", 2, &["--output"]);
    refused(
        &folder,
        "atention",
        2,
        &["atention", "attention, layer, dit, sample, plan, simulate, bench, report, kernels or flight"],
    );
    refused(&folder, "", 2, &["attention, layer, dit, sample, plan, simulate, bench, report, kernels or flight"]);
}

#[test]
fn unwritable_outputs_are_refused_before_the_work() {
    let folder = Folder::new();
    folder.write("in", &qkv());
    std::fs::create_dir(folder.path("folder")).unwrap();
    refused(&folder, "attention --input in --output nowhere/out", 1, &["nowhere/out", "--output"]);
    refused(&folder, "attention --input in --output folder", 1, &["folder", "directory"]);
    refused(&folder, &format!("{RUN} --trace nowhere/trace"), 1, &["nowhere/trace", "--trace"]);
    if cfg!(target_os = "linux") {
        refused(&folder, "attention --input in --output /dev/full", 1, &["/dev/full"]);
    }
}

#[test]
fn layers_are_checked() {
    let folder = Folder::new();
    let f32 = |shape: &[usize], seed| Tensor::waves(Dtype::F32, shape, seed);
    let good =
        named([("x", f32(&[1, 5, 12], 1)), ("qkv_weight", f32(&[24, 12], 2)), ("proj_weight", f32(&[12, 8], 3))]);
    let with = |name: &str, tensor: Tensor| {
        let mut input = good.clone();
        input.insert(name.into(), tensor);
        input
    };
    let line = "layer --input in --output out --heads 2";
    for (input, flags, code, words) in [
        (good.clone(), "--kv-heads 3", 2, vec!["--kv-heads 3"]),
        (with("qkv_weight", f32(&[25, 12], 2)), "", 1, vec!["qkv_weight", "25", "--heads"]),
        (with("qkv_weight", f32(&[24, 11], 2)), "", 1, vec!["qkv_weight", "[24, 12]"]),
        (with("proj_weight", f32(&[8, 12], 2)), "", 1, vec!["proj_weight", "[12, 8]"]),
        (with("qkv_bias", f32(&[23], 2)), "", 1, vec!["qkv_bias", "[24]"]),
        (with("text_qkv_weight", f32(&[24, 12], 2)), "", 1, vec!["text_qkv_weight", "text_x"]),
        (with("text_x", f32(&[2, 5, 12], 2)), "", 1, vec!["text_x", "[1, 5, 12]"]),
        (with("qkv_wieght", f32(&[24, 12], 2)), "", 1, vec!["qkv_wieght", "known"]),
        (good.clone(), "--ranks 6 --strategy fastseq", 2, vec!["6 ranks", "5"]),
    ] {
        folder.write("in", &input);
        refused(&folder, &format!("{line} {flags}"), code, &words);
    }
    folder.write("in", &with("qkv_bias", Tensor::waves(Dtype::BF16, &[24], 1)));
    refused(&folder, line, 1, &["qkv_bias", "BF16"]);
}

#[test]
fn models_and_their_inputs_are_checked() {
    let folder = Folder::new();
    let weights = digits();
    let good = named([
        ("latent", Tensor::waves(Dtype::F32, &[2, 1, 16, 16], 1)),
        ("timestep", Tensor::f32(&[2], &[3.0, 500.0])),
        ("class", Tensor::i64(&[1, 10])),
    ]);
    let line = format!("dit --weights {weights} --input in --output out");
    for (name, tensor, words) in [
        ("latent", Tensor::waves(Dtype::F32, &[2, 1, 8, 8], 1), ["latent", "[2, 1, 16, 16]"]),
        ("latent", Tensor::waves(Dtype::F16, &[2, 1, 16, 16], 1), ["latent", "F16"]),
        ("timestep", Tensor::f32(&[3], &[0.0; 3]), ["timestep", "[2]"]),
        ("timestep", Tensor::f32(&[2], &[0.0, f32::NAN]), ["timestep", "NaN"]),
        ("class", Tensor::i64(&[0, 11]), ["class", "11"]),
        ("class", Tensor::i64(&[-1, 0]), ["class", "-1"]),
    ] {
        let mut input = good.clone();
        input.insert(name.into(), tensor);
        folder.write("in", &input);
        refused(&folder, &line, 1, &words);
    }
    folder.write("in", &good);
    refused(&folder, &format!("{line} --ranks 65 --strategy ulysses"), 2, &["65", "64"]);
    refused(&folder, &format!("{line} --dtype f64"), 2, &["f64", "bf16"]);
    refused(&folder, "dit --weights in --input in --output out", 1, &["in: "]);

    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(folder.path("cut"), &bytes[..bytes.len() / 2]).unwrap();
    refused(&folder, "dit --weights cut --input in --output out", 1, &["cut: "]);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut some: Tensors = Tensors::new();
    for (name, view) in file.iter().filter(|(name, _)| *name != "blocks.2.attn.proj.bias") {
        let tensor = Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        some.insert(name.into(), tensor);
    }
    folder.write("some", &some);
    refused(&folder, "dit --weights some --input in --output out", 1, &["some: "]);

    let sample = format!("sample --weights {weights} --output out.png");
    refused(&folder, &format!("{sample} --steps 2 --class 1,12"), 2, &["12", "0 to 9"]);
    refused(&folder, &format!("{sample} --steps 0 --class 1"), 2, &["--steps"]);
    refused(&folder, &format!("{sample} --steps 1001 --class 1"), 2, &["--steps", "1000"]);
    refused(&folder, &format!("{sample} --steps 2"), 2, &["--noise", "--class"]);
    refused(&folder, &format!("{sample} --steps 2 --class 1 --noise in"), 2, &["--noise"]);
    refused(&folder, &format!("{sample} --steps 2 --class 1 --cfg nan"), 2, &["--cfg"]);
    refused(&folder, &format!("{sample} --steps 2 --class 1 --cfg-ranks 2"), 2, &["--cfg"]);
    refused(&folder, &format!("{sample} --steps 2 --class 1 --cfg 2 --cfg-ranks 3"), 2, &["--cfg-ranks"]);
    refused(&folder, &format!("{sample} --steps 2 --noise in"), 1, &["in: ", "\"noise\" is missing"]);
    refused(&folder, &format!("{sample} --steps 2 --class 1 --latents out.png"), 2, &["--latents", "--output"]);
    refused(&folder, &format!("{sample} --steps 2 --class 1 --latents no/where"), 1, &["no/where"]);
}

#[test]
fn plans_are_checked() {
    let folder = Folder::new();
    for (flags, word) in [
        ("--tokens 2 --heads 2 --head-dim 4 --ranks 3 --strategy ulysses", "at most 2 ranks"),
        ("--tokens 0 --heads 2 --head-dim 4", "--tokens"),
        ("--tokens 99999999999999999999 --heads 2 --head-dim 4", "--tokens"),
        ("--tokens 1000000000 --heads 1000 --head-dim 128", "elements"),
        ("--tokens 8 --heads 3 --kv-heads 2 --head-dim 4", "--kv-heads"),
        ("--tokens 8 --heads 2 --head-dim 4 --ranks 2 --strategy ulysses --rank 2", "--rank 2"),
        ("--tokens 8 --heads 2 --head-dim 4 --dtype i8", "i8"),
        ("--tokens 8 --heads 2", "--head-dim"),
    ] {
        refused(&folder, &format!("plan {flags}"), 2, &[word]);
    }
}

#[test]
fn help_teaches_and_exits_with_0() {
    let folder = Folder::new();
    for (line, words) in [
        ("--help", ["attention", "sample", "Examples"]),
        ("attention --help", ["key_mask", "kv-gather", "--link-gbps"]),
        ("layer --help", ["qkv_weight", "megatron", "--kv-heads"]),
        ("dit --help", ["latent", "null class", "--dtype"]),
        ("sample --help", ["--cfg-ranks", "--no-verify", "Perfetto"]),
        ("plan --help", ["--explain", "--text-tokens", "fastseq"]),
    ] {
        let text = folder.ok(line).split_whitespace().collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(text.to_lowercase().contains(&word.to_lowercase()), "no {word:?} in `seqpar {line}`");
        }
    }
}

#[test]
fn kernels_refuses_unknown_names_and_bad_records() {
    let folder = Folder::new();
    std::fs::write(folder.path("text"), "no json").unwrap();
    std::fs::write(folder.path("empty"), "{}").unwrap();
    std::fs::write(folder.path("unit"), r#"{"rows": [{"symbol": "a", "arch": "sm_80", "tflops": 1}]}"#).unwrap();
    refused(&folder, "kernels --arch sm_75", 2, &["--arch", "sm_75", "sm_90a"]);
    refused(&folder, "kernels --family norms", 2, &["--family norms", "adaln"]);
    refused(&folder, "kernels --record missing", 1, &["missing"]);
    refused(&folder, "kernels --record text", 1, &["text"]);
    refused(&folder, "kernels --record empty", 1, &["empty", "rows"]);
    refused(&folder, "kernels --record unit", 1, &["unit", "flops_per_s"]);
}
