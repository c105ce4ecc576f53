//! What objects other than pods may say, but probably do not mean.
//!
//! Source: pkg/api/{node,persistentvolume,persistentvolumeclaim,service,storage}/warnings.go and the strategies.

use serde_json::Value;

use super::{
    edit::{is_present, list, map, text, text_at},
    path::Path,
    pod::warnings::renamed,
};

/// An annotation that still stands on the object: its key, and what to say.
fn annotated(object: &Value, key: &str, words: &str) -> Option<String> {
    let is_there = map(&object["metadata"], "annotations").any(|(name, _)| name == key);
    is_there.then(|| format!("metadata.annotations[{key}]: {words}"))
}

pub fn service(service: &Value, _: Option<&Value>) -> Vec<String> {
    let spec = &service["spec"];
    let kind = text(spec, "type");
    let mut warnings = Vec::new();
    warnings.extend(annotated(
        service,
        "service.kubernetes.io/topology-aware-hints",
        "please use service.kubernetes.io/topology-mode instead",
    ));
    let has_addresses = !list(spec, "externalIPs").is_empty();
    if text(spec, "clusterIP") == "None" {
        if !text(spec, "loadBalancerIP").is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if has_addresses {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if !matches!(text(spec, "sessionAffinity"), "" | "None") {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if kind == "ExternalName" && has_addresses {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if kind != "ExternalName" && !text(spec, "externalName").is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    warnings
}

pub fn ingress(ingress: &Value, old: Option<&Value>) -> Vec<String> {
    let key = "kubernetes.io/ingress.class";
    let is_new = old.is_none() && map(&ingress["metadata"], "annotations").any(|(name, _)| name == key);
    let words = format!("annotation {key:?} is deprecated, please use 'spec.ingressClassName' instead");
    is_new.then_some(words).into_iter().collect()
}

pub fn node(node: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_present(&node["spec"], "configSource") {
        warnings.push("spec.configSource: the feature is no longer supported".to_owned());
    }
    if old.is_none() && !text_at(node, "/spec/externalID").is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is not used by Kubernetes".to_owned());
    }
    warnings
}

pub fn volume(volume: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    warnings.extend(annotated(
        volume,
        "volume.beta.kubernetes.io/storage-class",
        "deprecated since v1.8; use \"storageClassName\" attribute instead",
    ));
    warnings.extend(annotated(
        volume,
        "volume.beta.kubernetes.io/mount-options",
        "deprecated since v1.31; use \"mountOptions\" attribute instead",
    ));
    if text_at(volume, "/spec/persistentVolumeReclaimPolicy") == "Recycle" {
        let words = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        warnings.push(format!("spec.persistentVolumeReclaimPolicy: {words}"));
    }
    warnings
}

pub fn claim(claim: &Value, _: Option<&Value>) -> Vec<String> {
    let words = "deprecated since v1.8; use \"storageClassName\" attribute instead";
    annotated(claim, "volume.beta.kubernetes.io/storage-class", words).into_iter().collect()
}

pub fn service_account(account: &Value, _: Option<&Value>) -> Vec<String> {
    let words = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
    annotated(account, "kubernetes.io/enforce-mountable-secrets", words).into_iter().collect()
}

pub fn storage_class(class: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, term) in list(class, "allowedTopologies").iter().enumerate() {
        for (j, requirement) in list(term, "matchLabelExpressions").iter().enumerate() {
            let at = format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key");
            warnings.extend(renamed(text(requirement, "key"), &Path::root(&at)));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_ignored_is_said() {
        let headless =
            json!({"spec": {"clusterIP": "None", "externalIPs": ["1.2.3.4"], "sessionAffinity": "ClientIP"}});
        assert_eq!(
            service(&headless, None),
            [
                "spec.externalIPs is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services"
            ]
        );
        let old = json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}});
        assert_eq!((ingress(&old, None).len(), ingress(&old, Some(&old)).len()), (1, 0));
        let class = json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone"}]}]});
        assert_eq!(
            storage_class(&class, None),
            [
                "allowedTopologies[0].matchLabelExpressions[0].key: deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
            ]
        );
    }
}
