//! A container's environment: variables from values, objects, fields and services, with `$(NAME)` expanded. Pure; the
//! objects come in as [`Sources`].

use std::collections::BTreeMap;

use api_types::k8s::core::{EnvFromSource, EnvVar, EnvVarSource, Service};

/// Where a container's environment may come from.
pub trait Sources {
    /// The data of a ConfigMap as text, `None` if it does not exist.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>>;
    /// The data of a Secret as text, `None` if it does not exist.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, String>>;
    /// A `fieldRef` path's value, or why there is none.
    fn field(&self, path: &str) -> Result<String, String>;
    /// A `resourceFieldRef`'s value, or why there is none.
    fn resource(&self, selector: &api_types::k8s::core::ResourceFieldSelector) -> Result<String, String>;
    /// A key of an env file in one of the pod's volumes: `None` if the file or the key is not there.
    fn file(&self, volume: &str, path: &str, key: &str) -> Result<Option<String>, String>;
}

/// Why a container cannot get its environment; the message is the container's `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvError(pub String);

/// In the order in which they are defined, each name once.
///
/// Source: `makeEnvironmentVariables` in pkg/kubelet/kubelet_pods.go.
pub fn environment(
    namespace: &str,
    services: BTreeMap<String, String>,
    env_from: &[EnvFromSource],
    env: &[EnvVar],
    sources: &dyn Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut result = Variables::default();
    for source in env_from {
        for (key, value) in imported(namespace, source, sources)? {
            result.set(key, value);
        }
    }
    for variable in env {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => {
                Some(expand(text, |name| result.value(name).or_else(|| services.get(name)).cloned()))
            }
            (_, Some(source)) => referenced(namespace, source, sources)?,
            (_, None) => Some(String::new()),
        };
        if let Some(value) = value {
            result.set(variable.name.clone(), value);
        }
    }
    // What the pod defines itself wins over the services.
    for (name, value) in services {
        if result.value(&name).is_none() {
            result.set(name, value);
        }
    }
    Ok(result.0)
}

#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn value(&self, name: &str) -> Option<&String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

fn imported(
    namespace: &str,
    source: &EnvFromSource,
    sources: &dyn Sources,
) -> Result<BTreeMap<String, String>, EnvError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    let (data, optional, missing) = if let Some(reference) = &source.config_map_ref {
        (sources.config_map(&reference.name), reference.optional, not_found("configmap", &reference.name))
    } else if let Some(reference) = &source.secret_ref {
        (sources.secret(&reference.name), reference.optional, not_found("secret", &reference.name))
    } else {
        return Ok(BTreeMap::new());
    };
    match data {
        Some(data) => Ok(data.into_iter().map(|(key, value)| (format!("{prefix}{key}"), value)).collect()),
        None if optional.unwrap_or_default() => Ok(BTreeMap::new()),
        None => {
            tracing::debug!(namespace, missing, "an object of the environment is missing");
            Err(EnvError(missing))
        }
    }
}

/// As the API says it of a missing object.
pub fn not_found(kind: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

fn referenced(namespace: &str, source: &EnvVarSource, sources: &dyn Sources) -> Result<Option<String>, EnvError> {
    if let Some(reference) = &source.config_map_key_ref {
        let data = sources.config_map(&reference.name);
        return keyed("ConfigMap", namespace, &reference.name, &reference.key, reference.optional, data);
    }
    if let Some(reference) = &source.secret_key_ref {
        let data = sources.secret(&reference.name);
        return keyed("Secret", namespace, &reference.name, &reference.key, reference.optional, data);
    }
    if let Some(reference) = &source.field_ref {
        return sources.field(&reference.field_path).map(Some).map_err(EnvError);
    }
    if let Some(reference) = &source.resource_field_ref {
        return sources.resource(reference).map(Some).map_err(EnvError);
    }
    if let Some(reference) = &source.file_key_ref {
        let value = sources.file(&reference.volume_name, &reference.path, &reference.key).map_err(EnvError)?;
        return match value {
            Some(value) => Ok(Some(value)),
            None if reference.optional.unwrap_or_default() => Ok(None),
            None => Err(EnvError(format!("environment variable key \"{}\" not found in file", reference.key))),
        };
    }
    Ok(None)
}

fn keyed(
    kind: &str,
    namespace: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
    data: Option<BTreeMap<String, String>>,
) -> Result<Option<String>, EnvError> {
    let optional = optional.unwrap_or_default();
    match data {
        None if optional => Ok(None),
        None => Err(EnvError(not_found(&kind.to_lowercase(), name))),
        Some(data) => match data.get(key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvError(format!("couldn't find key {key} in {kind} {namespace}/{name}"))),
        },
    }
}

