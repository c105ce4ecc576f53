//! Is a history of one key linearizable? Wing and Gong's search with Lowe's memory of the
//! configurations that failed, for a register of unique values that is created, swapped,
//! deleted and read. A write of unknown outcome may have happened at any time since it was
//! sent, or never.

use std::collections::HashSet;

/// A value, unique in its history; `None`: the key does not exist.
pub type State = Option<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// From one state to another: absent to a value is a creation, a value to absent a deletion.
    Swap(State, State),
    Read(State),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The key was in another state.
    Refused,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub action: Action,
    pub outcome: Outcome,
    /// Moments of one clock: when it was sent, when it was answered.
    pub sent: u64,
    pub answered: u64,
}

impl Operation {
    /// The state after it, if it can happen in this one.
    fn step(&self, state: State) -> Option<State> {
        match (self.action, self.outcome) {
            (Action::Read(found), _) => (found == state).then_some(state),
            (Action::Swap(from, _), Outcome::Refused) => (from != state).then_some(state),
            (Action::Swap(from, to), Outcome::Done | Outcome::Unknown) => (from == state).then_some(to),
        }
    }

    fn end(&self) -> u64 {
        if self.outcome == Outcome::Unknown { u64::MAX } else { self.answered }
    }
}

/// `Err`: how far an order could be found, and what would have to come next.
pub fn check(mut operations: Vec<Operation>) -> Result<(), String> {
    operations.sort_by_key(|operation| operation.sent);
    let mut search = Search { is_done: vec![0; operations.len().div_ceil(64)], operations, failed: HashSet::new() };
    let mut left = search.operations.iter().filter(|operation| operation.outcome != Outcome::Unknown).count();
    let (mut path, mut state, mut next): (Vec<(usize, State)>, State, usize) = (Vec::new(), None, 0);
    let (mut fewest, mut stuck) = (left, String::new());
    while left > 0 {
        if let Some((index, after)) = search.next(next, state) {
            path.push((index, state));
            search.flip(index);
            left -= usize::from(search.operations[index].outcome != Outcome::Unknown);
            (state, next) = (after, 0);
            continue;
        }
        if left <= fewest {
            let pending: Vec<&Operation> = search.pending().map(|(_, operation)| operation).collect();
            (fewest, stuck) = (left, format!("{left} left in state {state:?}, none of which fits: {pending:?}"));
        }
        let Some((index, before)) = path.pop() else { return Err(stuck) };
        search.flip(index);
        left += usize::from(search.operations[index].outcome != Outcome::Unknown);
        (state, next) = (before, index + 1);
    }
    Ok(())
}

struct Search {
    operations: Vec<Operation>,
    is_done: Vec<u64>,
    /// What is done and the state: tried once, and never again.
    failed: HashSet<(Vec<u64>, State)>,
}

impl Search {
    fn flip(&mut self, index: usize) {
        self.is_done[index / 64] ^= 1 << (index % 64);
    }

    /// What may come next: sent before any other that is not done was answered.
    fn pending(&self) -> impl Iterator<Item = (usize, &Operation)> {
        let is_left = |index: &usize| self.is_done[index / 64] & (1 << (index % 64)) == 0;
        let left = (0..self.operations.len()).filter(is_left).map(|index| (index, &self.operations[index]));
        let first_end = left.clone().map(|(_, operation)| operation.end()).min().unwrap_or(u64::MAX);
        left.take_while(move |(_, operation)| operation.sent <= first_end)
    }

