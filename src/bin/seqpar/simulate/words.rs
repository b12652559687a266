//! Why the fastest strategy is the fastest, and where fastseq and ulysses change places, in words.

use seqpar::auto;
use seqpar::dit::models::Model;
use seqpar::strategy::Strategy;

use super::case::Case;
use super::row::Row;
use crate::fault::Result;
use crate::table;

pub(super) fn explain(case: &Case, rows: &[Row]) -> Result<String> {
    let mut text = String::from("\n");
    // usp without a ring, or without ulysses, is one of these under another name.
    let other = |row: &&Row| row.strategy != Strategy::Usp || row.mesh.ring > 1 && row.mesh.ulysses > 1;
    let rows: Vec<&Row> = rows.iter().filter(other).collect();
    if let [first, second, ..] = rows.as_slice() {
        text += &why(first, second);
        if !first.keeps_bits
            && let Some(same) = rows.iter().find(|row| row.keeps_bits)
        {
            let loss = (same.step_s() / first.step_s() - 1.0) * 1e2;
            text += &format!(
                "Of those that keep the bits of one rank {} is the fastest, {loss:.1} % slower.\n",
                same.describe()
            );
        }
    }
    if case.ranks > 1 {
        text += &crossovers(case)?;
    }
    Ok(text)
}

/// Where the time of the first two differs.
fn why(first: &Row, second: &Row) -> String {
    let ms = |seconds: f64| table::millis(seconds * 1e3);
    let gap = (second.step_s() / first.step_s() - 1.0) * 1e2;
    let mut text = format!(
        "{} is the fastest: {} a layer, {gap:.1} % of a step ahead of {}.\n",
        first.describe(),
        ms(first.layer_s()),
        second.describe()
    );
    let figures = |row: &Row| {
        (
            row.mean(|layer| layer.bytes_sent as f64),
            row.mean(|layer| layer.comm_s),
            row.mean(|layer| layer.exposed_s),
            row.mean(|layer| layer.compute_s),
        )
    };
    let ((bytes, comm, bare, compute), (bytes2, comm2, bare2, compute2)) = (figures(first), figures(second));
    let moved = |row: &Row, bytes: f64, comm: f64, bare: f64| {
        format!(
            "{} sends {} a rank in {}, of which {} lie bare",
            row.strategy.name(),
            table::bytes(bytes as u64),
            ms(comm),
            ms(bare)
        )
    };
    text += &format!("{}; {}.\n", moved(first, bytes, comm, bare), moved(second, bytes2, comm2, bare2));
    let (less_bare, less_compute) = (bare2 - bare, compute2 - compute);
    text += &if less_bare > 0.0 && less_bare >= less_compute {
        let reason = if bytes <= bytes2 { "it moves less" } else { "it moves more, but hides more of it" };
        format!("It wins by communication: {reason}.\n")
    } else if less_compute > 0.0 {
        format!("It wins by computation: its kernels take {}, the other's {}.\n", ms(compute), ms(compute2))
    } else {
        "It wins by fewer waits between kernels.\n".to_string()
    };
    text
}

/// Where fastseq and ulysses change places: by ranks, by hidden size, by link.
fn crossovers(case: &Case) -> Result<String> {
    let pair = |model: &Model, ranks: usize| -> seqpar::Result<(f64, f64)> {
        let of = |strategy| case.layer_s(model, case.machine, strategy, ranks);
        Ok((of(Strategy::Fastseq)?, of(Strategy::Ulysses)?))
    };
    let line = |what: String, (fastseq, ulysses): (f64, f64)| {
        let (winner, gain) =
            if fastseq <= ulysses { ("fastseq", ulysses / fastseq) } else { ("ulysses", fastseq / ulysses) };
        format!(
            "  {what:<14} fastseq {:>9}  ulysses {:>9}  {winner} by {:.1} %\n",
            table::millis(fastseq * 1e3),
            table::millis(ulysses * 1e3),
            (gain - 1.0) * 1e2
        )
    };
    let mut text = format!(
        "\nfastseq against ulysses, one layer of {} on {}. fastseq sends V(P-1)/P + V(P-1)/P^2 a rank and can hide the\n\
         first term under the projection; ulysses sends 4V(P-1)/P^2: less from P = 4 on.\n",
        case.model.name, case.machine.name
    );
    text += "by ranks:\n";
    let most = case.machine.ranks.min(case.ranks.max(8));
    for ranks in [2, 3, 4, 6, 8, 16].into_iter().filter(|&ranks| ranks <= most) {
        if let Ok(times) = pair(case.model, ranks) {
            text += &line(format!("P = {ranks}"), times);
        }
    }
    text += &format!("by hidden size, {} ranks, heads of {}:\n", case.ranks, case.model.head_dim);
    for factor in [0.25, 0.5, 1.0, 2.0, 4.0] {
        let heads = (case.model.heads as f64 * factor).round() as usize;
        if heads < case.ranks || heads * case.model.head_dim > 16_384 {
            continue;
        }
        let hidden = heads * case.model.head_dim;
        let mlp = (case.model.mlp as f64 * factor) as usize;
        let model = Model { heads, kv_heads: heads, hidden, mlp, ..*case.model };
        if let Ok(times) = pair(&model, case.ranks) {
            text += &line(format!("C = {hidden}"), times);
        }
    }
    let at =
        |strategy| move |factor: f64| case.layer_s(case.model, &case.machine.with_links(factor), strategy, case.ranks);
    text += &match auto::crossover(at(Strategy::Fastseq), at(Strategy::Ulysses))? {
        Some(factor) => {
            let (faster, slower) = if at(Strategy::Fastseq)(1.0)? < at(Strategy::Ulysses)(1.0)? {
                ("fastseq", "ulysses")
            } else {
                ("ulysses", "fastseq")
            };
            let than = if factor < 1.0 { "slower" } else { "faster" };
            format!(
                "by link, {} ranks: {faster} is ahead on these links; with links {:.2} times as fast or {than}, {slower} is.\n",
                case.ranks, factor
            )
        }
        None => format!("by link, {} ranks: the same one is ahead whatever the links.\n", case.ranks),
    };
    Ok(text)
}