/// Replaces `$(NAME)` where the name is known and `$$` by `$`; leaves all else as it is.
///
/// Source: third_party/forked/golang/expansion.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|name| name.split_once(')')) {
            match value(name) {
                Some(value) => result.push_str(&value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            result.push('$');
            rest = after;
        }
    }
    result.push_str(rest);
    result
}

/// The variables that tell of services: those of the pod's namespace if it asks for links, and the API's own.
///
/// Source: `FromServices` in pkg/kubelet/envvars.
pub fn service_variables<'a>(services: impl Iterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { continue };
        let Some(name) = service.metadata.name.as_deref() else { continue };
        let stem = name.to_uppercase().replace('-', "_");
        let mut ports = spec.ports.iter().flatten();
        let Some(first) = spec.ports.iter().flatten().next() else { continue };
        variables.insert(format!("{stem}_SERVICE_HOST"), ip.to_owned());
        variables.insert(format!("{stem}_SERVICE_PORT"), first.port.to_string());
        for port in spec.ports.iter().flatten() {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                variables.insert(format!("{stem}_SERVICE_PORT_{name}"), port.port.to_string());
            }
        }
        // IPv6 addresses stand in brackets in front of a port.
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let mut is_first = true;
        for port in ports.by_ref() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if std::mem::take(&mut is_first) {
                variables.insert(format!("{stem}_PORT"), url.clone());
            }
            let stem = format!("{stem}_PORT_{}_{}", port.port, protocol.to_uppercase());
            variables.insert(format!("{stem}_PROTO"), protocol.to_lowercase());
            variables.insert(format!("{stem}_PORT"), port.port.to_string());
            variables.insert(format!("{stem}_ADDR"), ip.to_owned());
            variables.insert(stem, url);
        }
    }
    variables
}