    /// The first that fits, from this index on, and leads to what was not tried before.
    fn next(&mut self, from: usize, state: State) -> Option<(usize, State)> {
        let fitting: Vec<(usize, State)> = self
            .pending()
            .filter(|(index, _)| *index >= from)
            .filter_map(|(index, operation)| Some((index, operation.step(state)?)))
            .collect();
        fitting.into_iter().find(|(index, after)| {
            self.flip(*index);
            let is_new = self.failed.insert((self.is_done.clone(), *after));
            self.flip(*index);
            is_new
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sent-answered action`: `+1` created, `1>2` swapped, `2-` deleted, `=2` and `=` read; `!` behind it: refused,
    /// `?`: unknown.
    fn history(text: &str) -> Vec<Operation> {
        let number = |text: &str| text.parse::<u64>().ok();
        let operation = |word: &str| {
            let (times, action) = word.split_once(':').expect("times:action");
            let (sent, answered) = times.split_once('-').expect("sent-answered");
            let (action, outcome) = match action.strip_suffix(['!', '?']) {
                Some(rest) if action.ends_with('!') => (rest, Outcome::Refused),
                Some(rest) => (rest, Outcome::Unknown),
                None => (action, Outcome::Done),
            };
            let action = if let Some(value) = action.strip_prefix('=') {
                Action::Read(number(value))
            } else if let Some(value) = action.strip_prefix('+') {
                Action::Swap(None, number(value))
            } else if let Some((from, to)) = action.split_once('>') {
                Action::Swap(number(from), number(to))
            } else {
                Action::Swap(number(action.strip_suffix('-').expect("an action")), None)
            };
            let [sent, answered] = [sent, answered].map(|time| number(time).expect("a time"));
            Operation { action, outcome, sent, answered }
        };
        text.split_whitespace().map(operation).collect()
    }

    #[track_caller]
    fn linearizable(text: &str, expected: bool) {
        assert_eq!(check(history(text)).is_ok(), expected, "{text}");
    }

    #[test]
    fn one_after_the_other() {
        linearizable("", true);
        linearizable("1-2:= 3-4:+1 5-6:=1 7-8:1>2 9-10:2- 11-12:=", true);
        linearizable("1-2:+1 3-4:=", false);
        linearizable("1-2:+1 3-4:1>2 5-6:=1", false);
        linearizable("1-2:+1 3-4:+2", false);
    }

    #[test]
    fn at_the_same_time() {
        linearizable("1-9:+1 2-3:= 4-5:=1", true);
        linearizable("1-9:+1 2-3:=1 4-5:=", false);
        linearizable("1-2:+1 3-9:1>2 4-8:=2 5-6:=1", true);
        linearizable("1-2:+1 3-9:1>2 4-5:=2 6-7:=1", false);
        linearizable("1-2:+1 3-9:1>2 4-8:1>3", false);
    }

    #[test]
    fn refusals_are_true() {
        linearizable("1-2:+1 3-4:+2! 5-6:=1", true);
        linearizable("1-2:+1!", false);
        linearizable("1-2:+1 3-4:1>2! 5-6:=1", false);
        linearizable("1-2:+1 3-8:1>2! 4-5:1>3", true);
    }

    #[test]
    fn unknown_outcomes_stay_open() {
        linearizable("1-2:+1? 3-4:= 5-6:=1", true);
        linearizable("1-2:+1? 3-4:= 5-6:=", true);
        linearizable("1-2:+1? 3-4:=1 5-6:=", false);
        linearizable("1-2:+1 3-4:1>2? 5-6:1>3 7-8:=2", false);
        linearizable("5-6:+1? 1-2:=1", false);
    }

    /// A lost update among many operations is found, and in time.
    #[test]
    fn a_long_history_with_one_mistake() {
        let long = |last: &str| {
            let mut text = String::from("1-2:+1");
            for turn in 1..1_000_u64 {
                let at = 10 * turn;
                text += &format!(" {}-{}:{turn}>{} {}-{}:{turn}>9{turn}?", at, at + 5, turn + 1, at + 1, at + 6);
                text += &format!(" {}-{}:={}", at + 7, at + 8, turn + 1);
            }
            text + last
        };
        linearizable(&long(" 20000-20001:=1000"), true);
        linearizable(&long(" 20000-20001:=999"), false);
    }
}
