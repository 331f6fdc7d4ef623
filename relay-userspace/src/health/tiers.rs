//! Which backends get new flows: the best tier that can be used, unless another one is held. Pure.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::rule::Failback;

/// Whether a backend can be used; the best of its endpoints says so.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Fitness {
    /// It is to get no new flow, whatever becomes of the others: drained, down by order, or without weight.
    Barred,
    /// It is down.
    Bad,
    /// It never answered, and has been asked often enough.
    Doubtful,
    Good,
}

/// A backend to choose from. `K` is what it is known by wherever it stands in the list, such as its text.
#[derive(Clone, Debug)]
pub struct Candidate<K> {
    pub key: K,
    /// The lower the sooner it is tried.
    pub priority: u16,
    pub fitness: Fitness,
    /// Since when it is up, if it is.
    pub up_since: Option<Instant>,
}

/// What makes a tier.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Grouping {
    /// Backends of one priority share new flows.
    ByPriority,
    /// Each backend is a tier of its own, in the order of priorities and then of the list: `balance = "first"`.
    Single,
}

/// The tier that has new flows, by the backends that were in it: an edit of the list cannot make it mean another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Held<K>(pub Vec<K>);

/// Why these backends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Basis {
    /// They can be used.
    Good,
    /// Others are down, and these never answered.
    Doubtful,
    /// All are down: those of the best tier are kept, in case it is only the probes that fail.
    AllDown,
    /// All are barred, so there are none.
    AllBarred,
}

/// Who gets new flows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice<K> {
    /// Indexes of the candidates, in their order.
    pub members: Vec<usize>,
    pub basis: Basis,
    /// What to remember until the next choice.
    pub held: Option<Held<K>>,
    /// When time alone would make another choice.
    pub look_again: Option<Instant>,
}

/// Chooses. `held` is what the last choice said, or the tier that somebody orders; `None`: the best one.
pub fn choose<K: Clone + Eq>(
    candidates: &[Candidate<K>],
    grouping: Grouping,
    failback: Failback,
    held: Option<&Held<K>>,
    now: Instant,
) -> Choice<K> {
    let tiers = tiers(candidates, grouping);
    let fit = |fitness: Fitness| {
        tiers.iter().position(|tier| tier.iter().any(|&index| candidates[index].fitness == fitness))
    };
    let Some(best) = fit(Fitness::Good) else {
        let (tier, basis) = match (fit(Fitness::Doubtful), fit(Fitness::Bad)) {
            (Some(tier), _) => (Some((tier, Fitness::Doubtful)), Basis::Doubtful),
            (None, Some(tier)) => (Some((tier, Fitness::Bad)), Basis::AllDown),
            (None, None) => (None, Basis::AllBarred),
        };
        let members = tier.map(|(tier, fitness)| members(candidates, &tiers[tier], fitness));
        // for want of better: it does not end what is held
        return Choice { members: members.unwrap_or_default(), basis, held: held.cloned(), look_again: None };
    };
    let current = held.and_then(|held| position(candidates, &tiers, held)).filter(|&current| current > best);
    let (tier, look_again) = match (current, failback) {
        (None, _) | (Some(_), Failback::Auto) => (best, None),
        (Some(current), Failback::Manual) => (current, None),
        (Some(current), Failback::Delay(delay)) => {
            let better = tiers[..current].iter().map(|tier| taken_back_at(candidates, tier, delay));
            let times: Vec<Option<Instant>> = better.collect();
            let ripe = times.iter().position(|at| at.is_some_and(|at| at <= now));
            let tier = ripe.unwrap_or(current);
            (tier, times[..tier].iter().flatten().min().copied())
        }
    };
    let keys = tiers[tier].iter().map(|&index| candidates[index].key.clone());
    Choice {
        members: members(candidates, &tiers[tier], Fitness::Good),
        basis: Basis::Good,
        held: Some(Held(keys.collect())),
        look_again,
    }
}

/// Indexes of the candidates by tier, the best one first.
fn tiers<K>(candidates: &[Candidate<K>], grouping: Grouping) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| candidates[index].priority);
    let is_one = |&a: &usize, &b: &usize| {
        grouping == Grouping::ByPriority && candidates[a].priority == candidates[b].priority
    };
    order.chunk_by(is_one).map(<[usize]>::to_vec).collect()
}

fn members<K>(candidates: &[Candidate<K>], tier: &[usize], fitness: Fitness) -> Vec<usize> {
    tier.iter().copied().filter(|&index| candidates[index].fitness == fitness).collect()
}

/// Where the held tier is now, if it can be used. Where an edit has split it, the part with most of it counts.
fn position<K: Eq>(candidates: &[Candidate<K>], tiers: &[Vec<usize>], held: &Held<K>) -> Option<usize> {
    let usable =
        |tier: &&(usize, &Vec<usize>)| tier.1.iter().any(|&index| candidates[index].fitness == Fitness::Good);
    let common = |(_, tier): &(usize, &Vec<usize>)| {
        tier.iter().filter(|&&index| held.0.contains(&candidates[index].key)).count()
    };
    let tiers = tiers.iter().enumerate();
    let found = tiers.filter(|tier| usable(&tier)).max_by_key(|tier| (common(tier), Reverse(tier.0)))?;
    (common(&found) > 0).then_some(found.0)
}

/// When a tier's longest time up is as long as it takes.
fn taken_back_at<K>(candidates: &[Candidate<K>], tier: &[usize], delay: Duration) -> Option<Instant> {
    let good = tier.iter().filter(|&&index| candidates[index].fitness == Fitness::Good);
    good.filter_map(|&index| candidates[index].up_since).min().map(|since| since + delay)
}

#[cfg(test)]
mod tests;