/// `NAME=value` lines of an env file; comments and blank lines are skipped, matching quotes around a value are taken off.
pub fn env_file_value(content: &str, key: &str) -> Option<String> {
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    // The last one of a name counts.
    let value = lines.rev().filter_map(|line| line.split_once('=')).find(|(name, _)| name.trim() == key)?.1.trim();
    let quoted = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
    Some(quoted('\'').or_else(|| quoted('"')).unwrap_or(value).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Sources for Fixed {
        fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
            (name == "cm").then(|| [("k", "v"), ("l", "w")].map(|(k, v)| (k.to_owned(), v.to_owned())).into())
        }
        fn secret(&self, name: &str) -> Option<BTreeMap<String, String>> {
            (name == "s").then(|| [("p".to_owned(), "secret".to_owned())].into())
        }
        fn field(&self, path: &str) -> Result<String, String> {
            Ok(format!("<{path}>"))
        }
        fn resource(&self, selector: &api_types::k8s::core::ResourceFieldSelector) -> Result<String, String> {
            Ok(format!("<{}>", selector.resource))
        }
        fn file(&self, _: &str, _: &str, key: &str) -> Result<Option<String>, String> {
            Ok((key == "K").then(|| "from file".to_owned()))
        }
    }

    fn check(env_from: serde_json::Value, env: serde_json::Value, expected: &str) {
        let env_from: Vec<EnvFromSource> = serde_json::from_value(env_from).unwrap();
        let env: Vec<EnvVar> = serde_json::from_value(env).unwrap();
        let services = [("SVC_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())].into();
        let text = match environment("ns", services, &env_from, &env, &Fixed) {
            Ok(list) => list
                .iter()
                .filter(|(name, _)| !name.starts_with("SVC"))
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!("! {error}"),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn sources() {
        use serde_json::json;
        let key = |kind: &str, name: &str, key: &str, optional: bool| json!([{"name": "A", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]);
        check(json!([]), json!([{"name": "A", "value": "1"}, {"name": "B"}]), "A=1 B=");
        check(json!([{"prefix": "P_", "configMapRef": {"name": "cm"}}]), json!([]), "P_k=v P_l=w");
        check(json!([{"secretRef": {"name": "s"}}]), json!([{"name": "p", "value": "mine"}]), "p=mine");
        check(json!([{"configMapRef": {"name": "no"}}]), json!([]), "! configmap \"no\" not found");
        check(json!([{"configMapRef": {"name": "no", "optional": true}}]), json!([]), "");
        check(json!([]), key("configMapKeyRef", "cm", "k", false), "A=v");
        check(json!([]), key("configMapKeyRef", "cm", "z", false), "! couldn't find key z in ConfigMap ns/cm");
        check(json!([]), key("configMapKeyRef", "cm", "z", true), "");
        check(json!([]), key("secretKeyRef", "s", "p", false), "A=secret");
        check(json!([]), key("secretKeyRef", "no", "p", false), "! secret \"no\" not found");
        check(
            json!([]),
            json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            "A=<metadata.name>",
        );
        check(
            json!([]),
            json!([{"name": "A", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "K"}}}]),
            "A=from file",
        );
    }

    #[test]
    fn later_values_see_earlier_ones_and_services() {
        use serde_json::json;
        check(
            json!([{"configMapRef": {"name": "cm"}}]),
            json!([{"name": "A", "value": "$(k)/$(SVC_SERVICE_HOST)"}, {"name": "B", "value": "$(A) $(NO) $$(A)"}]),
            "k=v l=w A=v/10.0.0.1 B=v/10.0.0.1 $(NO) $(A)",
        );
    }

    #[test]
    fn expansion() {
        let check = |text: &str, expected: &str| {
            assert_eq!(expand(text, |name| (name == "A").then(|| "1".to_owned())), expected, "{text}");
        };
        check("$(A)", "1");
        check("x$(A)y$(A)", "x1y1");
        check("$A $ $(", "$A $ $(");
        check("$$(A) $$$(A)", "$(A) $1");
        check("$(B)", "$(B)");
        check("$(A", "$(A");
    }

    #[test]
    fn services_become_variables() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "my-db"},
            "spec": {"clusterIP": "10.96.0.5", "ports": [{"name": "sql", "port": 5432}, {"port": 53, "protocol": "UDP"}]},
        }))
        .unwrap();
        let variables = service_variables([&service].into_iter());
        let check =
            |name: &str, value: &str| assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        check("MY_DB_SERVICE_HOST", "10.96.0.5");
        check("MY_DB_SERVICE_PORT", "5432");
        check("MY_DB_SERVICE_PORT_SQL", "5432");
        check("MY_DB_PORT", "tcp://10.96.0.5:5432");
        check("MY_DB_PORT_53_UDP", "udp://10.96.0.5:53");
        check("MY_DB_PORT_53_UDP_ADDR", "10.96.0.5");
        assert_eq!(variables.len(), 12);
    }

    #[test]
    fn env_files() {
        let content = "# c\nA=1\n B = 'two words' \nA=\"3\"\n";
        assert_eq!(env_file_value(content, "A").as_deref(), Some("3"));
        assert_eq!(env_file_value(content, "B").as_deref(), Some("two words"));
        assert_eq!(env_file_value(content, "C"), None);
    }
}
