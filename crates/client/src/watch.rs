//! List-watch as a value: `(State, Outcome) -> (Event, State)`. The machine says what to
//! ask the server next, is told what came of it, and says what the cache has to do. It
//! does no I/O and knows no clock; pauses are counted, and timed by the caller.

use std::time::Duration;

/// Objects per page of a list, as in client-go.
pub const PAGE_OBJECTS: u32 = 500;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What to ask the server next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A page of the collection.
    List { page: PageAt, failures: u32 },
    /// Changes after a revision. `failures` counts attempts that brought nothing.
    Watch { resource_version: String, failures: u32 },
}

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageAt {
    Start,
    After(String),
    /// All at once, as the pages went stale under a slow reader.
    Whole,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<K> {
    Page {
        items: Vec<K>,
        resource_version: String,
        continue_token: String,
    },
    Changed {
        object: K,
        resource_version: String,
    },
    Removed {
        object: K,
        resource_version: String,
    },
    Bookmark {
        resource_version: String,
    },
    /// The server ended the watch, as it does after its time.
    Ended,
    /// The revision or the continue token is no longer kept (410).
    Expired,
    /// No connection, or the server is overloaded: what we know is still good.
    Unreachable,
    /// The server refused; asking the same again may not help.
    Refused,
}

/// What the cache has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<K> {
    /// Take in these objects; on the last page forget all that was on none, and note the revision.
    Listed {
        items: Vec<K>,
        first: bool,
        last: Option<String>,
    },
    Applied {
        object: K,
        resource_version: String,
    },
    Removed {
        object: K,
        resource_version: String,
    },
    /// Nothing changed up to this revision.
    Reached {
        resource_version: String,
    },
    /// Go on at once.
    Nothing,
    /// Go on after [`pause`] of this many failures in a row.
    Failed {
        failures: u32,
    },
}

impl State {
    /// Where every list-watch begins.
    pub fn start() -> Self {
        State::List { page: PageAt::Start, failures: 0 }
    }

    /// Takes in what came of asking for `self`. Outcomes that do not fit the question
    /// (a page while watching) are ignored.
    pub fn step<K>(self, outcome: Outcome<K>) -> (Event<K>, State) {
        match self {
            State::List { page, failures } => listing(page, failures, outcome),
            State::Watch { resource_version, failures } => watching(resource_version, failures, outcome),
        }
    }
}

fn listing<K>(page: PageAt, failures: u32, outcome: Outcome<K>) -> (Event<K>, State) {
    let first = !matches!(page, PageAt::After(_));
    match outcome {
        Outcome::Page { items, resource_version, continue_token } if continue_token.is_empty() => {
            let event = Event::Listed { items, first, last: Some(resource_version.clone()) };
            (event, State::Watch { resource_version, failures: 0 })
        }
        Outcome::Page { items, continue_token, .. } => {
            let next = State::List { page: PageAt::After(continue_token), failures: 0 };
            (Event::Listed { items, first, last: None }, next)
        }
        Outcome::Expired => fail(failures, |failures| State::List { page: PageAt::Whole, failures }),
        Outcome::Unreachable => fail(failures, |failures| State::List { page, failures }),
        Outcome::Refused => fail(failures, |failures| State::List { page: PageAt::Start, failures }),
        Outcome::Changed { .. } | Outcome::Removed { .. } | Outcome::Bookmark { .. } | Outcome::Ended => {
            (Event::Nothing, State::List { page, failures })
        }
    }
}

fn watching<K>(from: String, failures: u32, outcome: Outcome<K>) -> (Event<K>, State) {
    let at = |resource_version: &str| State::Watch { resource_version: resource_version.to_owned(), failures: 0 };
    match outcome {
        Outcome::Changed { object, resource_version } => {
            let next = at(&resource_version);
            (Event::Applied { object, resource_version }, next)
        }
        Outcome::Removed { object, resource_version } => {
            let next = at(&resource_version);
            (Event::Removed { object, resource_version }, next)
        }
        Outcome::Bookmark { resource_version } => {
            let next = at(&resource_version);
            (Event::Reached { resource_version }, next)
        }
        // An end is everyday; one that follows another with nothing between is counted, so
        // that a server which ends every watch at once is not asked in a tight loop.
        Outcome::Ended if failures == 0 => (Event::Nothing, State::Watch { resource_version: from, failures: 1 }),
        Outcome::Ended | Outcome::Unreachable => {
            fail(failures, |failures| State::Watch { resource_version: from, failures })
        }
        Outcome::Expired => (Event::Nothing, State::start()),
        Outcome::Refused => fail(failures, |failures| State::List { page: PageAt::Start, failures }),
        Outcome::Page { .. } => (Event::Nothing, State::Watch { resource_version: from, failures }),
    }
}

fn fail<K>(failures: u32, next: impl FnOnce(u32) -> State) -> (Event<K>, State) {
    let failures = failures.saturating_add(1);
    (Event::Failed { failures }, next(failures))
}

