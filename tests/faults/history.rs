//! The history check: clients write, read and watch at the same time while apiserver and
//! store are killed again and again. Afterwards what each of them was told is held against
//! the store's own history, and per key against the order that one register would allow.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{BufRead, BufReader},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{Cluster, Component, Reply, eventually};

use crate::linear::{self, Action, Operation, Outcome, State};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const KEYS: u64 = 6;
const CLIENTS: u64 = 4;
const WATCHERS: usize = 3;
/// Writes that are acknowledged between two kills.
const WRITES_A_ROUND: usize = 6;
/// The key whose creation ends the watches.
const END: &str = "end";

/// Issue 3, "Shown by" 4; rows R1, R2, R4 of the failures to survive.
#[test]
fn over_etcd_nothing_is_lost_repeated_or_reordered() {
    check(&["--storage=etcd"], 50, &[Component::Apiserver, Component::Etcd]);
}

#[test]
fn over_the_embedded_store_nothing_is_lost_repeated_or_reordered() {
    check(&["--storage=embedded"], 12, &[Component::Apiserver]);
}

fn check(flags: &[&str], kills: usize, victims: &[Component]) {
    let Some(cluster) = Cluster::control_plane_with(flags) else {
        return eprintln!("skipped: no release binaries; run `cargo xtask test`");
    };
    let seed = std::env::var("COXSWAIN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    println!("COXSWAIN_SEED={seed}");
    let mut random = Random(seed);
    let begin = revision(&cluster.get(CONFIG_MAPS).expect(200));
    let run = Run::new(&cluster, begin);
    let streams = thread::scope(|scope| {
        let (run, victims) = (&run, victims);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || Client::new(run, client, Random(seed ^ (client + 1) << 40)).work()))
            .collect();
        let watchers: Vec<_> = (0..WATCHERS).map(|_| scope.spawn(move || run.watch())).collect();
        let _stop = StopAtEnd(run);
        for _ in 0..kills {
            let before = run.acknowledged.load(Ordering::SeqCst);
            eventually("writes go on", || {
                (run.acknowledged.load(Ordering::SeqCst) >= before + WRITES_A_ROUND).then_some(())
            });
            cluster.kill(victims[random.below(victims.len() as u64) as usize]);
            cluster.up();
        }
        run.is_over.store(true, Ordering::SeqCst);
        let records: Vec<Record> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        // Read from disk by an apiserver that has seen none of it.
        cluster.kill(Component::Apiserver);
        cluster.up();
        let end = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": END}});
        eventually("the end is written", || matches!(run.send("POST", "", &end)?.code, 201 | 409).then_some(()));
        let streams: Vec<Vec<Event>> = watchers.into_iter().map(|it| it.join().expect("a watcher")).collect();
        (records, streams)
    });
    let (records, streams) = streams;
    let truth = if victims.contains(&Component::Etcd) { history_of_etcd(&cluster, begin) } else { run.watch() };
    judge(&records, &streams, &truth);
    let reads: usize = records.iter().map(|record| record.lists.len()).sum();
    let operations: Vec<&Operation> = records.iter().flat_map(|record| &record.operations).map(|(_, it)| it).collect();
    let count = |outcome| operations.iter().filter(|operation| operation.outcome == outcome).count();
    println!(
        "{kills} kills, {} changes; {} operations done, {} refused, {} of unknown outcome, {reads} lists at a revision; \
         {WATCHERS} watches connected {} times",
        truth.len(),
        count(Outcome::Done),
        count(Outcome::Refused),
        count(Outcome::Unknown),
        run.connections.load(Ordering::SeqCst),
    );
}

/// One change, as the store or a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    revision: u64,
    name: String,
    kind: &'static str,
    value: State,
}

/// What one client was told.
#[derive(Default)]
struct Record {
    operations: Vec<(String, Operation)>,
    /// The revision at which each acknowledged value was written.
    written: Vec<(u64, u64)>,
    /// Lists at exactly a revision.
    lists: Vec<(u64, BTreeMap<String, u64>)>,
}

