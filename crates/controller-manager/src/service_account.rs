//! serviceaccount: every namespace has a ServiceAccount `default`.

use api_types::{
    Key, Object,
    k8s::{
        core::{Namespace, ServiceAccount},
        meta::ObjectMeta,
    },
    resources,
};
use client::{Change, Queue};

use crate::{
    action::Action,
    caches::Subscriptions,
    plan::{Plan, Turn, World},
    reconcile::Controller,
};

const NAME: &str = "default";

pub static CONTROLLER: Controller = Controller {
    name: "serviceaccount-controller",
    resource: &resources::NAMESPACE,
    account: "service-account-controller",
    component: "serviceaccount-controller",
    workers: 1,
    watch,
    watch_everything: None,
    decide: |world, turn| plan(&view(world, turn)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.namespaces.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.service_accounts.push(Box::new(move |_, change| {
        if let Change::Deleted(account) = change
            && account.name() == NAME
        {
            wake.add(Key::cluster(account.namespace()));
        }
    }));
}

struct View<'a> {
    name: &'a str,
    /// `None`: gone.
    terminating: Option<bool>,
    has_account: bool,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> View<'a> {
    let name = turn.key.name.as_str();
    let namespace = world.caches.namespaces.get(turn.key);
    View {
        name,
        terminating: namespace.as_deref().map(is_going),
        has_account: world.caches.service_accounts.get(&Key::new(name, NAME)).is_some(),
    }
}

/// Nothing may be created any more.
pub fn is_going(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.is_terminating() || phase == Some("Terminating")
}

fn plan(view: &View<'_>) -> Plan {
    match view.terminating {
        None => return Plan::default(),
        Some(true) => return Plan::nothing("NamespaceTerminating", "nothing is created in a namespace that is going"),
        Some(false) => {}
    }
    if view.has_account {
        return Plan::nothing("ServiceAccountExists", "the namespace has its ServiceAccount `default`");
    }
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(view.name.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    Plan { actions: vec![Action::create(&account, "every namespace has one")], ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(terminating: Option<bool>, has_account: bool, expected: &[&str]) {
        let plan = plan(&View { name: "ns", terminating, has_account });
        let keys: Vec<String> = plan.actions.iter().map(|action| action.key.to_string()).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_living_namespace_gets_what_it_lacks() {
        check(Some(false), false, &["ns/default"]);
        check(Some(false), true, &[]);
        check(Some(true), false, &[]);
        check(None, false, &[]);
    }
}
