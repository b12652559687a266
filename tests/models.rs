//! The table of models: sizes that agree with each other, and problems that every strategy plans.

use std::collections::HashSet;

use seqpar::dit::models::{Attends, MODELS, Model};
use seqpar::kernel::spec::Kernel;
use seqpar::plan::check_world;
use seqpar::strategy::{Options, Strategy, layer};

#[test]
fn sizes_agree_with_each_other_and_with_their_sources() {
    let names: HashSet<&str> = MODELS.iter().map(|model| model.name).collect();
    assert_eq!(names.len(), MODELS.len());
    for model in MODELS {
        assert_eq!(model.heads * model.head_dim, model.hidden, "{}", model.name);
        assert_eq!(model.heads % model.kv_heads, 0, "{}", model.name);
        assert_eq!(model.tokens % model.frames, 0, "{}", model.name);
        assert!(!model.source.is_empty() && model.batch > 0 && model.layers() > 0, "{}", model.name);
    }
    let sizes = |name: &str| Model::named(name).map(|model| (model.tokens, model.text_tokens, model.layers())).unwrap();
    assert_eq!(sizes("flux"), (4096, 512, 57));
    assert_eq!(sizes("hunyuanvideo"), (33 * 45 * 80, 256, 60));
    assert_eq!(sizes("cogvideox-5b"), (13 * 30 * 45, 226, 42));
    assert_eq!(sizes("wan2.1-14b"), (21 * 45 * 80, 512, 40));
}

#[test]
fn an_unknown_model_is_refused_with_the_known_ones() {
    let error = Model::named("dit-xl").unwrap_err().to_string();
    assert!(error.contains("dit-xl") && error.contains("dit-xl/2") && error.contains("flux"), "{error}");
}

#[test]
fn every_kind_of_layer_is_a_lawful_plan() {
    for model in MODELS {
        // The first ranks of a small picture: sizes do not matter to the law.
        let sizes = seqpar::dit::models::Sizes { tokens: 48 * model.frames, ..model.sizes() };
        for kind in model.kinds {
            let ranks = model.split(kind, 2);
            let problem = model.layer(kind, &sizes, 2).unwrap();
            assert_eq!(problem.attention.shard.ranks(), ranks);
            let strategy = if ranks == 1 { Strategy::Single } else { Strategy::Fastseq };
            let mesh = strategy.mesh(ranks, None, None, model.heads, model.kv_heads).unwrap();
            let plans = layer(&problem, strategy, &mesh, &Options::default()).unwrap();
            check_world(plans).unwrap_or_else(|error| panic!("{} {}: {error}", model.name, kind.name));
            let attends_to_text =
                model.beside(kind, &sizes, 2).iter().any(|kernel| matches!(kernel, Kernel::Attention(_)));
            let crosses = !matches!(kind.attends, Attends::Image | Attends::Joint { .. });
            assert_eq!(attends_to_text, crosses, "{} {}", model.name, kind.name);
        }
    }
}

#[test]
fn a_layer_has_the_flops_of_its_closed_form() {
    for (name, kind) in [("dit-xl/2", 0), ("flux", 0), ("flux", 1), ("cogvideox-5b", 0), ("stdit3", 0), ("stdit3", 1)] {
        let model = Model::named(name).unwrap();
        let sizes = model.sizes();
        let kind = &model.kinds[kind];
        let problem = model.layer(kind, &sizes, 1).unwrap();
        let mesh = Strategy::Single.mesh(1, None, None, model.heads, model.kv_heads).unwrap();
        let plans = layer(&problem, Strategy::Single, &mesh, &Options::default()).unwrap();
        let text = if matches!(kind.attends, Attends::Joint { .. }) { sizes.text_tokens } else { 0 };
        let rows = (sizes.batch * (sizes.tokens + text)) as f64;
        let seen = match kind.attends {
            Attends::FrameThenText => sizes.tokens / model.frames,
            Attends::PlaceThenText => model.frames,
            _ => sizes.tokens + text,
        } as f64;
        let (c, f) = (model.hidden as f64, model.mlp as f64);
        let linear = 2.0 * rows * c * (4.0 * c + 2.0 * f);
        let attention = 4.0 * rows * seen * c;
        // Norms and rotations are a small part.
        let flops = plans[0].flops();
        let ratio = flops / (linear + attention);
        assert!((1.0..1.002).contains(&ratio), "{name} {}: {flops:e}, closed form {:e}", kind.name, linear + attention);
    }
}