/// What clients and watchers share.
struct Run<'c> {
    cluster: &'c Cluster,
    begin: u64,
    clock: AtomicU64,
    acknowledged: AtomicUsize,
    connections: AtomicUsize,
    is_over: AtomicBool,
    /// Values are never used twice.
    values: AtomicU64,
    /// A revision that was acknowledged.
    newest: Mutex<u64>,
}

/// Clients end also when the test fails.
struct StopAtEnd<'r>(&'r Run<'r>);
impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

impl<'c> Run<'c> {
    fn new(cluster: &'c Cluster, begin: u64) -> Self {
        let (clock, acknowledged, connections, is_over, values) = Default::default();
        Self { cluster, begin, clock, acknowledged, connections, is_over, values, newest: Mutex::new(begin) }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// `None`: no answer. Whoever answers with an error says so in a Status.
    fn send(&self, method: &str, path: &str, object: &Value) -> Option<Reply> {
        let body = if object.is_null() { String::new() } else { object.to_string() };
        let path = format!("{CONFIG_MAPS}{path}");
        let headers = ["Content-Type: application/json"];
        let reply = self.cluster.try_http("admin", method, &path, &headers, body.as_bytes()).ok()?;
        // Cut short, or not all there.
        serde_json::from_slice::<Value>(&reply.body).ok()?;
        if reply.code >= 400 {
            reply.refusal();
        }
        Some(reply)
    }

    /// Everything from the beginning to the end, going on after each break at the last revision.
    fn watch(&self) -> Vec<Event> {
        let (mut events, mut from) = (Vec::<Event>::new(), self.begin);
        while events.last().is_none_or(|last| last.name != END) {
            let path = format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
            self.connections.fetch_add(1, Ordering::SeqCst);
            let mut stream = self.cluster.http_stream(&path);
            for line in BufReader::new(stream.stdout.take().expect("piped")).lines().map_while(Result::ok) {
                // A frame that the end of the server has cut.
                let Ok(frame) = serde_json::from_str::<Value>(&line) else { break };
                if frame["kind"] == "Status" {
                    // The store is away: not begun.
                    assert!(frame["code"].as_u64() >= Some(500), "{frame}");
                    break;
                }
                let kind = match frame["type"].as_str() {
                    Some("ADDED") => "ADDED",
                    Some("MODIFIED") => "MODIFIED",
                    Some("DELETED") => "DELETED",
                    Some("BOOKMARK") => {
                        from = revision(&frame["object"]);
                        continue;
                    }
                    _ => panic!("{frame}"),
                };
                let revision = revision(&frame["object"]);
                assert!(revision > from, "behind a bookmark or an earlier event at {from}: {frame}");
                from = revision;
                let value = if kind == "DELETED" { None } else { value(&frame["object"]) };
                events.push(Event { revision, name: name(&frame["object"]), kind, value });
                if name(&frame["object"]) == END {
                    break;
                }
            }
            let _ = stream.kill(); // it may have ended
            stream.wait().expect("curl ends");
        }
        events
    }
}

/// A client that creates, swaps, deletes, reads and lists, knowing of each key what it was last told.
struct Client<'r> {
    run: &'r Run<'r>,
    random: Random,
    number: u64,
    record: Record,
    known: HashMap<String, Known>,
}

#[derive(Clone, Copy)]
struct Known {
    value: u64,
    revision: u64,
}

impl<'r> Client<'r> {
    fn new(run: &'r Run<'r>, number: u64, random: Random) -> Self {
        Self { run, random, number, record: Record::default(), known: HashMap::new() }
    }

