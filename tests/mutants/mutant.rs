//! A mutant as data: one place of the kernels' source, and what stands there instead.

/// One kernel and its tests.
pub struct Family {
    pub name: &'static str,
    /// The translation units in `csrc/kernels`; a mutant's tree has no others.
    pub sources: &'static [&'static str],
    /// The one path that the tests take, where they know two.
    pub arch: Option<&'static str>,
    /// A first attempt with few variants, to save compiling them all: a mutant that it catches is
    /// caught, others meet the whole family.
    pub narrow: Option<Narrow>,
    /// The cheapest and most telling first.
    pub tests: Tests,
}

/// Few of a family's variants.
pub struct Narrow {
    /// What keeps the tests to these.
    pub set: (&'static str, &'static str),
    /// Lines of the first source that begin like one of these make variants; those with `kept` stay.
    pub lines: &'static [&'static str],
    pub kept: &'static str,
    /// None: those of the family.
    pub tests: Option<Tests>,
}

/// Test binaries and names in them.
pub type Tests = &'static [(&'static str, &'static [&'static str])];

pub struct Mutant {
    pub family: &'static Family,
    pub what: &'static str,
    pub change: Change,
    pub verdict: Verdict,
}

pub enum Change {
    /// `find` occurs `times` in the file below `csrc`, and becomes `put` everywhere.
    Text { file: &'static str, find: &'static str, put: &'static str, times: usize },
    /// A fault of `tests/emulation/broken_launch.rs`.
    Launch(&'static str),
}

/// What the suite expects.
#[derive(Clone, Copy)]
pub enum Verdict {
    Caught,
    /// The same program in another way, for this reason: outside the count.
    Equivalent(&'static str),
    /// A hole that is known, for this reason: counted as a survivor.
    Survives(&'static str),
}

/// `find` occurs once.
pub const fn text(
    family: &'static Family,
    file: &'static str,
    what: &'static str,
    find: &'static str,
    put: &'static str,
) -> Mutant {
    everywhere(family, file, what, find, put, 1)
}

pub const fn everywhere(
    family: &'static Family,
    file: &'static str,
    what: &'static str,
    find: &'static str,
    put: &'static str,
    times: usize,
) -> Mutant {
    Mutant { family, what, change: Change::Text { file, find, put, times }, verdict: Verdict::Caught }
}

pub const fn launch(family: &'static Family, fault: &'static str) -> Mutant {
    Mutant { family, what: fault, change: Change::Launch(fault), verdict: Verdict::Caught }
}

impl Mutant {
    pub const fn equivalent(self, reason: &'static str) -> Self {
        Self { verdict: Verdict::Equivalent(reason), ..self }
    }

    pub const fn survives(self, reason: &'static str) -> Self {
        Self { verdict: Verdict::Survives(reason), ..self }
    }

    /// Unique; begins a line of `results.txt`.
    pub fn name(&self) -> String {
        let place = match self.change {
            Change::Text { file, .. } => file,
            Change::Launch(_) => "launch",
        };
        format!("{} | {place} | {}", self.family.name, self.what)
    }
}
