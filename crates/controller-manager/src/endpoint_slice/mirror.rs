//! endpointslice-mirroring: Endpoints that somebody keeps by hand, for a Service without a selector,
//! are told as slices too, as consumers read only those.
//!
//! Source: kubernetes/pkg/controller/endpointslicemirroring.

use std::{collections::BTreeMap, sync::Arc};

use api_types::{
    Key, Object,
    k8s::{
        core::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
        meta::ObjectMeta,
    },
    resources,
};

use super::pack::{self, Wanted};
use crate::{
    action::Action,
    caches::{BY_SERVICE, SERVICE_NAME_LABEL},
    owners::controller_reference,
    plan::{Plan, Turn, World},
    reconcile::Controller,
    service_pods::TRIGGER_TIME,
};

const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslicemirroring-controller.k8s.io");
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints of old were also used as locks.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Addresses of a subset; more are left out, as upstream has it.
const ADDRESSES_MAX: usize = 1000;

pub static CONTROLLER: Controller = Controller {
    name: "endpointslice-mirroring-controller",
    resource: &resources::ENDPOINTS,
    account: "endpointslicemirroring-controller",
    component: "endpoint-slice-mirroring-controller",
    workers: 5,
    watch: |to, queue| {
        let wake = queue.clone();
        to.endpoints.push(Box::new(move |_, change| wake.add(change.object().key())));
        let wake = queue.clone();
        to.services.push(Box::new(move |_, change| wake.add(change.object().key())));
        let wake = queue.clone();
        to.slices.push(Box::new(move |_, change| {
            let slice = change.object();
            if let Some(service) = slice.label(SERVICE_NAME_LABEL).filter(|_| is_ours(slice)) {
                wake.add(Key::new(slice.namespace(), service));
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| plan(&view(world, turn)),
};

struct View {
    endpoints: Option<Arc<Endpoints>>,
    service: Option<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> View {
    let slices = world.caches.slices.by_index(BY_SERVICE, &turn.key.to_string()).into_iter();
    View {
        endpoints: world.caches.endpoints.get(turn.key),
        service: world.caches.services.get(turn.key),
        slices: slices.filter(|slice| is_ours(slice) && !turn.deleting.contains(slice.uid())).collect(),
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.label(MANAGED_BY.0) == Some(MANAGED_BY.1)
}

fn plan(view: &View) -> Plan {
    let keeps_itself = view
        .service
        .as_deref()
        .is_some_and(|service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_none()));
    let wants = |endpoints: &&Endpoints| {
        endpoints.label(SKIP_LABEL) != Some("true")
            && endpoints.annotation(LEADER).is_none()
            && !endpoints.is_terminating()
    };
    let Some(endpoints) = view.endpoints.as_deref().filter(|_| keeps_itself).filter(wants) else {
        let left = view.slices.iter().map(|slice| Action::delete(&**slice, "there are no Endpoints to mirror"));
        return Plan { actions: left.collect(), ..Plan::default() };
    };
    let mut plan = Plan::default();
    for kind in ["IPv4", "IPv6"] {
        let have: Vec<&EndpointSlice> =
            view.slices.iter().map(|slice| &**slice).filter(|slice| slice.address_type == kind).collect();
        let wanted = Wanted { model: model(endpoints, kind), keeps_one: false, groups: groups(endpoints, kind) };
        plan.actions.extend(pack::pack(&have, wanted, None));
    }
    plan
}

fn model(endpoints: &Endpoints, address_type: &str) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME_LABEL.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| key != LAST_APPLIED && key != TRIGGER_TIME);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name())),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: address_type.to_owned(),
        endpoints: Some(Vec::new()),
        ..EndpointSlice::default()
    }
}

fn groups(endpoints: &Endpoints, address_type: &str) -> Vec<(Vec<EndpointPort>, Vec<Endpoint>)> {
    let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let of_family = ready.chain(not_ready).filter(|(it, _)| it.ip.contains(':') == (address_type == "IPv6"));
        let told = of_family.take(ADDRESSES_MAX).map(|(address, ready)| endpoint(address, ready));
        let group = groups.entry(pack::port_key(&ports)).or_insert_with(|| (ports, Vec::new()));
        group.1.extend(told);
    }
    groups.into_values().filter(|(_, endpoints)| !endpoints.is_empty()).collect()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &api_types::k8s::core::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::core::ServiceSpec;

    use super::*;
    use crate::action::Write;

    /// Endpoints by their addresses; those behind `|` are not ready. Gives the slices made, as `type:address…`.
    fn check(selector: Option<&str>, skip: bool, addresses: &str, expected: &str) {
        let address = |ip: &str| EndpointAddress { ip: ip.to_owned(), ..EndpointAddress::default() };
        let (ready, not_ready) = addresses.split_once('|').unwrap_or((addresses, ""));
        let all = |words: &str| Some(words.split_whitespace().map(address).collect());
        let metadata = ObjectMeta {
            name: Some("db".into()),
            labels: skip.then(|| [(SKIP_LABEL.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        };
        let subset = EndpointSubset { addresses: all(ready), not_ready_addresses: all(not_ready), ports: None };
        let selector = selector.map(|value| [("app".to_owned(), value.to_owned())].into());
        let service = Service { spec: Some(ServiceSpec { selector, ..ServiceSpec::default() }), ..Service::default() };
        let plan = plan(&View {
            endpoints: Some(Arc::new(Endpoints { metadata, subsets: Some(vec![subset]) })),
            service: Some(Arc::new(service)),
            slices: vec![],
        });
        let made = plan.actions.iter().map(|action| {
            let Write::Create(object) = &action.write else { panic!("not made") };
            let slice: EndpointSlice = serde_json::from_value(object.clone()).unwrap();
            let endpoints = slice.endpoints.unwrap_or_default();
            let count = endpoints.iter().filter(|it| it.conditions.as_ref().unwrap().ready == Some(true)).count();
            format!("{}:{count}/{}", slice.address_type, endpoints.len())
        });
        assert_eq!(made.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn endpoints_kept_by_hand_are_told_as_slices() {
        check(None, false, "10.0.0.1 10.0.0.2|10.0.0.3", "IPv4:2/3");
        check(None, false, "10.0.0.1 fd00::1", "IPv4:1/1 IPv6:1/1");
        check(None, false, "", "");
    }
    #[test]
    fn others_are_not() {
        check(Some("db"), false, "10.0.0.1", "");
        check(None, true, "10.0.0.1", "");
    }
}
