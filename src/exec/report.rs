//! Overlap: how much of a rank's communication its compute hides. One function for measured and
//! predicted reports.

use super::{Report, Span, SpanKind};

/// Begins and ends in ns, disjoint, ascending.
pub type Intervals = Vec<(u64, u64)>;

/// Overlap on one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overlap {
    /// The rank.
    pub rank: usize,
    /// Time in which at least one compute span ran.
    pub compute_ns: u64,
    /// Time in which at least one communication span ran.
    pub comm_ns: u64,
    /// Time in which a communication span ran and no compute span did.
    pub exposed_ns: u64,
    /// Part of the communication that compute hid, 0 to 1; 1 without communication.
    pub hidden: f64,
}

/// Overlap figures of every rank.
pub fn overlap(report: &Report) -> Vec<Overlap> {
    by_rank(report).iter().enumerate().map(|(rank, spans)| overlap_of(rank, spans)).collect()
}

/// The intervals, in ns, in which each rank communicates and does not compute.
pub fn exposed(report: &Report) -> Vec<Intervals> {
    let of_rank = |spans: &Vec<&Span>| {
        let (compute, comm) = unions(spans);
        outside(&comm, &compute)
    };
    by_rank(report).iter().map(of_rank).collect()
}

fn by_rank(report: &Report) -> Vec<Vec<&Span>> {
    let ranks = report.spans.iter().map(|span| span.rank + 1).max().unwrap_or(0).max(report.streams.len());
    let mut spans: Vec<Vec<&Span>> = vec![Vec::new(); ranks];
    report.spans.iter().for_each(|span| spans[span.rank].push(span));
    spans
}

fn overlap_of(rank: usize, spans: &[&Span]) -> Overlap {
    let (compute, comm) = unions(spans);
    let (compute_ns, comm_ns) = (length(&compute), length(&comm));
    let exposed_ns = length(&outside(&comm, &compute));
    let hidden = if comm_ns == 0 { 1.0 } else { 1.0 - exposed_ns as f64 / comm_ns as f64 };
    Overlap { rank, compute_ns, comm_ns, exposed_ns, hidden }
}

/// When the spans compute, and when they communicate.
fn unions(spans: &[&Span]) -> (Intervals, Intervals) {
    let of = |wanted: fn(&Span) -> bool| {
        let wanted = spans.iter().filter(|span| wanted(span));
        union(wanted.map(|span| (span.begin_ns, span.end_ns)).collect())
    };
    (of(|span| span.kind.computes()), of(|span| span.kind == SpanKind::Comm))
}

/// The same instants as disjoint ascending intervals.
fn union(mut intervals: Vec<(u64, u64)>) -> Intervals {
    intervals.sort_unstable();
    let mut joined = Intervals::new();
    for (begin, end) in intervals.into_iter().filter(|(begin, end)| begin < end) {
        match joined.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((begin, end)),
        }
    }
    joined
}

fn length(intervals: &[(u64, u64)]) -> u64 {
    intervals.iter().map(|(begin, end)| end - begin).sum()
}

/// The parts of the intervals of `a` that lie in none of `b`; both are unions.
fn outside(a: &[(u64, u64)], b: &[(u64, u64)]) -> Intervals {
    let mut rest = Vec::new();
    let mut first = 0;
    for &(begin, end) in a {
        let mut from = begin;
        first += b[first..].iter().take_while(|other| other.1 <= begin).count();
        for &(other_begin, other_end) in b[first..].iter().take_while(|other| other.0 < end) {
            if other_begin > from {
                rest.push((from, other_begin));
            }
            from = from.max(other_end);
        }
        if from < end {
            rest.push((from, end));
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposed_time_is_communication_without_compute() {
        let span = |rank, kind, begin_ns, end_ns| Span {
            rank,
            stream: 0,
            op: "op".into(),
            kind,
            begin_ns,
            end_ns,
            piece: None,
            bytes: 0,
            flops: 0.0,
        };
        let spans = vec![
            span(0, SpanKind::Compute, 0, 10),
            span(0, SpanKind::Copy, 5, 12),
            span(0, SpanKind::Compute, 20, 30),
            span(0, SpanKind::Comm, 8, 18),
            span(0, SpanKind::Comm, 15, 25),
            span(0, SpanKind::Mark, 0, 100),
            span(1, SpanKind::Compute, 0, 7),
        ];
        let report = Report { streams: vec![Vec::new(); 3], spans, ..Report::default() };
        let figures = overlap(&report);
        let expected = Overlap { rank: 0, compute_ns: 22, comm_ns: 17, exposed_ns: 8, hidden: 1.0 - 8.0 / 17.0 };
        assert_eq!(figures[0], expected);
        assert_eq!(exposed(&report), [vec![(12, 20)], vec![], vec![]]);
        assert_eq!(figures[1], Overlap { rank: 1, compute_ns: 7, comm_ns: 0, exposed_ns: 0, hidden: 1.0 });
        assert_eq!(figures[2].compute_ns, 0);
    }
}
