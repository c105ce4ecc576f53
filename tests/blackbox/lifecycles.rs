//! Every kind that is stored lives the same life: made, read, listed, watched, patched, replaced, its status written,
//! and gone alone or with its kin. One minimal object stands for each kind; what is walked comes from discovery, so a
//! kind without an object fails the test.
//!
//! Proves the "API operations" behaviours of conformance for all groups (FlowSchema, PriorityLevelConfiguration,
//! ValidatingAdmissionPolicy, webhook configurations, CSR, HPA, PDB, Ingress, IngressClass, NetworkPolicy, ServiceCIDR,
//! IPAddress, EndpointSlice, Endpoints, Event, Lease, RuntimeClass, PodTemplate, CSI objects, ResourceClaim, …), and
//! semantics lines 1, 10, 21-23, 26-28, 33 and 40 for each kind.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::{Cluster, Reply, control_plane, eventually};

const NAMES: [&str; 3] = ["1", "2", "3"];
/// Finalizers that only a controller takes away, and there is none here.
const NO_FINALIZERS: &str = r#"{"metadata":{"finalizers":null}}"#;
/// Text around a pod template.
const TEMPLATE: &str = r#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;
const JOB_TEMPLATE: &str = r#"{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i:1"}]}}"#;
const SELECTED: &str = r#""selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE"#;
const RULES: &str = r#"{"resourceRules":[{"operations":["CREATE"],"apiGroups":["example.com"],"apiVersions":["v1"],"resources":["foos"]}]}"#;
const WEBHOOK: &str = r#"[{"name":"a.example.com","sideEffects":"None","admissionReviewVersions":["v1"],"clientConfig":{"url":"https://example.com"},
    "rules":[{"operations":["CREATE"],"apiGroups":["example.com"],"apiVersions":["v1"],"resources":["foos"]}]}]"#;

