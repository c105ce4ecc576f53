//! Every verb on every resource and subresource, as the server's own discovery lists them from the table of kinds:
//! without credentials 401, with credentials but without rights 403 in upstream's words, with exactly
//! the right that is needed whatever the verb says, but neither of those. Thousands of requests over a
//! handful of connections.

use serde_json::{Value, json};
use tests::{Batch, Cluster, control_plane, eventually};

/// One verb on one resource.
struct Cell {
    group: String,
    /// `pods` or `pods/log`.
    resource: String,
    verb: String,
    is_namespaced: bool,
    path: String,
}

impl Cell {
    /// The request: method, path and headers. Bodies are left out: authorisation does not read them.
    fn request(&self) -> (&'static str, String, Vec<&'static str>) {
        let name = "matrix-object";
        let subresource = self.resource.split_once('/').map_or("", |(_, subresource)| subresource);
        let named = match subresource {
            "" => format!("{}/{name}", self.path),
            subresource => format!("{}/{name}/{subresource}", self.path),
        };
        let of_collection = if subresource.is_empty() { self.path.clone() } else { named.clone() };
        let merge = vec!["Content-Type: application/merge-patch+json"];
        match self.verb.as_str() {
            "get" => ("GET", named, Vec::new()),
            "list" => ("GET", self.path.clone(), Vec::new()),
            "watch" => ("GET", format!("{}?watch=true&timeoutSeconds=1", self.path), Vec::new()),
            "create" => ("POST", of_collection, Vec::new()),
            "update" => ("PUT", named, Vec::new()),
            "patch" => ("PATCH", named, merge),
            "delete" => ("DELETE", named, Vec::new()),
            "deletecollection" => ("DELETE", format!("{}?labelSelector=matrix%3Dnone", self.path), Vec::new()),
            other => panic!("{other} is no verb"),
        }
    }

    /// Whether the name of the object is part of what is asked.
    fn is_named(&self) -> bool {
        self.resource.contains('/') || !matches!(self.verb.as_str(), "list" | "watch" | "create" | "deletecollection")
    }

    fn denial(&self, user: &str) -> String {
        let subject = if self.group.is_empty() {
            self.resource.split('/').next().unwrap_or_default().to_owned()
        } else {
            format!("{}.{}", self.resource.split('/').next().unwrap_or_default(), self.group)
        };
        let name = if self.is_named() { " \"matrix-object\"" } else { "" };
        let scope = match (self.is_namespaced, self.resource.as_str()) {
            (true, _) => "in the namespace \"default\"",
            // The namespace is its own namespace.
            (false, resource) if resource.split('/').next() == Some("namespaces") && self.is_named() => {
                "in the namespace \"matrix-object\""
            }
            (false, _) => "at the cluster scope",
        };
        let (verb, resource, group) = (&self.verb, &self.resource, &self.group);
        format!(
            "{subject}{name} is forbidden: User \"{user}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" {scope}"
        )
    }
}

/// All that discovery lists; a kind's verbs, and those of its subresources.
fn cells(cluster: &Cluster) -> Vec<Cell> {
    let header = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut cells = Vec::new();
    for root in ["/api", "/apis"] {
        let groups = cluster.http("admin", "GET", root, &[header], b"").expect(200);
        for group in groups["items"].as_array().expect("groups") {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in group["versions"].as_array().expect("versions") {
                let version_name = version["version"].as_str().expect("a version");
                let prefix = if name.is_empty() { "/api".to_owned() } else { format!("/apis/{name}") };
                for resource in version["resources"].as_array().expect("resources") {
                    of_resource(name, &format!("{prefix}/{version_name}"), resource, &mut cells);
                }
            }
        }
    }
    cells
}

fn of_resource(group: &str, prefix: &str, resource: &Value, cells: &mut Vec<Cell>) {
    let plural = resource["resource"].as_str().expect("a plural");
    let is_namespaced = resource["scope"] == "Namespaced";
    let path =
        if is_namespaced { format!("{prefix}/namespaces/default/{plural}") } else { format!("{prefix}/{plural}") };
    let mut add = |resource: String, verbs: &Value| {
        for verb in verbs.as_array().into_iter().flatten().filter_map(Value::as_str) {
            cells.push(Cell {
                group: group.to_owned(),
                resource: resource.clone(),
                verb: verb.to_owned(),
                is_namespaced,
                path: path.clone(),
            });
        }
    };
    add(plural.to_owned(), &resource["verbs"]);
    for sub in resource["subresources"].as_array().into_iter().flatten() {
        add(format!("{plural}/{}", sub["subresource"].as_str().expect("a name")), &sub["verbs"]);
    }
}

/// Makes a ServiceAccount and returns its token and user name.
fn account(cluster: &Cluster, name: &str) -> (String, String) {
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster
        .post(accounts, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))
        .expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = cluster.post(&format!("{accounts}/{name}/token"), &request).expect(201);
    (token["status"]["token"].as_str().expect("a token").to_owned(), format!("system:serviceaccount:default:{name}"))
}

