//! `cox apply`: files, the object's last applied form and what is there, merged and written.

use anyhow::Context;
use api_types::{ApiError, Resource};
use http::Method;
use serde_json::Value;

use crate::{
    apply::{LAST_APPLIED, merge},
    catalog::Catalog,
    flags::Apply,
    manifest, output,
    server::{JSON, Server, refusal},
};

/// A lost race is tried again this often: others write too.
const ATTEMPTS_MAX: u32 = 5;
/// As whom server-side apply owns fields.
const FIELD_MANAGER: &str = "cox";
const APPLY: &str = "application/apply-patch+yaml";

pub async fn run(server: &Server, flags: Apply) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    for object in manifest::read(&flags.files.files)? {
        let resource = resource_of(&catalog, &object)?;
        let name = output::name(&object).to_owned();
        let done = match flags.server_side {
            true => server_side(server, resource, object, flags.force_conflicts).await,
            false => one(server, resource, object).await,
        };
        let done = done.with_context(|| output::reference(resource, &name))?;
        println!("{} {done}", output::reference(resource, &name));
    }
    Ok(())
}

pub fn resource_of<'a>(catalog: &'a Catalog, object: &Value) -> anyhow::Result<&'a Resource> {
    let part = |key: &str| object[key].as_str().unwrap_or_default();
    let (api_version, kind) = (part("apiVersion"), part("kind"));
    catalog.of(api_version, kind).with_context(|| format!("the server serves no {kind} of {api_version}"))
}

/// In which namespace an object of a file belongs.
pub fn namespace_of<'a>(server: &'a Server, object: &'a Value) -> &'a str {
    object["metadata"]["namespace"].as_str().unwrap_or(&server.namespace)
}

async fn server_side(server: &Server, resource: &Resource, object: Value, force: bool) -> anyhow::Result<&'static str> {
    let namespace = namespace_of(server, &object).to_owned();
    let path = server.path(resource, Some(&namespace), output::name(&object));
    let path = format!("{path}?fieldManager={FIELD_MANAGER}&force={force}");
    server.write(Method::PATCH, &path, APPLY, &object).await?;
    Ok("serverside-applied")
}

async fn one(server: &Server, resource: &Resource, object: Value) -> anyhow::Result<&'static str> {
    let namespace = namespace_of(server, &object).to_owned();
    let name = output::name(&object).to_owned();
    let path = server.path(resource, Some(&namespace), &name);
    let wanted = annotated(object)?;
    for _ in 0..ATTEMPTS_MAX {
        let outcome = match server.find(&path).await? {
            None => {
                let collection = server.path(resource, Some(&namespace), "");
                server.write(Method::POST, &collection, JSON, &wanted).await.map(|_| "created")
            }
            Some(live) => {
                let target = merge(&last_applied(&live), &wanted, &live);
                if target == live {
                    return Ok("unchanged");
                }
                server.write(Method::PUT, &path, JSON, &target).await.map(|_| "configured")
            }
        };
        match outcome {
            Err(error) if refusal(&error).is_some_and(lost_race) => continue,
            done => return done,
        }
    }
    anyhow::bail!("others wrote it {ATTEMPTS_MAX} times in between; try again")
}

fn lost_race(refusal: &ApiError) -> bool {
    refusal.is_conflict() || refusal.is_already_exists()
}

/// The object with itself in its annotation, for the next time.
fn annotated(mut object: Value) -> anyhow::Result<Value> {
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = serde_json::to_string(&object)? + "\n";
    object["metadata"]["annotations"][LAST_APPLIED] = text.into();
    Ok(object)
}

fn last_applied(live: &Value) -> Value {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}
