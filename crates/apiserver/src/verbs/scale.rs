//! The scale subresource: a small view of any object that has replicas and a selector.

use api_types::{
    ApiError, Verb,
    k8s::meta::LabelSelector,
    labels::Selector,
    options::{GetOptions, WriteOptions},
};
use bytes::Bytes;
use http::{Response, StatusCode};
use merge::apply::Owners;
use serde_json::{Value, json};

use super::{Ask, create::Written, meta, patch::Patch, update::Changed};
use crate::{
    audit,
    codec::{
        accept::Shapes,
        body::Body,
        decode::{self, Decoded},
        reply,
    },
};

pub(super) const KIND: (&str, &str, &str) = ("autoscaling", "v1", "Scale");

pub(super) async fn answer(ask: &Ask, verb: Verb, body: Bytes) -> Result<Response<Body>, ApiError> {
    let accepted = ask.accepted(Shapes::ObjectOnly)?;
    let written = match verb {
        Verb::Update => {
            let options = WriteOptions::for_update(&ask.query)?;
            let format = decode::format(&ask.headers)?;
            let Decoded { object: scale, warnings } = decode::typed(&body, format, KIND, options.field_validation)?;
            audit::note(|notes| notes.sent(&scale));
            let change = |old: &Value| {
                let owners = ask.owners_of_scale(old, &of(old), &scale);
                changed(ask, old, scale.clone(), owners)
            };
            let mut written = ask.update(&change, &options).await?;
            written.warnings.splice(..0, warnings);
            written
        }
        Verb::Patch => {
            audit::note(|notes| notes.patch(&body));
            let patch = Patch::parse(decode::media_type(&ask.headers), body, KIND)?;
            let options = patch.options(&ask.query)?;
            let validation = options.write.field_validation;
            let change = |old: &Value| {
                let (scale, owners) = match &patch {
                    Patch::Apply(config) => {
                        let force = options.force == Some(true);
                        ask.applied_scale(old, of(old), &config.value, force)?
                    }
                    Patch::Edit(edit) => {
                        let scale = edit.apply(&of(old), KIND)?;
                        let owners = ask.owners_of_scale(old, &of(old), &scale);
                        (scale, owners)
                    }
                };
                let Decoded { object: scale, mut warnings } = decode::checked(scale, Vec::new(), KIND, validation)?;
                if let Patch::Apply(config) = &patch {
                    warnings.extend(config.warnings(validation)?);
                }
                Ok(Changed { warnings, ..changed(ask, old, scale, owners)? })
            };
            ask.update(&change, &options.write).await?
        }
        _ => {
            let item = ask.read(&GetOptions::from_query(&ask.query)).await?;
            Written { item, is_created: false, warnings: Vec::new() }
        }
    };
    let mut response = reply::value(StatusCode::OK, &accepted, &of(&written.item.value()));
    reply::warn(&mut response, &written.warnings);
    Ok(response)
}

/// The Scale of an object.
pub(super) fn of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {},
        "spec": {}, "status": { "replicas": object["status"]["replicas"].as_i64().unwrap_or(0) },
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !metadata[field].is_null() {
            scale["metadata"][field] = metadata[field].clone();
        }
    }
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    if let Some(selector) = selector(&object["spec"]["selector"]) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// In the text form; a selector is a plain map in the oldest kinds.
fn selector(selector: &Value) -> Option<String> {
    let fields = selector.as_object()?;
    let is_plain = fields.values().all(Value::is_string);
    let selector = if is_plain { json!({ "matchLabels": fields }) } else { selector.clone() };
    let selector: LabelSelector = serde_json::from_value(selector).ok()?;
    Some(Selector::from(&selector).to_string())
}

/// The object with what `scale` says.
fn changed(ask: &Ask, old: &Value, scale: Value, owners: Owners) -> Result<Changed, ApiError> {
    ask.check_identity(&scale)?;
    let mut object = old.clone();
    for field in ["uid", "resourceVersion"] {
        let value = scale["metadata"][field].clone();
        let metadata = meta::metadata(&mut object);
        if value.is_null() {
            metadata.remove(field);
        } else {
            metadata.insert(field.to_owned(), value);
        }
    }
    object["spec"]["replicas"] = scale["spec"]["replicas"].as_i64().unwrap_or(0).into();
    Ok(Changed { owners: Some(owners), ..Changed::new(object) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_with_replicas_has_a_scale() {
        for (selector, expected) in [
            (json!({"matchLabels": {"a": "b"}}), Some("a=b")),
            (json!({"a": "b", "c": "d"}), Some("a=b,c=d")),
            (Value::Null, None),
        ] {
            let object = json!({"metadata": {"name": "n", "resourceVersion": "5", "labels": {}},
                "spec": {"replicas": 3, "selector": selector}, "status": {"replicas": 2}});
            let scale = of(&object);
            assert_eq!(scale["metadata"], json!({"name": "n", "resourceVersion": "5"}));
            assert_eq!((scale["spec"]["replicas"].as_i64(), scale["status"]["replicas"].as_i64()), (Some(3), Some(2)));
            assert_eq!(scale["status"]["selector"].as_str(), expected);
        }
    }
}
