//! The simulator on data that its machines were not fitted to: published times per step of
//! CogVideoX under ulysses, ring, both, and guidance in parallel (xDiT, `docs/performance`), on L40
//! with PCIe and on A100 with NVLink. Compared is the ratio to one GPU, not absolute seconds. The
//! table in `docs/simulator.md` is what this test prints.

use seqpar::auto;
use seqpar::dit::models::{Model, Sizes};
use seqpar::exec::sim::{SimMachine, SimOptions, kernel_s};
use seqpar::mesh::Mesh;
use seqpar::strategy::{Options, Strategy, alike, layer_rank};

/// Ulysses degree, ring degree, guidance halves at once, measured seconds.
type Row = (usize, usize, usize, f64);

struct Table {
    name: &'static str,
    model: &'static str,
    tokens: Option<usize>,
    machine: &'static str,
    alone: f64,
    rows: &'static [Row],
}

/// As published, in seconds: 6.28 is no circle. Rows of 12 GPUs, two machines of unknown network, are left out.
#[allow(clippy::approx_constant)]
const TABLES: [Table; 5] = [
    Table {
        name: "CogVideoX-2b, L40",
        model: "cogvideox-2b",
        tokens: None,
        machine: "l40x8",
        alone: 2.10,
        rows: &[
            (2, 1, 1, 1.24),
            (1, 2, 1, 1.23),
            (1, 1, 2, 1.02),
            (3, 1, 1, 0.95),
            (1, 3, 1, 0.89),
            (2, 1, 2, 0.63),
            (1, 2, 2, 0.60),
            (3, 2, 1, 0.55),
            (2, 3, 1, 0.63),
            (3, 1, 2, 0.50),
            (1, 3, 2, 0.49),
        ],
    },
    Table {
        name: "CogVideoX-5b, L40",
        model: "cogvideox-5b",
        tokens: None,
        machine: "l40x8",
        alone: 6.28,
        rows: &[
            (2, 1, 1, 3.63),
            (1, 2, 1, 3.65),
            (1, 1, 2, 3.05),
            (3, 1, 1, 2.7),
            (1, 3, 1, 2.61),
            (2, 1, 2, 1.8),
            (1, 2, 2, 1.73),
            (3, 2, 1, 1.45),
            (2, 3, 1, 1.58),
            (3, 1, 2, 1.35),
            (1, 3, 2, 1.31),
        ],
    },
    Table {
        name: "CogVideoX-2b, A100",
        model: "cogvideox-2b",
        tokens: None,
        machine: "a100x8",
        alone: 1.44,
        rows: &[(2, 1, 1, 0.87), (1, 2, 1, 0.88), (1, 1, 2, 0.74), (2, 1, 2, 0.48), (1, 2, 2, 0.47)],
    },
    Table {
        name: "CogVideoX-5b, A100",
        model: "cogvideox-5b",
        tokens: None,
        machine: "a100x8",
        alone: 4.07,
        rows: &[(2, 1, 1, 2.38), (1, 2, 1, 2.44), (1, 1, 2, 2.12), (2, 1, 2, 1.27), (1, 2, 2, 1.27)],
    },
    Table {
        name: "CogVideoX1.5-5B, 161 frames, L40",
        model: "cogvideox1.5-5b",
        tokens: Some(21 * 48 * 85),
        machine: "l40x8",
        alone: 3624.12,
        rows: &[
            (2, 1, 1, 2092.11),
            (1, 2, 1, 2023.06),
            (1, 1, 2, 1855.82),
            (3, 1, 1, 1486.58),
            (1, 3, 1, 1444.89),
            (4, 1, 1, 1484.33),
            (1, 4, 1, 1162.93),
            (3, 1, 2, 740.70),
            (1, 3, 2, 737.03),
            (4, 1, 2, 761.19),
            (1, 4, 2, 593.18),
            (2, 2, 2, 592.66),
        ],
    },
];

/// One step; all heads are exchanged at once, as xDiT does.
fn step_s(table: &Table, ulysses: usize, ring: usize, halves: usize) -> f64 {
    let model = Model::named(table.model).unwrap();
    let machine = SimMachine::named(table.machine).unwrap();
    let usual = model.sizes();
    let sizes = Sizes { tokens: table.tokens.unwrap_or(usual.tokens), batch: usual.batch / halves, ..usual };
    let ranks = ulysses * ring;
    let strategy = if ranks == 1 { Strategy::Single } else { Strategy::Usp };
    let mesh = Mesh::new(ulysses, ring).unwrap();
    let options = Options { head_groups: 1, ..Options::default() };
    let kinds = model.kinds.iter().map(|kind| {
        let problem = model.layer(kind, &sizes, ranks).unwrap();
        let alike = alike(&problem.attention, strategy, &mesh);
        let build = |rank| layer_rank(&problem, strategy, &mesh, &options, rank);
        let layer = auto::predict(&machine, SimOptions::default(), strategy, mesh, &alike, build).unwrap().seconds;
        let beside: f64 = model.beside(kind, &sizes, ranks).iter().map(|kernel| kernel_s(&machine, kernel)).sum();
        kind.count as f64 * (layer + beside)
    });
    kinds.sum()
}

fn name(&(ulysses, ring, halves, _): &Row) -> String {
    let part = |name: &str, degree: usize| if degree > 1 { format!("{name}{degree} ") } else { String::new() };
    format!("{}{}{}", part("U", ulysses), part("R", ring), part("CFG", halves)).trim_end().to_string()
}

#[test]
fn ratios_between_strategies_and_gpu_counts_are_near_the_published_ones() {
    let mut errors = Vec::new();
    println!("| table | split | GPUs | measured | simulated | error |\n|---|---|---|---|---|---|");
    for table in &TABLES {
        let alone = step_s(table, 1, 1, 1);
        println!("{}: one GPU {alone:.2} s a step simulated", table.name);
        for row @ &(ulysses, ring, halves, measured) in table.rows {
            let ratio = alone / step_s(table, ulysses, ring, halves);
            let published = table.alone / measured;
            let error = ratio / published - 1.0;
            println!(
                "| {} | {} | {} | {published:.2} | {ratio:.2} | {:+.0} % |",
                table.name,
                name(row),
                ulysses * ring * halves,
                error * 1e2
            );
            errors.push(error);
        }
    }
    let mut sizes: Vec<f64> = errors.iter().map(|error| error.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let (median, worst) = (sizes[sizes.len() / 2], sizes[sizes.len() - 1]);
    println!("{} rows: median error {:.1} %, worst {:.1} %", sizes.len(), median * 1e2, worst * 1e2);
    // Pure ulysses over 4 L40 gained nothing over 3 where it was measured; the model has no reason
    // for that, and is not given one: those rows stand in the table as they are.
    let far = sizes.iter().filter(|error| **error > 0.30).count();
    assert!(median <= 0.15 && far * 10 <= sizes.len(), "median {median}, {far} rows above 30 %");
}