    fn work(mut self) -> Record {
        while !self.run.is_over.load(Ordering::SeqCst) {
            let name = format!("k{}", self.random.below(KEYS));
            let known = self.known.get(&name).copied();
            match (known, self.random.below(100)) {
                (_, 0..4) => self.list_at_a_revision(),
                (_, 4..30) => self.read(&name),
                // Only who wrote a version deletes it: no two ask for the very same change.
                (Some(known), 30..45) if known.value % CLIENTS == self.number => self.write(&name, Some(known), None),
                (Some(known), _) => {
                    let value = self.value();
                    self.write(&name, Some(known), Some(value));
                }
                (None, _) => {
                    let value = self.value();
                    self.write(&name, None, Some(value));
                }
            }
        }
        self.record
    }

    fn value(&self) -> u64 {
        (self.run.values.fetch_add(1, Ordering::SeqCst) + 1) * CLIENTS + self.number
    }

    fn note(&mut self, name: &str, action: Action, outcome: Outcome, sent: u64) {
        let operation = Operation { action, outcome, sent, answered: self.run.now() };
        self.record.operations.push((name.to_owned(), operation));
    }

    fn read(&mut self, name: &str) {
        let sent = self.run.now();
        let Some(reply) = self.run.send("GET", &format!("/{name}"), &Value::Null) else { return };
        match reply.code {
            200 => {
                let object = reply.json();
                self.note(name, Action::Read(value(&object)), Outcome::Done, sent);
                self.learn(name, &object);
            }
            404 => {
                self.note(name, Action::Read(None), Outcome::Done, sent);
                self.known.remove(name);
            }
            _ => {}
        }
    }

    fn learn(&mut self, name: &str, object: &Value) {
        let known = Known { value: value(object).expect("all objects have a value"), revision: revision(object) };
        self.known.insert(name.to_owned(), known);
    }

    fn write(&mut self, name: &str, from: Option<Known>, to: State) {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "resourceVersion": from.map(|from| from.revision.to_string())},
            "data": {"value": to.map(|to| to.to_string())},
        });
        let one = format!("/{name}");
        let (method, path, body) = match (from, to) {
            (None, _) => ("POST", "", object),
            (Some(_), Some(_)) => ("PUT", one.as_str(), object),
            (Some(from), None) => {
                let preconditions = json!({"resourceVersion": from.revision.to_string()});
                let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
                ("DELETE", one.as_str(), options)
            }
        };
        let sent = self.run.now();
        let reply = self.run.send(method, path, &body);
        let outcome = match reply.as_ref().map(|reply| reply.code) {
            Some(200 | 201) => Outcome::Done,
            Some(404 | 409) => Outcome::Refused,
            None | Some(429 | 500..) => Outcome::Unknown,
            Some(code) => panic!("{code}: {}", reply.expect("there is one").text()),
        };
        self.note(name, Action::Swap(from.map(|from| from.value), to), outcome, sent);
        self.known.remove(name);
        if outcome == Outcome::Refused {
            self.read(name);
        }
        if outcome == Outcome::Done {
            self.run.acknowledged.fetch_add(1, Ordering::SeqCst);
            if let (Some(to), Some(reply)) = (to, reply) {
                let object = reply.json();
                self.learn(name, &object);
                self.record.written.push((revision(&object), to));
                let mut newest = self.run.newest.lock().expect("nobody panics");
                *newest = revision(&object).max(*newest);
            }
        }
    }

    fn list_at_a_revision(&mut self) {
        let at = *self.run.newest.lock().expect("nobody panics");
        let path = format!("?resourceVersion={at}&resourceVersionMatch=Exact");
        let Some(reply) = self.run.send("GET", &path, &Value::Null).filter(|reply| reply.code == 200) else { return };
        let list = reply.json();
        let items = list["items"].as_array().expect("a list").iter();
        let found = items.map(|item| (name(item), value(item).expect("all objects have a value"))).collect();
        self.record.lists.push((at, found));
    }
}

