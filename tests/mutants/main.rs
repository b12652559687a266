//! The tests are tested: kernels (and their launches) broken in one place, judged by the tests of
//! `emulated/`. A few in every run; all of them, with the results written to `results.txt`, by
//!
//! `cargo test --test mutants -- --ignored every_mutant`
//!
//! `SEQPAR_MUTANTS` (a part of the names, or "missing": those without a line) runs some of them and
//! keeps the other lines.

#![allow(dead_code, unreachable_pub)]

mod adaln;
mod attention_sm80;
mod attention_sm90;
#[path = "../emulation/mod.rs"]
mod emulation;
mod gemm_sm80;
mod gemm_sm90;
mod mutant;
mod results;
mod rows;
mod runner;
mod seeds;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;

use mutant::{Family, Mutant};
use results::Results;
use runner::{Binaries, assert_control, judge_all};

fn all() -> Vec<&'static Mutant> {
    [
        adaln::MUTANTS,
        rows::MUTANTS,
        attention_sm80::MUTANTS,
        attention_sm90::MUTANTS,
        gemm_sm80::MUTANTS,
        gemm_sm90::MUTANTS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn families(mutants: &[&Mutant]) -> Vec<&'static Family> {
    let mut families: Vec<&Family> = mutants.iter().map(|m| m.family).collect();
    families.sort_by_key(|f| f.name);
    families.dedup_by_key(|f| f.name);
    families
}

fn binaries(mutants: &[&Mutant]) -> Binaries {
    let mut names: Vec<&str> = mutants.iter().flat_map(|m| m.family.tests).map(|(binary, _)| *binary).collect();
    names.sort_unstable();
    names.dedup();
    Binaries::build(&names)
}

/// Six families by the seed, one of the mutants that `results.txt` calls caught of each.
#[test]
fn a_sample_of_mutants_is_caught() {
    let seed = support::seed();
    eprintln!("mutants: seed {seed}");
    let mut rng = support::Rng(seed);
    let all = all();
    let known = Results::read(&all);
    let mut caught: Vec<&Mutant> = all.into_iter().filter(|m| known.is_caught(m)).collect();
    caught.sort_by_cached_key(|_| rng.next());
    let mut sample: Vec<&Mutant> = Vec::new();
    for mutant in caught {
        if sample.len() < 6 && sample.iter().all(|m| m.family.name != mutant.family.name) {
            sample.push(mutant);
        }
    }
    let binaries = binaries(&sample);
    judge_all(&sample, &binaries, |mutant, judgement| {
        eprintln!("{}: {judgement:?}", mutant.name());
        assert!(judgement.is_some(), "{} is not caught", mutant.name());
    });
}

#[test]
#[ignore = "an hour; writes results.txt"]
fn every_mutant() {
    let all = all();
    let part = std::env::var("SEQPAR_MUTANTS").unwrap_or_default();
    let known = Results::read(&all);
    let is_chosen = |m: &&Mutant| if part == "missing" { !known.has(m) } else { m.name().contains(&part) };
    let mut chosen: Vec<&Mutant> = all.iter().copied().filter(is_chosen).collect();
    // A run that is cut short has some of every family.
    let mut rng = support::Rng(1);
    chosen.sort_by_cached_key(|_| rng.next());
    let binaries = binaries(&chosen);
    let results = Mutex::new(Results::read(&all));
    judge_all(&chosen, &binaries, |mutant, judgement| {
        eprintln!("{} | {}", mutant.name(), judgement.as_deref().unwrap_or("SURVIVED"));
        let mut results = results.lock().unwrap();
        results.set(mutant, judgement);
        results.write();
    });
    let results = results.into_inner().unwrap();
    assert!(results.missing().is_empty(), "mutants that have not run: {:#?}", results.missing());
    results.assert_enough();
}

/// Else a mutant would be caught for nothing.
#[test]
#[ignore = "minutes"]
fn copies_that_are_not_broken_pass() {
    let all = all();
    let binaries = binaries(&all);
    families(&all).into_iter().for_each(|family| assert_control(family, &binaries));
}

#[test]
#[ignore = "minutes; writes its line of results.txt"]
fn two_hundred_seeds() {
    let line = seeds::no_report_in(200);
    let mut results = Results::read(&all());
    results.seeds = line;
    results.write();
}

#[test]
fn a_few_seeds_of_the_unbroken_kernels() {
    seeds::no_report_in(3);
}

#[test]
fn every_mutant_is_a_place_in_the_sources() {
    let wrong: Vec<String> = all().into_iter().filter_map(runner::misplaced).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_unique_and_results_are_of_these_mutants() {
    let all = all();
    let mut names: Vec<String> = all.iter().map(|m| m.name()).collect();
    names.sort();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    Results::read(&all).assert_enough();
}
