//! `results.txt`: a line for each mutant, and the count.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::mutant::{Mutant, Verdict};
use crate::runner::Judgement;

const SEEDS: &str = "200 seeds";
const SURVIVED: &str = "survived";
/// The mutants that the issue asks for, and the part of them that is caught.
const LEAST: usize = 150;
const PERCENT_CAUGHT: usize = 98;

pub struct Results {
    verdicts: BTreeMap<String, Verdict>,
    outcomes: BTreeMap<String, String>,
    /// The line of `two_hundred_seeds`.
    pub seeds: String,
}

/// A survivor's line says why, also where that was found out after the run.
fn explained(outcome: String, verdict: Verdict) -> String {
    if !outcome.starts_with(SURVIVED) && !outcome.starts_with("equivalent") {
        return outcome;
    }
    match verdict {
        Verdict::Equivalent(reason) => format!("equivalent: {reason}"),
        Verdict::Survives(reason) => format!("{SURVIVED}: {reason}"),
        Verdict::Caught => format!("{SURVIVED}: not explained"),
    }
}

fn path() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mutants/results.txt").into()
}

impl Results {
    /// The file's lines of these mutants.
    pub fn read(mutants: &[&Mutant]) -> Self {
        let verdicts: BTreeMap<String, Verdict> = mutants.iter().map(|m| (m.name(), m.verdict)).collect();
        let text = fs::read_to_string(path()).unwrap_or_default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let split = lines.filter_map(|line| {
            let at = line.match_indices(" | ").nth(2)?.0;
            Some((line[..at].to_owned(), line[at + 3..].to_owned()))
        });
        let known = split.filter(|(name, _)| verdicts.contains_key(name));
        let outcomes = known.map(|(name, outcome)| (name.clone(), explained(outcome, verdicts[&name]))).collect();
        let seeds = text.lines().find(|line| line.contains(SEEDS)).unwrap_or_default().to_owned();
        Self { verdicts, outcomes, seeds }
    }

    pub fn has(&self, mutant: &Mutant) -> bool {
        self.outcomes.contains_key(&mutant.name())
    }

    pub fn is_caught(&self, mutant: &Mutant) -> bool {
        let outcome = self.outcomes.get(&mutant.name());
        outcome.is_some_and(|o| !o.starts_with(SURVIVED) && !o.starts_with("equivalent"))
    }

    pub fn set(&mut self, mutant: &Mutant, judgement: Judgement) {
        let outcome = judgement.unwrap_or_else(|| SURVIVED.to_owned());
        self.outcomes.insert(mutant.name(), explained(outcome, mutant.verdict));
    }

    fn count(&self, which: impl Fn(&str) -> bool) -> usize {
        self.outcomes.values().filter(|outcome| which(outcome)).count()
    }

    pub fn write(&self) {
        let survived = self.count(|o| o.starts_with(SURVIVED));
        let equivalent = self.count(|o| o.starts_with("equivalent"));
        let counted = self.outcomes.len() - equivalent;
        let mut text = format!(
            "# {counted} mutants: {} caught, {survived} survived. {equivalent} more are the same program.\n\
             # family | file below csrc | what is broken | the test that catches it: its complaint\n",
            counted - survived
        );
        if !self.seeds.is_empty() {
            text.insert_str(0, &format!("{}\n", self.seeds));
        }
        self.outcomes.iter().for_each(|(name, outcome)| text += &format!("{name} | {outcome}\n"));
        fs::write(path(), text).unwrap();
    }

    /// Mutants without a line.
    pub fn missing(&self) -> Vec<&str> {
        self.verdicts.keys().filter(|name| !self.outcomes.contains_key(*name)).map(String::as_str).collect()
    }

    /// Enough mutants have run, enough of them are caught, and each survivor is explained.
    pub fn assert_enough(&self) {
        let lost: Vec<String> = (self.outcomes.iter())
            .filter(|(_, outcome)| outcome.ends_with("not explained"))
            .map(|(name, _)| name.clone())
            .collect();
        assert!(lost.is_empty(), "survivors without an explanation: {lost:#?}");
        let counted = self.count(|o| !o.starts_with("equivalent"));
        let caught = counted - self.count(|o| o.starts_with(SURVIVED));
        assert!(counted >= LEAST, "{counted} mutants, {LEAST} wanted");
        assert!(!self.seeds.is_empty(), "two_hundred_seeds has not run");
        assert!(100 * caught >= PERCENT_CAUGHT * counted, "{caught} of {counted} are caught");
    }
}
