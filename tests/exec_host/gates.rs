//! A gated kernel runs piece by piece; what its gates become changes no bit.

use seqpar::exec::host::HostOptions;
use seqpar::plan::lower::Gates;

use super::plans::{COLS, K, gated, lawful, options, pieces, projection_inputs as inputs, run};

#[test]
fn gates_as_flags_and_as_events_give_the_same_bits() {
    for world in [1, 2, 3, 4, 8] {
        let chunk = 5;
        let inputs = inputs(world * chunk);
        let with = |gates| run(&mut lawful(gated(world, chunk), HostOptions { gates, ..options() }), &inputs);
        let (flags, report) = with(Gates::Flags);
        let (events, whole) = with(Gates::Events);
        assert_eq!(flags, events);
        let (x, w, y) = (inputs[0].1.to_f32(), inputs[1].1.to_f32(), flags["y"].to_f32());
        for (i, y) in y.iter().enumerate() {
            let (row, col) = (i / COLS, i % COLS);
            let sum: f64 = (0..K).map(|k| x[row * K + k] as f64 * w[col * K + k] as f64).sum();
            assert!((sum - *y as f64).abs() < 1e-4);
        }
        for rank in 0..world {
            let names: Vec<String> = pieces(&report, rank).iter().map(|span| span.name()).collect();
            let expected: Vec<String> = (0..world).map(|piece| format!("project[{piece}]")).collect();
            assert_eq!(names, if world == 1 { vec!["project".to_string()] } else { expected });
            assert_eq!(pieces(&whole, rank).len(), 1);
        }
    }
}
