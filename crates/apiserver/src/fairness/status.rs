//! What priority and fairness does by itself: seats move between levels every few seconds, and each schema's status
//! says whether its level exists.

use std::sync::Arc;

use api_types::{ApiError, Key, Object, k8s::flowcontrol::FlowSchema, options::WriteOptions};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{ADJUSTMENT_PERIOD, Fairness};
use crate::{
    server::Server,
    verbs::{Changed, create::now},
};

const CONDITION: &str = "Dangling";

/// What a schema's status says of its level. `None`: nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dangling(Option<bool>);

impl Dangling {
    pub fn read(schema: &FlowSchema) -> Self {
        let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_ref());
        let condition =
            conditions.into_iter().flatten().find(|condition| condition.type_.as_deref() == Some(CONDITION));
        Self(condition.map(|condition| condition.status.as_deref() == Some("True")))
    }
}

/// Adjusts and writes statuses until the server stops.
pub async fn run(server: Arc<Server>, fairness: Arc<Fairness>) {
    let mut ticks = interval(ADJUSTMENT_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            _ = ticks.tick() => fairness.adjust(),
            () = fairness.changed.notified() => {}
        }
        // What cannot be written now is tried again with the next tick.
        for (name, level, is_dangling) in fairness.wrong_statuses() {
            if let Err(why) = write(&server, &name, &level, is_dangling).await {
                tracing::info!(schema = name, %why, "a flow schema's status is not written");
            }
        }
    }
}

impl Fairness {
    /// Schemas whose status is not so, the name of their level, and how it is.
    fn wrong_statuses(&self) -> Vec<(String, String, bool)> {
        let objects = self.objects.lock();
        let wrong = objects.schemas.values().filter_map(|(schema, said)| {
            let is_dangling = !objects.levels.contains_key(&schema.level);
            (*said != Dangling(Some(is_dangling))).then(|| (schema.name.clone(), schema.level.clone(), is_dangling))
        });
        wrong.collect()
    }
}

async fn write(server: &Arc<Server>, name: &str, level: &str, is_dangling: bool) -> Result<(), ApiError> {
    let mut ask = server.own(FlowSchema::RESOURCE, Key::cluster(name))?;
    ask.subresource = "status".to_owned();
    let change = |old: &Value| {
        let mut object = old.clone();
        put(&mut object, condition(level, is_dangling));
        Ok(Changed::new(object))
    };
    match ask.update(&change, &WriteOptions::default()).await {
        // It has gone meanwhile.
        Err(refusal) if refusal.code() == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

fn condition(level: &str, is_dangling: bool) -> Value {
    let (status, reason, rest) = if is_dangling {
        ("True", "NotFound", "but there is no such object")
    } else {
        ("False", "Found", "and it exists")
    };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}");
    json!({"type": CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()})
}

/// Conditions of other types are somebody else's.
fn put(object: &mut Value, condition: Value) {
    let conditions = &mut object["status"]["conditions"];
    let mut kept: Vec<Value> = conditions.as_array().cloned().unwrap_or_default();
    kept.retain(|found| found["type"] != CONDITION);
    kept.push(condition);
    *conditions = kept.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_whether_its_level_exists() {
        let mut schema = json!({"metadata": {"name": "s"}, "status": {"conditions": [{"type": "Other"}]}});
        let said = |schema: &Value| Dangling::read(&serde_json::from_value(schema.clone()).unwrap());
        assert_eq!(said(&schema), Dangling(None));
        for is_dangling in [true, false] {
            put(&mut schema, condition("l", is_dangling));
            assert_eq!(said(&schema), Dangling(Some(is_dangling)));
            assert_eq!(schema["status"]["conditions"].as_array().map(Vec::len), Some(2));
        }
        assert!(schema.to_string().contains(r#"object named \"l\" and it exists"#));
    }
}
