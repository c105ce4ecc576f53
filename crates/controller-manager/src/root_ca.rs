//! root-ca-certificate-publisher: every namespace has a ConfigMap with the certificate by which
//! pods know the apiserver.

use std::sync::Arc;

use api_types::{
    Key, Object,
    k8s::{core::ConfigMap, meta::ObjectMeta},
    resources,
};
use client::Queue;

use crate::{
    action::Action,
    caches::Subscriptions,
    plan::{Plan, Turn, World},
    reconcile::Controller,
    service_account::is_going,
};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                                endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                                guaranteed across distributions of Kubernetes clusters.";

pub static CONTROLLER: Controller = Controller {
    name: "root-ca-certificate-publisher-controller",
    resource: &resources::NAMESPACE,
    account: "root-ca-cert-publisher",
    component: "root-ca-cert-publisher",
    workers: 1,
    watch,
    watch_everything: None,
    decide: |world, turn| plan(&view(world, turn)),
};

fn watch(to: &mut Subscriptions, queue: &Queue<Key>) {
    let wake = queue.clone();
    to.namespaces.push(Box::new(move |_, change| wake.add(change.object().key())));
    let wake = queue.clone();
    to.root_ca_maps.push(Box::new(move |_, change| wake.add(Key::cluster(change.object().namespace()))));
}

struct View<'a> {
    namespace: &'a str,
    /// Gone or going.
    going: bool,
    root_ca: &'a str,
    published: Option<Arc<ConfigMap>>,
}

fn view<'a>(world: &World<'a>, turn: &Turn<'a>) -> View<'a> {
    let namespace = turn.key.name.as_str();
    View {
        namespace,
        going: world.caches.namespaces.get(turn.key).is_none_or(|it| is_going(&it)),
        root_ca: &world.settings.root_ca,
        published: world.caches.root_ca_maps.get(&Key::new(namespace, NAME)),
    }
}

fn plan(view: &View<'_>) -> Plan {
    if view.going {
        return Plan::nothing("NamespaceTerminating", "nothing is created in a namespace that is going");
    }
    if view.root_ca.is_empty() {
        return Plan::nothing("NoRootCA", "--root-ca-file is not given, so there is nothing to publish");
    }
    let data = [(FILE.to_owned(), view.root_ca.to_owned())].into();
    let described = (DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    let Some(published) = view.published.as_deref() else {
        let metadata = ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(view.namespace.to_owned()),
            annotations: Some([described].into()),
            ..ObjectMeta::default()
        };
        let map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        return Plan { actions: vec![Action::create(&map, "every namespace has one")], ..Plan::default() };
    };
    if published.data.as_ref() == Some(&data) && published.annotation(DESCRIPTION) == Some(DESCRIPTION_TEXT) {
        return Plan::nothing("RootCAPublished", "the namespace has the certificate");
    }
    let mut map = ConfigMap { data: Some(data), binary_data: None, ..published.clone() };
    map.metadata.annotations.get_or_insert_default().extend([described]);
    Plan { actions: vec![Action::update(&map, "somebody changed it")], ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::Write;

    fn check(going: bool, root_ca: &str, published: Option<&str>, expected: &str) {
        let published = published.map(|text| {
            Arc::new(ConfigMap {
                metadata: ObjectMeta {
                    annotations: Some([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())].into()),
                    ..ObjectMeta::default()
                },
                data: Some([(FILE.to_owned(), text.to_owned())].into()),
                ..ConfigMap::default()
            })
        });
        let plan = plan(&View { namespace: "ns", going, root_ca, published });
        let done = plan.actions.first().map_or("nothing", |action| match action.write {
            Write::Create(_) => "create",
            Write::Update { .. } => "update",
            Write::Patch { .. } | Write::Delete(_) | Write::DeleteAll(_) | Write::Certify { .. } => "other",
        });
        assert_eq!(done, expected);
    }

    #[test]
    fn the_certificate_is_published_and_kept() {
        check(false, "PEM", None, "create");
        check(false, "PEM", Some("PEM"), "nothing");
        check(false, "PEM", Some("tampered"), "update");
        check(true, "PEM", None, "nothing");
        check(false, "", None, "nothing");
    }
}