fn judge(records: &[Record], streams: &[Vec<Event>], truth: &[Event]) {
    let mut state: BTreeMap<String, u64> = BTreeMap::new();
    let mut states: BTreeMap<u64, BTreeMap<String, u64>> = BTreeMap::new();
    let mut at: HashMap<u64, u64> = HashMap::new();
    for event in truth.iter().filter(|event| event.name != END) {
        match event.value {
            Some(value) => {
                state.insert(event.name.clone(), value);
                assert!(at.insert(value, event.revision).is_none(), "written twice: {event:?}");
            }
            None => assert!(state.remove(&event.name).is_some(), "deleted twice: {event:?}"),
        }
        states.insert(event.revision, state.clone());
    }
    for stream in streams {
        let differs = stream.iter().zip(truth).find(|(seen, real)| seen != real);
        assert!(differs.is_none(), "a watch saw, the store had: {differs:?}");
        assert_eq!(stream.len(), truth.len(), "a watch ends with the history");
    }
    for (revision, value) in records.iter().flat_map(|record| &record.written) {
        assert_eq!(at.get(value), Some(revision), "the acknowledged value {value}");
    }
    for (revision, found) in records.iter().flat_map(|record| &record.lists) {
        let real = states.range(..=revision).next_back().map(|(_, state)| state.clone()).unwrap_or_default();
        assert_eq!(*found, real, "the list at {revision}");
    }
    let all = || records.iter().flat_map(|record| &record.operations);
    for (name, operation) in all().filter(|(_, operation)| operation.outcome == Outcome::Refused) {
        if let Action::Swap(_, Some(value)) = operation.action {
            assert!(!at.contains_key(&value), "refused, and written: {value} of {name}");
        }
    }
    for name in all().map(|(name, _)| name).collect::<HashSet<_>>() {
        let mut operations: Vec<Operation> = all().filter(|(of, _)| of == name).map(|(_, it)| *it).collect();
        // How it ended is part of the history.
        let end = Action::Read(state.get(name).copied());
        operations.push(Operation { action: end, outcome: Outcome::Done, sent: u64::MAX - 1, answered: u64::MAX });
        if let Err(why) = linear::check(operations) {
            panic!("{name} is no register: {why}");
        }
    }
}

/// What etcd itself has, by a watch from its first revision through its JSON gateway.
fn history_of_etcd(cluster: &Cluster, begin: u64) -> Vec<Event> {
    let prefix = "/registry/configmaps/default/";
    let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).expect("base64");
    let end = format!("{}0", &prefix[..prefix.len() - 1]);
    let request = json!({"create_request": {
        "key": BASE64_STANDARD.encode(prefix), "range_end": BASE64_STANDARD.encode(&end), "start_revision": 1,
    }});
    let mut stream = cluster.etcd_stream("/v3/watch", &request);
    let mut events: Vec<Event> = Vec::new();
    for line in BufReader::new(stream.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        let frame: Value = serde_json::from_str(&line).expect("a frame of JSON");
        assert!(frame["error"].is_null() && frame["result"]["canceled"].is_null(), "{frame}");
        for event in frame["result"]["events"].as_array().into_iter().flatten() {
            let (kv, is_deleted) = (&event["kv"], event["type"] == "DELETE");
            let number = |field: &str| kv[field].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let name = String::from_utf8(bytes(&kv["key"])).expect("a key")[prefix.len()..].to_owned();
            let kind = if is_deleted { "DELETED" } else { ["MODIFIED", "ADDED"][usize::from(number("version") == 1)] };
            let object = || serde_json::from_slice(&bytes(&kv["value"])).expect("objects are JSON");
            let value = if is_deleted { None } else { value(&object()) };
            events.push(Event { revision: number("mod_revision"), name, kind, value });
        }
        if events.last().is_some_and(|last| last.name == END) {
            break;
        }
    }
    let _ = stream.kill();
    stream.wait().expect("curl ends");
    events.retain(|event| event.revision > begin);
    events
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().expect("a name").to_owned()
}

fn value(object: &Value) -> State {
    object["data"]["value"].as_str().and_then(|value| value.parse().ok())
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a revision")
}

/// xorshift: the run follows from the seed, as far as the machine lets it.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