/// Semantics lines 59 and 60, for all that the table knows.
#[test]
fn without_credentials_and_without_rights() {
    let cluster = control_plane!();
    let cells = cells(&cluster);
    assert!(cells.len() > 500, "{} cells: discovery lists less than it should", cells.len());
    let (token, user) = account(&cluster, "nobody");
    let bearer = format!("Authorization: Bearer {token}");
    let mut batch = Batch::new(&cluster);
    for cell in &cells {
        let (method, path, headers) = cell.request();
        batch.add(method, &path, &headers);
        batch.add(method, &path, &[headers.as_slice(), &[bearer.as_str()]].concat());
    }
    let replies = batch.send();
    let mut wrong = Vec::new();
    for (cell, pair) in cells.iter().zip(replies.chunks(2)) {
        let place = format!("{} {}.{}", cell.verb, cell.resource, cell.group);
        if pair[0].code != 401 || pair[0].text().contains(&user) || !pair[0].text().contains("Unauthorized") {
            wrong.push(format!("{place} without credentials: {} {}", pair[0].code, pair[0].text()));
        }
        // Reviews of oneself are everybody's right.
        let is_everybodys = cell.resource.starts_with("selfsubject");
        let found: Value = serde_json::from_slice(&pair[1].body).unwrap_or_default();
        let message = found["message"].as_str().unwrap_or_default();
        if !is_everybodys && (pair[1].code != 403 || message != cell.denial(&user)) {
            wrong.push(format!("{place} without rights: {} {message:?}\n  not {:?}", pair[1].code, cell.denial(&user)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cells:\n{}", wrong.len(), cells.len(), wrong.join("\n"));
}

/// A right opens what it names and nothing beside it: an account for each verb holds it on every resource, by a Role
/// where that is namespaced and by a ClusterRole where it is not, and is refused every other verb.
#[test]
fn with_exactly_the_right_that_is_needed() {
    let cluster = control_plane!();
    let cells = cells(&cluster);
    let mut batch = Batch::new(&cluster);
    let mut asked: Vec<(&Cell, bool)> = Vec::new();
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        let (token, _) = account(&cluster, &format!("may-{verb}"));
        let own: Vec<&Cell> = cells.iter().filter(|cell| cell.verb == verb).collect();
        let rules = |namespaced: bool| -> Vec<Value> {
            let of_scope = own.iter().filter(|cell| cell.is_namespaced == namespaced);
            let rule = |cell: &&Cell| json!({"apiGroups": [cell.group], "resources": [cell.resource], "verbs": [verb]});
            of_scope.map(rule).collect()
        };
        grant(&cluster, verb, &rules(true), &rules(false));
        let bearer = format!("Authorization: Bearer {token}");
        for cell in &own {
            let (method, path, headers) = cell.request();
            batch.add(method, &path, &[headers.as_slice(), &[bearer.as_str()]].concat());
            asked.push((cell, true));
        }
        for cell in cells.iter().filter(|cell| cell.verb != verb && !cell.resource.starts_with("selfsubject")) {
            let (method, path, headers) = cell.request();
            batch.add(method, &path, &[headers.as_slice(), &[bearer.as_str()]].concat());
            asked.push((cell, false));
        }
        let list = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/may-";
        eventually("the binding is seen", || (cluster.get(&format!("{list}{verb}")).code == 200).then_some(()));
    }
    let replies = batch.send();
    let mut wrong = Vec::new();
    for ((cell, has_right), reply) in asked.iter().zip(&replies) {
        let is_refused = matches!(reply.code, 401 | 403);
        // With the right, what is asked for may still be refused by what the object is: that is told in other words.
        let is_denial = is_refused && reply.text().contains(&format!(" cannot {} ", cell.verb));
        if *has_right == is_denial || reply.code == 401 || reply.code >= 500 && reply.code != 503 {
            let held = if *has_right { "with" } else { "without" };
            wrong.push(format!(
                "{} {}.{} {held} the right: {} {}",
                cell.verb,
                cell.resource,
                cell.group,
                reply.code,
                reply.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} requests:\n{}", wrong.len(), asked.len(), wrong.join("\n"));
}

fn grant(cluster: &Cluster, verb: &str, in_namespace: &[Value], in_cluster: &[Value]) {
    let rbac = "rbac.authorization.k8s.io";
    let name = format!("may-{verb}");
    let subject = json!([{"kind": "ServiceAccount", "namespace": "default", "name": name}]);
    for (role, binding, path, rules) in [
        ("Role", "RoleBinding", format!("/apis/{rbac}/v1/namespaces/default"), in_namespace),
        ("ClusterRole", "ClusterRoleBinding", format!("/apis/{rbac}/v1"), in_cluster),
    ] {
        let plural = |kind: &str| format!("{path}/{}s", kind.to_lowercase());
        let object =
            json!({"apiVersion": format!("{rbac}/v1"), "kind": role, "metadata": {"name": name}, "rules": rules});
        cluster.post(&plural(role), &object).expect(201);
        let object = json!({
            "apiVersion": format!("{rbac}/v1"), "kind": binding, "metadata": {"name": name}, "subjects": subject,
            "roleRef": {"apiGroup": rbac, "kind": role, "name": name},
        });
        cluster.post(&plural(binding), &object).expect(201);
    }
}
