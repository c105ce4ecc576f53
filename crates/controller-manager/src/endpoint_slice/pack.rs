//! Fits endpoints into slices with as few writes as can be: what stands in a slice stays there.

use std::collections::BTreeMap;

use api_types::{
    jiff::Timestamp,
    k8s::discovery::{Endpoint, EndpointPort, EndpointSlice},
};

use crate::{action::Action, service_pods::TRIGGER_TIME};

/// Upstream's default of `--max-endpoints-per-slice`.
pub const ENDPOINTS_MAX: usize = 100;

/// What the slices of one address type are to hold together.
pub struct Wanted {
    /// A slice without endpoints, as all are to be.
    pub model: EndpointSlice,
    /// One slice stays where there is nothing to tell, so that "no endpoints" and "not looked at yet" differ.
    pub keeps_one: bool,
    /// Endpoints with the ports that lead to them.
    pub groups: Vec<(Vec<EndpointPort>, Vec<Endpoint>)>,
}

/// Equal for equal ports, in any order.
pub fn port_key(ports: &[EndpointPort]) -> String {
    let mut words: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let number = port.port.unwrap_or_default();
            format!("{}/{number}/{}/{}", text(&port.name), text(&port.protocol), text(&port.app_protocol))
        })
        .collect();
    words.sort();
    words.join(",")
}

/// The writes that bring `have` to `wanted`.
pub fn pack(have: &[&EndpointSlice], wanted: Wanted, at: Option<Timestamp>) -> Vec<Action> {
    let model = wanted.model;
    let mut draft = Draft::default();
    let mut by_ports: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in have {
        by_ports.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    for (ports, endpoints) in wanted.groups {
        let slices = by_ports.remove(&port_key(&ports)).unwrap_or_default();
        draft.fill(&slices, &ports, endpoints, &model);
    }
    draft.unused.extend(by_ports.into_values().flatten().cloned());
    if draft.next.is_empty() && wanted.keeps_one {
        draft.next.push(Next { slice: model.clone(), before: None });
    }
    draft.reuse();
    draft.actions(&model, at)
}

/// Slices as they will be.
#[derive(Default)]
struct Draft {
    next: Vec<Next>,
    unused: Vec<EndpointSlice>,
}

struct Next {
    slice: EndpointSlice,
    before: Option<EndpointSlice>,
}

impl Draft {
    fn fill(
        &mut self,
        slices: &[&EndpointSlice],
        ports: &[EndpointPort],
        endpoints: Vec<Endpoint>,
        model: &EndpointSlice,
    ) {
        let mut left: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|it| (identity(&it), it)).collect();
        let mut kept: Vec<Next> = slices.iter().map(|slice| keep(slice, &mut left)).collect();
        let mut left: Vec<Endpoint> = left.into_values().collect();
        // Those that are written anyway take the rest first, the fullest of them first.
        kept.sort_by_key(|next| (!next.is_changed(), usize::MAX - endpoints_of(&next.slice).len()));
        for next in &mut kept {
            let room = ENDPOINTS_MAX.saturating_sub(endpoints_of(&next.slice).len()).min(left.len());
            next.slice.endpoints.get_or_insert_default().extend(left.drain(..room));
        }
        for chunk in left.chunks(ENDPOINTS_MAX) {
            let slice = EndpointSlice { endpoints: Some(chunk.to_vec()), ports: Some(ports.to_vec()), ..model.clone() };
            kept.push(Next { slice, before: None });
        }
        let (empty, full): (Vec<Next>, Vec<Next>) =
            kept.into_iter().partition(|next| endpoints_of(&next.slice).is_empty());
        self.unused.extend(empty.into_iter().filter_map(|next| next.before));
        self.next.extend(full);
    }

    /// An update instead of a deletion and a creation.
    fn reuse(&mut self) {
        for next in self.next.iter_mut().filter(|next| next.before.is_none()) {
            let Some(unused) = self.unused.pop() else { return };
            next.slice.metadata = unused.metadata.clone();
            next.before = Some(unused);
        }
    }

    fn actions(self, model: &EndpointSlice, at: Option<Timestamp>) -> Vec<Action> {
        let mut actions = Vec::new();
        for mut next in self.next {
            next.slice.metadata.labels.clone_from(&model.metadata.labels);
            next.slice.metadata.owner_references.clone_from(&model.metadata.owner_references);
            if !next.is_changed() {
                continue;
            }
            if let Some(at) = at {
                let annotations = next.slice.metadata.annotations.get_or_insert_default();
                annotations.insert(TRIGGER_TIME.to_owned(), at.to_string());
            }
            let why = "the endpoints of its Service have changed";
            actions.push(match next.before {
                None => Action::create(&next.slice, why),
                Some(_) => Action::update(&next.slice, why),
            });
        }
        actions.extend(self.unused.iter().map(|slice| Action::delete(slice, "no endpoint is left for it")));
        actions
    }
}

impl Next {
    fn is_changed(&self) -> bool {
        let facts = |slice: &EndpointSlice| {
            let ports = port_key(slice.ports.as_deref().unwrap_or_default());
            (
                endpoints_of(slice).to_vec(),
                ports,
                slice.metadata.labels.clone(),
                slice.metadata.owner_references.clone(),
            )
        };
        self.before.as_ref().is_none_or(|before| facts(before) != facts(&self.slice))
    }
}

/// Takes from `left` what stands in `slice`, in its newest form.
fn keep(slice: &EndpointSlice, left: &mut BTreeMap<String, Endpoint>) -> Next {
    // Removed once, so that one that stands twice is kept once.
    let stays = endpoints_of(slice).iter().filter_map(|endpoint| left.remove(&identity(endpoint)));
    let endpoints = Some(stays.collect());
    Next { slice: EndpointSlice { endpoints, ..slice.clone() }, before: Some(slice.clone()) }
}

fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// The pod and where it is: whatever else changes is the same endpoint.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|pod| pod.uid.as_deref()).unwrap_or_default();
    format!("{uid} {}", endpoint.addresses.join(","))
}
