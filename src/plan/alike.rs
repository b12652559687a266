//! Ranks of a world that do the same: the plan of one is the plan of another with the ranks
//! renamed, so that one plan, its outline and its program stand for both.
//!
//! Refuses nothing: who is alike is what [`crate::plan::check_ranks`] and a simulation are told.
//! Assumes that it is true; which strategies make it so, and the proof: `tests/alike.rs`.

/// Which ranks of a world do the same. Ranks stand in places of consecutive teams, rank q in place
/// q mod `team`. Where rank q does what rank p does, p's team stands for q's, the others around
/// them alike, and q's place for p's; who stood between the two in a team moves up by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    team: u32,
    /// By rank, the one that does the same: itself, or an earlier one.
    first: Vec<u32>,
}

impl Alike {
    /// A world of `ranks` with a plan each.
    pub fn none(ranks: usize) -> Self {
        Self::new(ranks, 1, |rank| rank)
    }

    /// A world in which `rank` does what `first(rank)` does, which is `rank` or an earlier one and
    /// does what no other does. Every team has `team` ranks.
    pub fn new(ranks: usize, team: usize, first: impl Fn(usize) -> usize) -> Self {
        Self { team: team.max(1) as u32, first: (0..ranks).map(|rank| first(rank).min(rank) as u32).collect() }
    }

    /// All ranks.
    pub fn world(&self) -> usize {
        self.first.len()
    }

    /// The ranks that have plans of their own, in order.
    pub fn firsts(&self) -> impl Iterator<Item = usize> + '_ {
        self.first.iter().enumerate().filter(|(rank, first)| *rank == **first as usize).map(|(rank, _)| rank)
    }

    /// The rank that does what `rank` does, which is below [`Alike::world`].
    pub fn first(&self, rank: usize) -> usize {
        self.first[rank] as usize
    }

    /// How `rank` names ranks, which is below [`Alike::world`].
    pub fn names(&self, rank: usize) -> Names {
        let (world, team, rank, first) = (self.first.len() as u32, self.team, rank as u32, self.first[rank]);
        let shift = (rank / team * team + world - first / team * team) % world.max(1);
        Names { world, team, shift, from: first % team, to: rank % team }
    }

    /// By rank, the number of its plan among [`Alike::firsts`].
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let (mut numbers, mut count) = (Vec::with_capacity(self.first.len()), 0);
        for (rank, &first) in self.first.iter().enumerate() {
            let own = rank == first as usize;
            numbers.push(if own { count } else { numbers[first as usize] });
            count += u32::from(own);
        }
        numbers
    }
}

/// What a rank calls the ranks that are named in the plan of the rank that it is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    world: u32,
    team: u32,
    /// From team to team, in ranks.
    shift: u32,
    /// The place of the rank whose plan it is, and of this rank.
    from: u32,
    to: u32,
}

impl Names {
    /// True if it calls every rank by its own name.
    pub fn are_own(self) -> bool {
        self.shift == 0 && self.from == self.to
    }

    /// The rank that the plan calls `rank`.
    pub fn of(self, rank: u32) -> u32 {
        if self.are_own() {
            return rank;
        }
        let place = rank % self.team;
        let now = if place == self.from {
            self.to
        } else if self.from < place && place <= self.to {
            place - 1
        } else if self.to <= place && place < self.from {
            place + 1
        } else {
            place
        };
        let shifted = rank - place + now + self.shift;
        if shifted < self.world { shifted } else { shifted - self.world }
    }
}