/// 50 ms, doubling, at most 10 s, times 0.5 to 1.5 by `jitter` in 0..1.
pub fn pause(failures: u32, jitter: f64) -> Duration {
    let base = RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(RETRY_MAX);
    base.mul_f64(0.5 + jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine's words for a test: `outcome -> event | state`, one character an object.
    fn check(state: State, outcome: &str, expected: &str) {
        let (event, next) = state.step(parse(outcome));
        assert_eq!(format!("{} | {}", show_event(&event), show(&next)), expected);
    }

    fn parse(text: &str) -> Outcome<String> {
        let words: Vec<&str> = text.split(' ').collect();
        let version = |at: usize| words.get(at).copied().unwrap_or_default().to_owned();
        match words[0] {
            "page" => Outcome::Page {
                items: words[1].chars().map(String::from).collect(),
                resource_version: version(2),
                continue_token: version(3),
            },
            "changed" => Outcome::Changed { object: version(1), resource_version: version(2) },
            "removed" => Outcome::Removed { object: version(1), resource_version: version(2) },
            "bookmark" => Outcome::Bookmark { resource_version: version(1) },
            "ended" => Outcome::Ended,
            "expired" => Outcome::Expired,
            "unreachable" => Outcome::Unreachable,
            "refused" => Outcome::Refused,
            other => panic!("{other}"),
        }
    }

    fn show(state: &State) -> String {
        match state {
            State::List { page, failures } => format!("list {page:?} f{failures}"),
            State::Watch { resource_version, failures } => format!("watch {resource_version} f{failures}"),
        }
    }

    fn show_event(event: &Event<String>) -> String {
        match event {
            Event::Listed { items, first, last } => format!("listed {} {first} {last:?}", items.concat()),
            Event::Applied { object, resource_version } => format!("+{object} {resource_version}"),
            Event::Removed { object, resource_version } => format!("-{object} {resource_version}"),
            Event::Reached { resource_version } => format!("at {resource_version}"),
            Event::Nothing => "nothing".to_owned(),
            Event::Failed { failures } => format!("failed {failures}"),
        }
    }

    fn list(page: PageAt, failures: u32) -> State {
        State::List { page, failures }
    }
    fn watch(version: &str, failures: u32) -> State {
        State::Watch { resource_version: version.to_owned(), failures }
    }

    #[test]
    fn a_list_goes_page_by_page_and_then_watches() {
        check(State::start(), "page ab 7", r#"listed ab true Some("7") | watch 7 f0"#);
        check(State::start(), "page ab 7 t", r#"listed ab true None | list After("t") f0"#);
        check(list(PageAt::After("t".into()), 2), "page c 7", r#"listed c false Some("7") | watch 7 f0"#);
        check(list(PageAt::Whole, 1), "page c 8", r#"listed c true Some("8") | watch 8 f0"#);
    }

    #[test]
    fn a_stale_page_means_all_at_once() {
        check(list(PageAt::After("t".into()), 0), "expired", "failed 1 | list Whole f1");
    }

    #[test]
    fn every_change_moves_the_revision() {
        check(watch("7", 3), "changed a 9", "+a 9 | watch 9 f0");
        check(watch("7", 3), "removed a 9", "-a 9 | watch 9 f0");
        check(watch("7", 3), "bookmark 12", "at 12 | watch 12 f0");
    }

    #[test]
    fn a_watch_that_ends_goes_on_where_it_was() {
        check(watch("7", 0), "ended", "nothing | watch 7 f1");
        check(watch("7", 1), "ended", "failed 2 | watch 7 f2");
        check(watch("7", 1), "unreachable", "failed 2 | watch 7 f2");
    }

    #[test]
    fn what_is_no_longer_kept_is_listed_again() {
        check(watch("7", 0), "expired", "nothing | list Start f0");
        check(watch("7", 4), "refused", "failed 5 | list Start f5");
    }

    #[test]
    fn failures_to_list_are_counted() {
        check(list(PageAt::Start, 0), "unreachable", "failed 1 | list Start f1");
        check(list(PageAt::After("t".into()), 4), "unreachable", r#"failed 5 | list After("t") f5"#);
        check(list(PageAt::After("t".into()), 4), "refused", "failed 5 | list Start f5");
    }

    #[test]
    fn what_does_not_fit_is_ignored() {
        check(State::start(), "changed a 9", "nothing | list Start f0");
        check(watch("7", 0), "page ab 9", "nothing | watch 7 f0");
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let ms: Vec<u128> = [1, 2, 5, 40].iter().map(|failures| pause(*failures, 0.5).as_millis()).collect();
        assert_eq!(ms, [50, 100, 800, 10_000]);
        assert_eq!(pause(1, 0.0).as_millis(), 25);
        assert_eq!(pause(1, 1.0).as_millis(), 75);
    }
}
