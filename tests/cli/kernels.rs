//! `seqpar kernels`: one line a kernel, consistent with the table of the compiler's figures.

use super::files::Folder;

const TABLE: &str = include_str!("../../csrc/ptxas.txt");

/// Symbol, architecture, family, registers of the checked-in table.
fn compiled() -> Vec<[&'static str; 4]> {
    let cells = |line: &'static str| line.split_whitespace().collect::<Vec<_>>();
    TABLE.lines().filter(|line| !line.starts_with('#')).map(|line| cells(line)[..4].try_into().unwrap()).collect()
}

#[test]
fn every_compiled_kernel_has_one_line() {
    let folder = Folder::new();
    let output = folder.run("kernels");
    assert!(output.status.success() && output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).take_while(|line| !line.is_empty()).collect();
    let shown: Vec<Vec<&str>> = lines.iter().map(|line| line.split_whitespace().take(3).collect()).collect();
    let expected: Vec<Vec<&str>> = compiled().iter().map(|[symbol, arch, _, n]| vec![*symbol, *arch, *n]).collect();
    assert_eq!(shown, expected);
    assert!(lines.iter().all(|line| line.ends_with(" -")), "a measurement without a GPU");
}

#[test]
fn json_has_every_figure_in_its_unit() {
    let folder = Folder::new();
    let value = folder.json("kernels");
    let kernels = value["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), compiled().len());
    for kernel in kernels {
        let symbol = kernel["symbol"].as_str().unwrap();
        let number = |key: &str| kernel[key].as_u64().unwrap_or_else(|| panic!("{symbol}: {key}"));
        assert_eq!(number("spill_bytes"), 0, "{symbol}");
        assert!((1..=1024).contains(&number("threads")), "{symbol}");
        assert!(number("blocks_per_sm") >= 1, "{symbol}");
        assert_eq!(number("warps_per_sm"), number("blocks_per_sm") * number("threads").div_ceil(32), "{symbol}");
        assert!(kernel["measured"].is_null(), "{symbol}");
        let bound = &kernel["bound"];
        let (rate, limit) = match kernel["bound_resource"].as_str().unwrap() {
            "memory" => (&bound["bytes_per_s"], 4.8e12),
            _ => (&bound["flops_per_s"], 990e12),
        };
        let rate = rate.as_f64().unwrap();
        assert!(rate > 0.1 * limit && rate <= limit, "{symbol}: {rate}");
    }
    let of = |symbol: &str| kernels.iter().find(|kernel| kernel["symbol"] == symbol).unwrap();
    // What __launch_bounds__ asks for, and the bound that the cycle model gives.
    let wide = of("attn_fwd_sm90_bf16_d64_m192");
    assert_eq!((wide["threads"].as_u64(), wide["blocks_per_sm"].as_u64()), (Some(512), Some(1)));
    assert_eq!(wide["bound_resource"], "exp");
    let small = of("attn_fwd_sm90_bf16_d72_m64");
    assert_eq!((small["threads"].as_u64(), small["blocks_per_sm"].as_u64()), (Some(256), Some(2)));
    assert_eq!(small["bound_resource"], "tensor");
    assert_eq!(of("gate_residual_norm_modulate_bf16_c1152")["bound_resource"], "memory");
}

#[test]
fn arch_and_family_choose() {
    let folder = Folder::new();
    for (flags, column, value) in
        [("--arch sm_80", 1, "sm_80"), ("--arch sm_90a", 1, "sm_90a"), ("--family adaln", 2, "adaln")]
    {
        let value_of = folder.json(&format!("kernels {flags}"));
        let expected = compiled().iter().filter(|row| row[column] == value).count();
        assert!(expected > 0);
        assert_eq!(value_of["kernels"].as_array().unwrap().len(), expected, "{flags}");
    }
    let both = folder.json("kernels --arch sm_90a --family adaln");
    let all = both["kernels"].as_array().unwrap();
    assert!(!all.is_empty() && all.iter().all(|k| k["arch"] == "sm_90a" && k["family"] == "adaln"));
}

#[test]
fn measured_figures_stand_beside_their_bounds() {
    let folder = Folder::new();
    let record = r#"{ "record": 1, "rows": [ { "bench": "link" },
        { "symbol": "attn_fwd_sm90_bf16_d128_m128", "arch": "sm_90a", "flops_per_s": 494.7e12 },
        { "symbol": "norm_modulate_bf16_c1152", "arch": "sm_90a", "bytes_per_s": 3.6e12 } ] }"#;
    std::fs::write(folder.path("kernels.json"), record).unwrap();
    let output = folder.run("kernels --arch sm_90a --record kernels.json");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |symbol: &str| text.lines().find(|line| line.starts_with(symbol)).unwrap();
    assert!(line("attn_fwd_sm90_bf16_d128_m128").ends_with("495 TFLOP/s (50 %)"), "{text}");
    assert!(line("norm_modulate_bf16_c1152").ends_with("3.60 TB/s (75 %)"), "{text}");
    assert!(line("attn_fwd_sm90_bf16_d128_m64").ends_with(" -"));
    let value = folder.json("kernels --family adaln --record kernels.json");
    let measured = value["kernels"].as_array().unwrap().iter().filter(|kernel| !kernel["measured"].is_null()).count();
    assert_eq!(measured, 1);
}
