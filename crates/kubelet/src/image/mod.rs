//! Images: whether one has to be pulled, with whose credentials, and what is told about it.
//!
//! Source: pkg/kubelet/images/image_manager.go.

pub mod credentials;

use std::time::Instant;

use api_types::{
    Key, Object,
    k8s::core::{Container, Pod},
};
use client::EventKind;

use crate::{
    host::Host,
    pod::steps::ERR_IMAGE_PULL,
    runtime::{Credentials, Image, RuntimeError},
};

/// Why there is no image, in the words of the container's status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// What is there is used.
    Present,
    Pull,
    /// It is not there and must not be pulled.
    Refused,
}

fn need(policy: Option<&str>, present: bool) -> Need {
    match (policy, present) {
        (Some("Always"), _) | (_, false) if policy != Some("Never") => Need::Pull,
        (_, true) => Need::Present,
        (_, false) => Need::Refused,
    }
}

/// Finds or pulls a container's image.
pub async fn ensure(host: &Host, pod: &Pod, container: &Container) -> Result<Image, ImageError> {
    let tell = |kind, reason: &str, message: String| host.event(pod, &container.name, kind, reason, message);
    let given = container.image.as_deref().unwrap_or_default();
    let Some(name) = reference(given) else {
        let message = format!(
            "Failed to apply default image tag \"{given}\": couldn't parse image name \"{given}\": invalid reference format"
        );
        tell(EventKind::Warning, "InspectFailed", message.clone());
        return Err(ImageError { reason: "InvalidImageName", message });
    };
    let inspect = |error: RuntimeError| {
        let message = format!("Failed to inspect image \"{given}\": {error}");
        tell(EventKind::Warning, "InspectFailed", message.clone());
        ImageError { reason: "ImageInspectError", message }
    };
    let found = host.runtime.image(&name).await.map_err(inspect)?;
    match (need(container.image_pull_policy.as_deref(), found.is_some()), found) {
        (Need::Present, Some(image)) => {
            let message =
                format!("Container image \"{given}\" already present on machine and can be accessed by the pod");
            tell(EventKind::Normal, "Pulled", message);
            Ok(image)
        }
        (Need::Refused, _) => {
            let message = format!("Container image \"{given}\" is not present with pull policy of Never");
            tell(EventKind::Warning, "ErrImageNeverPull", message.clone());
            Err(ImageError { reason: "ErrImageNeverPull", message })
        }
        (Need::Pull | Need::Present, _) => {
            tell(EventKind::Normal, "Pulling", format!("Pulling image \"{given}\""));
            let began = Instant::now();
            if let Err(error) = pull(host, pod, &name).await {
                tell(EventKind::Warning, "Failed", format!("Failed to pull image \"{given}\": {error}"));
                return Err(ImageError { reason: ERR_IMAGE_PULL, message: error.to_string() });
            }
            let pulled = host.runtime.image(&name).await.map_err(inspect)?.unwrap_or_default();
            let took = format!("{:.3}s", began.elapsed().as_secs_f64());
            let message = format!(
                "Successfully pulled image \"{given}\" in {took} ({took} including waiting). Image size: {} bytes.",
                pulled.size_bytes
            );
            tell(EventKind::Normal, "Pulled", message);
            Ok(pulled)
        }
    }
}

/// Tries each credential that fits, then none.
async fn pull(host: &Host, pod: &Pod, name: &str) -> Result<(), RuntimeError> {
    let mut last = None;
    for credentials in pull_secrets(host, pod, name).await {
        match host.runtime.pull(name, Some(&credentials)).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    match (host.runtime.pull(name, None).await, last) {
        (Ok(()), _) => Ok(()),
        // What was said to the owner of a credential tells more.
        (Err(_), Some(error)) | (Err(error), None) => Err(error),
    }
}

async fn pull_secrets(host: &Host, pod: &Pod, name: &str) -> Vec<Credentials> {
    let mut found = vec![];
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for secret in secrets {
        let key = Key::new(pod.namespace(), &secret.name);
        match host.objects.secret(pod.uid(), &key).await {
            Ok(Some(secret)) => found.extend(credentials::matching(&secret, name)),
            Ok(None) | Err(_) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    secret.name
                );
                host.event(pod, "", EventKind::Warning, "FailedToRetrieveImagePullSecret", message);
            }
        }
    }
    found
}

/// The reference with its tag, `:latest` by default; `None` if it is not one.
pub fn reference(text: &str) -> Option<String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[last..].find(':') {
        Some(colon) => (&rest[..last + colon], Some(&rest[last + colon + 1..])),
        None => (rest, None),
    };
    let is_word = |word: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(word.chars().next())
            && edge(word.chars().next_back())
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
    };
    let mut parts: Vec<&str> = name.split('/').collect();
    // The first part may be a registry: a host, perhaps with a port.
    let registry = parts.len() > 1 && (parts[0].contains(['.', ':']) || parts[0] == "localhost");
    if registry {
        let host = parts.remove(0);
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if host.is_empty() || !host.chars().all(legal) {
            return None;
        }
    }
    let is_tag = |tag: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        (1..=128).contains(&tag.len()) && tag.chars().all(legal) && !tag.starts_with(['.', '-'])
    };
    let is_digest = |digest: &str| {
        digest.split_once(':').is_some_and(|(_, hex)| hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit()))
    };
    let good = parts.iter().all(|part| is_word(part)) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
    good.then(|| if tag.is_none() && digest.is_none() { format!("{text}:latest") } else { text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_get_a_tag() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(reference(text).as_deref(), expected, "{text}");
        check("busybox", Some("busybox:latest"));
        check("busybox:1.36", Some("busybox:1.36"));
        check("r.example:5000/a/b", Some("r.example:5000/a/b:latest"));
        check("localhost:5000/a:v1", Some("localhost:5000/a:v1"));
        let digest = format!("a@sha256:{}", "0".repeat(64));
        check(&digest, Some(&digest));
        check("", None);
        check("Busy", None);
        check("a b", None);
        check("a:", None);
        check("a@x", None);
        check("a//b", None);
    }

    #[test]
    fn policies() {
        assert_eq!(need(Some("Always"), true), Need::Pull);
        assert_eq!(need(Some("Always"), false), Need::Pull);
        assert_eq!(need(Some("IfNotPresent"), true), Need::Present);
        assert_eq!(need(Some("IfNotPresent"), false), Need::Pull);
        assert_eq!(need(None, false), Need::Pull);
        assert_eq!(need(Some("Never"), true), Need::Present);
        assert_eq!(need(Some("Never"), false), Need::Refused);
    }
}
