//! What the server itself writes into an object's metadata. Pure.

use api_types::{ApiError, Key, Resource};
use serde_json::{Map, Value};

/// Finalizers by which the garbage collector is told what to do with dependents.
pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";

/// The metadata, made an object if it is none.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    let metadata = &mut object["metadata"];
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("made an object above")
}

pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub fn number(object: &Value, field: &str) -> Option<i64> {
    object["metadata"][field].as_i64()
}

pub fn is_terminating(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Sets or, empty, removes the finalizers.
pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let metadata = metadata(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Takes out who owns which field; null if nobody is recorded. That is looked after beside the object until it is
/// stored, so that defaults, validation and what an endpoint keeps of the old object leave it alone.
pub fn take_managed_fields(object: &mut Value) -> Value {
    object
        .get_mut("metadata")
        .and_then(|metadata| metadata.as_object_mut()?.remove("managedFields"))
        .unwrap_or_default()
}

pub fn set_managed_fields(object: &mut Value, managed_fields: Value) {
    if !managed_fields.is_null() {
        metadata(object).insert("managedFields".to_owned(), managed_fields);
    }
}

/// Puts the request's namespace into an object that names none, and refuses another one.
pub fn place(object: &mut Value, resource: &Resource, key: &Key) -> Result<(), ApiError> {
    let namespace = text(object, "namespace");
    if resource.is_namespaced() && namespace.is_empty() {
        metadata(object).insert("namespace".to_owned(), key.namespace.clone().into());
        return Ok(());
    }
    if namespace != key.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Refuses a name that differs from the URL's; fills in an absent one.
pub fn name(object: &mut Value, key: &Key) -> Result<(), ApiError> {
    match text(object, "name") {
        "" => {
            metadata(object).insert("name".to_owned(), key.name.clone().into());
            Ok(())
        }
        name if name == key.name => Ok(()),
        name => Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            key.name
        ))),
    }
}

/// A new object's system fields. `now` is RFC 3339 in whole seconds.
pub fn created(object: &mut Value, uid: &str, now: &str) {
    let metadata = metadata(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), now.into());
}

/// Fields that no client changes are the stored object's, whatever was sent.
pub fn updated(object: &mut Value, old: &Value) {
    let metadata = metadata(object);
    metadata.remove("selfLink");
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match &old["metadata"][field] {
            Value::Null => metadata.remove(field),
            value => metadata.insert(field.to_owned(), value.clone()),
        };
    }
}

/// Marks an object as being deleted. The generation tells controllers that a wish has changed.
pub fn deleted(object: &mut Value, at: &str, grace_s: i64) {
    let is_first = !is_terminating(object);
    let generation = number(object, "generation").filter(|generation| is_first && *generation > 0);
    let metadata = metadata(object);
    metadata.insert("deletionTimestamp".to_owned(), at.into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace_s.into());
    if let Some(generation) = generation {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn system_fields_cannot_be_sent() {
        let mut object = json!({"metadata":{"name":"a","uid":"mine","deletionTimestamp":"x"}});
        created(&mut object, "u", "t");
        assert_eq!(object, json!({"metadata":{"name":"a","uid":"u","creationTimestamp":"t"}}));
        let old = json!({"metadata":{"name":"a","uid":"u","creationTimestamp":"t","generation":3}});
        let mut new = json!({"metadata":{"name":"a","uid":"x","deletionTimestamp":"x","generation":9}});
        updated(&mut new, &old);
        assert_eq!(new, old);
    }

    #[test]
    fn the_first_deletion_counts_as_a_change_of_the_wish() {
        let mut object = json!({"metadata":{"generation":2}});
        deleted(&mut object, "t", 30);
        deleted(&mut object, "t", 5);
        assert_eq!(object["metadata"], json!({"deletionGracePeriodSeconds":5,"deletionTimestamp":"t","generation":3}));
    }

    #[test]
    fn names_and_namespaces_agree_with_the_url() {
        let key = Key::new("n", "a");
        let resource = api_types::resources::BUILT_IN.iter().find(|resource| resource.is_namespaced()).unwrap();
        let mut object = json!({});
        place(&mut object, resource, &key).unwrap();
        name(&mut object, &key).unwrap();
        assert_eq!(object, json!({"metadata":{"name":"a","namespace":"n"}}));
        object["metadata"] = json!({"name":"b","namespace":"m"});
        assert_eq!(place(&mut object, resource, &key).unwrap_err().code(), 400);
        assert_eq!(
            name(&mut object, &key).unwrap_err().message(),
            "the name of the object (b) does not match the name on the URL (a)"
        );
    }
}
