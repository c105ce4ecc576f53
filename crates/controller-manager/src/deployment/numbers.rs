//! How many pods a rollout may have too many and too few, and how a change of size is spread.
//!
//! Source: kubernetes/pkg/controller/deployment/util.

use api_types::k8s::{
    IntOrString,
    apps::{Deployment, ReplicaSet},
};

use super::{is_rolling, replicas, revision};

/// How far a rollout may stray from the wanted number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slack {
    pub surge: i32,
    pub unavailable: i32,
}

pub fn slack(deployment: &Deployment) -> Slack {
    if !is_rolling(deployment) {
        return Slack { surge: 0, unavailable: 0 };
    }
    let wanted = replicas(deployment);
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = share(surge, wanted, Round::Up);
    let unavailable = match share(unavailable, wanted, Round::Down) {
        // Both zero would never move.
        0 if surge == 0 => 1,
        number => number,
    };
    Slack { surge, unavailable: unavailable.min(wanted) }
}

#[derive(Clone, Copy)]
pub enum Round {
    Up,
    Down,
}

/// A number, or a percentage of `total`.
pub fn share(amount: &IntOrString, total: i32, round: Round) -> i32 {
    let percent = match amount {
        IntOrString::Int(number) => return *number,
        IntOrString::String(text) => text.trim_end_matches('%').parse::<i64>().unwrap_or_default(),
    };
    let hundredths = percent * i64::from(total);
    let number = match round {
        Round::Up => (hundredths + 99).div_euclid(100),
        Round::Down => hundredths.div_euclid(100),
    };
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Spreads `to_add` (negative: to lose) over sets in their order, by their share of the size that the
/// deployment had; what rounding leaves goes to the first. Gives the new sizes.
pub fn spread(deployment: &Deployment, sets: &[&ReplicaSet], to_add: i32) -> Vec<i32> {
    let mut added = 0;
    let mut sizes = Vec::with_capacity(sets.len());
    for set in sets {
        let part = proportion(deployment, set, to_add, added);
        added += part;
        sizes.push(size(set) + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (fraction, allowed) = (fraction(deployment, set), to_add - added);
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    if replicas(deployment) == 0 {
        return -size(set);
    }
    let max_now = replicas(deployment) + slack(deployment).surge;
    let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default();
    let max_before = revision::number(set, revision::MAX_REPLICAS).filter(|max| *max > 0).unwrap_or(status_replicas);
    if max_before == 0 {
        return 0;
    }
    let exact = f64::from(size(set)) * f64::from(max_now) / f64::from(max_before);
    // Both factors are sizes of deployments, which are far below the bounds of f64 and i32.
    exact.round() as i32 - size(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_share(amount: &str, total: i32, up: i32, down: i32) {
        let amount = amount.parse().map_or_else(|_| IntOrString::String(amount.to_owned()), IntOrString::Int);
        assert_eq!((share(&amount, total, Round::Up), share(&amount, total, Round::Down)), (up, down));
    }

    #[test]
    fn shares() {
        check_share("25%", 10, 3, 2);
        check_share("25%", 4, 1, 1);
        check_share("0%", 4, 0, 0);
        check_share("3", 4, 3, 3);
        check_share("100%", 7, 7, 7);
    }
}