/// Group, plural, what the kind needs besides a name (`$N`: the object's number), and a status to write.
const OBJECTS: &[(&str, &str, &str, &str)] = &[
    ("", "configmaps", r#"{"data":{"k":"v"}}"#, ""),
    ("", "endpoints", r#"{"subsets":[{"addresses":[{"ip":"10.1.2.3"}],"ports":[{"port":80}]}]}"#, ""),
    (
        "",
        "events",
        r#"{"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},"reason":"R","message":"m","type":"Normal"}"#,
        "",
    ),
    ("", "limitranges", r#"{"spec":{"limits":[{"type":"Container","max":{"cpu":"1000"}}]}}"#, ""),
    ("", "namespaces", "{}", r#"{"phase":"Active","conditions":[{"type":"Walked","status":"True"}]}"#),
    ("", "nodes", "{}", r#"{"capacity":{"cpu":"2"}}"#),
    (
        "",
        "persistentvolumeclaims",
        r#"{"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}"#,
        r#"{"phase":"Lost"}"#,
    ),
    (
        "",
        "persistentvolumes",
        r#"{"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"1Gi"},"hostPath":{"path":"/a"}}}"#,
        r#"{"message":"walked"}"#,
    ),
    ("", "pods", r#"{"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#, r#"{"phase":"Running"}"#),
    ("", "podtemplates", r#"{"template":TEMPLATE}"#, ""),
    ("", "replicationcontrollers", r#"{"spec":{"selector":{"a":"b"},"template":TEMPLATE}}"#, r#"{"replicas":1}"#),
    ("", "resourcequotas", r#"{"spec":{"hard":{"pods":"1000"}}}"#, r#"{"used":{"pods":"1"}}"#),
    ("", "secrets", r#"{"stringData":{"k":"v"}}"#, ""),
    ("", "serviceaccounts", "{}", ""),
    (
        "",
        "services",
        r#"{"spec":{"ports":[{"port":80}]}}"#,
        r#"{"conditions":[{"type":"Walked","status":"True","reason":"R","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}"#,
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        r#"{"metadata":{"name":"v$N.example.com"},"spec":{"group":"example.com","version":"v$N","groupPriorityMinimum":10,"versionPriority":10,
        "service":{"name":"s","namespace":"default"},"insecureSkipTLSVerify":true}}"#,
        r#"{"conditions":[{"type":"Available","status":"False"}]}"#,
    ),
    ("apps", "controllerrevisions", r#"{"data":{"a":1},"revision":1}"#, ""),
    ("apps", "daemonsets", "{\"spec\":{SELECTED}}", r#"{"numberReady":1}"#),
    ("apps", "deployments", "{\"spec\":{SELECTED}}", r#"{"replicas":1,"readyReplicas":1}"#),
    ("apps", "replicasets", "{\"spec\":{SELECTED}}", r#"{"replicas":1}"#),
    ("apps", "statefulsets", "{\"spec\":{SELECTED}}", r#"{"replicas":1}"#),
    (
        "events.k8s.io",
        "events",
        r#"{"eventTime":"2026-01-01T00:00:00.000000Z","regarding":{"kind":"Pod","name":"p","namespace":"default"},"action":"A","reason":"R",
        "reportingController":"c","reportingInstance":"i","type":"Normal","note":"n"}"#,
        "",
    ),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        r#"{"spec":{"maxReplicas":2,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"d"}}}"#,
        r#"{"desiredReplicas":1}"#,
    ),
    (
        "batch",
        "cronjobs",
        r#"{"spec":{"schedule":"0 0 1 1 *","jobTemplate":{"spec":{"template":JOB_TEMPLATE}}}}"#,
        r#"{"lastScheduleTime":"2026-01-01T00:00:00Z"}"#,
    ),
    ("batch", "jobs", r#"{"spec":{"template":JOB_TEMPLATE}}"#, r#"{"active":1}"#),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        r#"{"spec":{"signerName":"example.com/s","usages":["digital signature"],
        "request":"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQgotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K"}}"#,
        r#"{"conditions":[{"type":"Failed","status":"True"}]}"#,
    ),
    ("networking.k8s.io", "ingressclasses", r#"{"spec":{"controller":"example.com/c"}}"#, ""),
    (
        "networking.k8s.io",
        "ingresses",
        r#"{"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}"#,
        r#"{"loadBalancer":{"ingress":[{"ip":"1.2.3.4"}]}}"#,
    ),
    (
        "networking.k8s.io",
        "ipaddresses",
        r#"{"metadata":{"name":"192.0.2.$N"},"spec":{"parentRef":{"resource":"services","name":"s","namespace":"default"}}}"#,
        "",
    ),
    ("networking.k8s.io", "networkpolicies", r#"{"spec":{"podSelector":{}}}"#, ""),
    (
        "networking.k8s.io",
        "servicecidrs",
        r#"{"spec":{"cidrs":["10.20$N.0.0/24"]}}"#,
        r#"{"conditions":[{"type":"Ready","status":"True","reason":"R","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}"#,
    ),
    (
        "policy",
        "poddisruptionbudgets",
        r#"{"spec":{"minAvailable":1,"selector":{"matchLabels":{"a":"b"}}}}"#,
        r#"{"disruptionsAllowed":1}"#,
    ),
    (
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        r#"{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"}}"#,
        "",
    ),
    ("rbac.authorization.k8s.io", "clusterroles", r#"{"rules":[]}"#, ""),
    (
        "rbac.authorization.k8s.io",
        "rolebindings",
        r#"{"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"}}"#,
        "",
    ),
    ("rbac.authorization.k8s.io", "roles", r#"{"rules":[]}"#, ""),
    ("storage.k8s.io", "csidrivers", "{}", ""),
    ("storage.k8s.io", "csinodes", r#"{"spec":{"drivers":[]}}"#, ""),
    ("storage.k8s.io", "csistoragecapacities", r#"{"storageClassName":"c"}"#, ""),
    ("storage.k8s.io", "storageclasses", r#"{"provisioner":"example.com/p"}"#, ""),
    (
        "storage.k8s.io",
        "volumeattachments",
        r#"{"spec":{"attacher":"example.com","nodeName":"n","source":{"persistentVolumeName":"v"}}}"#,
        r#"{"attached":true}"#,
    ),
    ("storage.k8s.io", "volumeattributesclasses", r#"{"driverName":"example.com","parameters":{"a":"b"}}"#, ""),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        r#"{"spec":{"matchConstraints":RULES,"reinvocationPolicy":"Never",
        "mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":"Object{}"}}]}}"#,
        "",
    ),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", r#"{"spec":{"policyName":"p"}}"#, ""),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", r#"{"webhooks":WEBHOOK}"#, ""),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        r#"{"spec":{"matchConstraints":RULES,"validations":[{"expression":"true"}]}}"#,
        r#"{"observedGeneration":1}"#,
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        r#"{"spec":{"policyName":"p","validationActions":["Deny"]}}"#,
        "",
    ),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", r#"{"webhooks":WEBHOOK}"#, ""),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        r#"{"metadata":{"name":"foos.walk$N.example.com"},"spec":{"group":"walk$N.example.com","scope":"Namespaced",
        "names":{"plural":"foos","kind":"Foo"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}"#,
        r#"{"conditions":[{"type":"Walked","status":"True"}]}"#,
    ),
    ("scheduling.k8s.io", "priorityclasses", r#"{"value":1000}"#, ""),
    ("coordination.k8s.io", "leases", r#"{"spec":{"holderIdentity":"h"}}"#, ""),
    ("node.k8s.io", "runtimeclasses", r#"{"handler":"h"}"#, ""),
    (
        "discovery.k8s.io",
        "endpointslices",
        r#"{"addressType":"IPv4","endpoints":[{"addresses":["10.1.2.3"]}],"ports":[{"port":80}]}"#,
        "",
    ),
    ("resource.k8s.io", "deviceclasses", r#"{"spec":{}}"#, ""),
    (
        "resource.k8s.io",
        "resourceclaims",
        r#"{"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}"#,
        r#"{"allocation":{"devices":{"results":[{"request":"r","driver":"d","pool":"p","device":"x"}]}}}"#,
    ),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        r#"{"spec":{"spec":{"devices":{"requests":[{"name":"r","exactly":{"deviceClassName":"c"}}]}}}}"#,
        "",
    ),
    (
        "resource.k8s.io",
        "resourceslices",
        r#"{"spec":{"driver":"d","nodeName":"n","pool":{"name":"p$N","resourceSliceCount":1}}}"#,
        "",
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        r#"{"spec":{"priorityLevelConfiguration":{"name":"exempt"},"rules":[{"subjects":[{"kind":"User","user":{"name":"walker"}}],
        "nonResourceRules":[{"verbs":["*"],"nonResourceURLs":["*"]}]}]}}"#,
        r#"{"conditions":[{"type":"Dangling","status":"False"}]}"#,
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        r#"{"spec":{"type":"Limited","limited":{"limitResponse":{"type":"Reject"}}}}"#,
        r#"{"conditions":[{"type":"Walked","status":"True"}]}"#,
    ),
];

/// A kind on its walk.
struct Walk<'a> {
    cluster: &'a Cluster,
    api_version: String,
    kind: String,
    /// Of the collection, in its namespace if it has one.
    path: String,
    /// Of the collection in all namespaces.
    everywhere: String,
    verbs: Vec<String>,
    has_status: bool,
    body: &'static str,
    status: &'static str,
}

type Outcome<T = ()> = Result<T, String>;

fn want(step: &str, reply: &Reply, code: u16) -> Outcome<Value> {
    if reply.code != code {
        return Err(format!("{step}: {} instead of {code}: {}", reply.code, reply.text()));
    }
    Ok(reply.json())
}

fn equal(step: &str, found: &Value, wanted: &Value) -> Outcome {
    (found == wanted).then_some(()).ok_or_else(|| format!("{step}:\n  found  {found}\n  wanted {wanted}"))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Walk<'_> {
    fn object(&self, number: &str) -> Value {
        let mut body = self.body.to_owned();
        for (word, stands_for) in [
            ("SELECTED", SELECTED),
            ("JOB_TEMPLATE", JOB_TEMPLATE),
            ("TEMPLATE", TEMPLATE),
            ("RULES", RULES),
            ("WEBHOOK", WEBHOOK),
            ("$N", number),
        ] {
            body = body.replace(word, stands_for);
        }
        let mut object: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error} in {body}"));
        object["apiVersion"] = self.api_version.as_str().into();
        object["kind"] = self.kind.as_str().into();
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = format!("walk-{number}").into();
        }
        object["metadata"]["labels"]["walk"] = "yes".into();
        object
    }

    fn one(&self, object: &Value) -> String {
        format!("{}/{}", self.path, text(object, "/metadata/name"))
    }

    fn has(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    fn all(&self) -> Outcome {
        let start = want("list", &self.cluster.get(&format!("{}?labelSelector=walk%3Dyes", self.path)), 200)?;
        equal("empty at first", &start["items"], &json!([]))?;
        equal("kind of the list", &start["kind"], &json!(format!("{}List", self.kind)))?;
        let first = self.make_and_read()?;
        let changed = self.change(&first)?;
        if self.has_status {
            self.write_status(&changed)?;
        }
        self.end(&first)?;
        self.end_together()?;
        self.watched(text(&start, "/metadata/resourceVersion"), text(&first, "/metadata/name"))
    }

    fn make_and_read(&self) -> Outcome<Value> {
        let wanted = self.object(NAMES[0]);
        let first = want("create", &self.cluster.post(&self.path, &wanted), 201)?;
        let again = self.cluster.post(&self.path, &wanted);
        if again.code != 409 || again.refusal().1 != "AlreadyExists" {
            return Err(format!("a second create: {}", again.text()));
        }
        let first = self.settled(first);
        let one = self.one(&first);
        equal("get", &want("get", &self.cluster.get(&one), 200)?, &first)?;
        for (step, path) in [("list", &self.path), ("list everywhere", &self.everywhere)] {
            let list = want(step, &self.cluster.get(&format!("{path}?labelSelector=walk%3Dyes")), 200)?;
            let mut item = first.clone();
            for field in ["kind", "apiVersion"] {
                item.as_object_mut().expect("an object").remove(field);
            }
            equal(step, &list["items"], &json!([item]))?;
            let none = want(step, &self.cluster.get(&format!("{path}?labelSelector=walk%3Dno")), 200)?;
            equal("list of none", &none["items"], &json!([]))?;
        }
        Ok(first)
    }

    /// The object when nobody else is about to write it: the server itself says whether a FlowSchema dangles.
    fn settled(&self, object: Value) -> Value {
        if self.kind != "FlowSchema" {
            return object;
        }
        let one = self.one(&object);
        eventually("the flow schema is judged", || {
            Some(self.cluster.get(&one).json()).filter(|found| found["status"]["conditions"].is_array())
        })
    }

    fn change(&self, first: &Value) -> Outcome<Value> {
        let one = self.one(first);
        let patch = json!({"metadata": {"annotations": {"walk": "patched"}}});
        let mut patched = Value::Null;
        for kind in ["merge-patch+json", "strategic-merge-patch+json"] {
            patched = want(kind, &self.cluster.patch(&one, kind, &patch), 200)?;
            equal("patched", &patched["metadata"]["annotations"]["walk"], &json!("patched"))?;
        }
        let stale = self.cluster.put(&one, first);
        if stale.code != 409 || stale.refusal().1 != "Conflict" {
            return Err(format!("a stale update: {}", stale.text()));
        }
        let same = want("no change", &self.cluster.put(&one, &patched), 200)?;
        equal("no change", &same["metadata"]["resourceVersion"], &patched["metadata"]["resourceVersion"])?;
        patched["metadata"]["annotations"]["walk"] = "updated".into();
        let updated = want("update", &self.cluster.put(&one, &patched), 200)?;
        equal("updated", &updated["metadata"]["annotations"]["walk"], &json!("updated"))?;
        equal("uid", &updated["metadata"]["uid"], &first["metadata"]["uid"])?;
        Ok(updated)
    }

    /// The status is written on its own, and nothing else with it.
    fn write_status(&self, before: &Value) -> Outcome {
        let path = format!("{}/status", self.one(before));
        equal("get status", &want("get status", &self.cluster.get(&path), 200)?, before)?;
        let status: Value =
            serde_json::from_str(self.status).map_err(|error| format!("no status to write: {error}"))?;
        let spec = |object: &Value| object.get("spec").cloned().unwrap_or_default();
        let mut with_status = before.clone();
        for (field, value) in status.as_object().into_iter().flatten() {
            with_status["status"][field] = value.clone();
        }
        let put = want("put status", &self.cluster.put(&path, &with_status), 200)?;
        let patch = json!({"status": status, "metadata": {"annotations": {"walk": "status"}}});
        let patched = want("patch status", &self.cluster.patch(&path, "merge-patch+json", &patch), 200)?;
        for (step, object) in [("put status", &put), ("patch status", &patched)] {
            for (field, value) in status.as_object().into_iter().flatten() {
                contains(step, &object["status"][field], value)?;
            }
            equal(step, &spec(object), &spec(before))?;
            equal(step, &object["metadata"]["generation"], &before["metadata"]["generation"])?;
        }
        // What the main resource is sent as status counts for nothing.
        let mut elsewhere = patched.clone();
        elsewhere["status"] = before.get("status").cloned().unwrap_or(json!({}));
        elsewhere["metadata"]["annotations"]["walk"] = "again".into();
        let kept = want("status by a plain update", &self.cluster.put(&self.one(before), &elsewhere), 200)?;
        // Upstream's strategy of ServiceCIDR keeps nothing back.
        if self.kind != "ServiceCIDR" {
            equal("status by a plain update", &kept["status"], &patched["status"])?;
        }
        Ok(())
    }

    fn end(&self, object: &Value) -> Outcome {
        let one = self.one(object);
        want(
            "no finalizers",
            &self.cluster.patch(&one, "merge-patch+json", &serde_json::from_str(NO_FINALIZERS).expect("JSON")),
            200,
        )?;
        let gone = want("delete", &self.cluster.delete(&format!("{one}?propagationPolicy=Background")), 200)?;
        if gone["kind"] == "Status" {
            equal("uid of what is gone", &gone["details"]["uid"], &object["metadata"]["uid"])?;
        }
        self.finalize(&one)?;
        let absent = self.cluster.get(&one);
        want("gone", &absent, 404)?;
        equal("reason", &json!(absent.refusal().1), &json!("NotFound"))
    }

    /// A namespace waits for its controller, which is not there.
    fn finalize(&self, one: &str) -> Outcome {
        if self.kind == "Namespace" {
            let mut object = want("terminating", &self.cluster.get(one), 200)?;
            equal("phase", &object["status"]["phase"], &json!("Terminating"))?;
            object["spec"]["finalizers"] = json!([]);
            want("finalize", &self.cluster.put(&format!("{one}/finalize"), &object), 200)?;
        }
        Ok(())
    }

    fn end_together(&self) -> Outcome {
        if !self.has("deletecollection") {
            return Ok(());
        }
        for number in &NAMES[1..] {
            let object = want("create", &self.cluster.post(&self.path, &self.object(number)), 201)?;
            let none = serde_json::from_str(NO_FINALIZERS).expect("JSON");
            want("no finalizers", &self.cluster.patch(&self.one(&object), "merge-patch+json", &none), 200)?;
        }
        let query = "labelSelector=walk%3Dyes&propagationPolicy=Background";
        want("deletecollection", &self.cluster.delete(&format!("{}?{query}", self.path)), 200)?;
        let left = want("list", &self.cluster.get(&format!("{}?labelSelector=walk%3Dyes", self.path)), 200)?;
        equal("all are gone", &left["items"], &json!([]))
    }

    /// The whole life of the first object, as a watch from before it tells it.
    fn watched(&self, from: &str, name: &str) -> Outcome {
        let query = "watch=true&timeoutSeconds=1&labelSelector=walk%3Dyes&resourceVersion=";
        let reply = self.cluster.get(&format!("{}?{query}{from}", self.everywhere));
        let events: Vec<Value> = reply.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_it = events.iter().filter(|event| text(event, "/object/metadata/name") == name);
        let kinds: Vec<&str> = of_it.map(|event| text(event, "/type")).collect();
        let is_whole = kinds.first() == Some(&"ADDED")
            && kinds.last() == Some(&"DELETED")
            && kinds.len() > 3
            && kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "MODIFIED");
        is_whole.then_some(()).ok_or_else(|| format!("watch: {kinds:?} in {}", reply.text()))
    }
}

/// All that was written is there; the server may have filled in more.
fn contains(step: &str, found: &Value, written: &Value) -> Outcome {
    match (found, written) {
        (Value::Object(found), Value::Object(written)) => {
            written.iter().try_for_each(|(name, value)| contains(step, found.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(found), Value::Array(written)) if found.len() == written.len() => {
            found.iter().zip(written).try_for_each(|(found, written)| contains(step, found, written))
        }
        _ => equal(step, found, written),
    }
}

/// Every resource that discovery names and that can be made and listed.
fn walks(cluster: &Cluster) -> Vec<Result<Walk<'_>, String>> {
    let accept = ["Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"];
    let mut walks = Vec::new();
    let table: BTreeMap<_, _> =
        OBJECTS.iter().map(|(group, plural, body, status)| ((*group, *plural), (*body, *status))).collect();
    for root in ["/api", "/apis"] {
        let groups = cluster.http("admin", "GET", root, &accept, b"").expect(200);
        for group in groups["items"].as_array().expect("groups") {
            for version in group["versions"].as_array().expect("versions") {
                let (group, version_name) = (text(group, "/metadata/name"), text(version, "/version"));
                for resource in version["resources"].as_array().expect("resources") {
                    let verbs: Vec<String> = serde_json::from_value(resource["verbs"].clone()).expect("verbs");
                    if !["create", "list"].iter().all(|verb| verbs.iter().any(|known| known == verb)) {
                        continue;
                    }
                    let plural = text(resource, "/resource");
                    let Some((body, status)) = table.get(&(group, plural)).copied() else {
                        walks.push(Err(format!("{group}/{plural}: no object stands for this kind")));
                        continue;
                    };
                    let root = if group.is_empty() {
                        format!("/api/{version_name}")
                    } else {
                        format!("/apis/{group}/{version_name}")
                    };
                    let everywhere = format!("{root}/{plural}");
                    let path = if resource["scope"] == "Namespaced" {
                        format!("{root}/namespaces/default/{plural}")
                    } else {
                        everywhere.clone()
                    };
                    let api_version =
                        if group.is_empty() { version_name.to_owned() } else { format!("{group}/{version_name}") };
                    let subresources = resource["subresources"].as_array().map(Vec::as_slice).unwrap_or_default();
                    let has_status = subresources.iter().any(|subresource| subresource["subresource"] == "status");
                    let kind = text(resource, "/responseKind/kind").to_owned();
                    walks.push(Ok(Walk {
                        cluster,
                        api_version,
                        kind,
                        path,
                        everywhere,
                        verbs,
                        has_status,
                        body,
                        status,
                    }));
                }
            }
        }
    }
    walks
}

/// Each walk waits a second for its watch, so several go at once; views of one store go one after the other.
const LANES: usize = 8;

#[test]
fn every_kind_lives_its_life() {
    let cluster = control_plane!();
    let walks = walks(&cluster);
    assert!(walks.len() >= 60, "discovery names {} kinds only", walks.len());
    let lane = |walk: &Walk| walk.kind.bytes().map(usize::from).sum::<usize>() % LANES;
    let mut failures: Vec<String> = walks.iter().filter_map(|walk| walk.as_ref().err().cloned()).collect();
    let walks: Vec<&Walk> = walks.iter().flatten().collect();
    std::thread::scope(|scope| {
        let walks = &walks;
        let walked = |number| {
            move || {
                let own = walks.iter().filter(|walk| lane(walk) == number);
                own.filter_map(|walk| walk.all().err().map(|why| format!("{} {}: {why}", walk.api_version, walk.kind)))
                    .collect()
            }
        };
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(walked(number))).collect();
        for lane in lanes {
            let failed: Vec<String> = lane.join().expect("a walk does not panic");
            failures.extend(failed);
        }
    });
    assert!(failures.is_empty(), "{} kinds fail:\n{}", failures.len(), failures.join("\n"));
}
