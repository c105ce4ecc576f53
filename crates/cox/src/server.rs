//! The connection to the apiserver: requests by path, refusals as errors with the server's words.

use anyhow::Context;
use api_types::{ApiError, Resource, k8s::meta::Status};
use futures::{AsyncBufReadExt, Stream, TryStreamExt};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{catalog::Catalog, flags::Global};

/// Ask for the server's own tables, or for whole objects where it has none.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub const JSON: &str = "application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub struct Server {
    pub client: kube::Client,
    pub config: kube::Config,
    /// Where objects are looked for when nothing else is said.
    pub namespace: String,
}

impl Server {
    pub async fn connect(global: &Global) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &global.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).with_context(|| file.display().to_string())?;
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?
            }
            None if global.context.is_some() => kube::Config::from_kubeconfig(&options).await?,
            None => kube::Config::infer().await.context("no cluster is configured: set KUBECONFIG or --kubeconfig")?,
        };
        config.read_timeout = None; // watches and logs may be silent for long
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: kube::Client::try_from(config.clone())?, config, namespace })
    }

    pub async fn catalog(&self) -> anyhow::Result<Catalog> {
        let (core, named) = tokio::try_join!(self.get("/api", DISCOVERY), self.get("/apis", DISCOVERY))?;
        Ok(Catalog::new([core, named]))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str, accept: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_str(&self.send(Method::GET, path, accept, None).await?)?)
    }

    /// None if the object does not exist.
    pub async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path, JSON).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if refusal(&error).is_some_and(ApiError::is_not_found) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn write(&self, method: Method, path: &str, content: &str, body: &Value) -> anyhow::Result<Value> {
        let reply = self.send(method, path, JSON, Some((content, serde_json::to_vec(body)?))).await?;
        Ok(serde_json::from_str(&reply)?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> anyhow::Result<String> {
        let (content, body) = body.unwrap_or((JSON, Vec::new()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Accept", accept)
            .header("Content-Type", content)
            .body(body)?;
        self.client.request_text(request).await.map_err(explain)
    }

    /// The lines of an answer that goes on: a watch, a followed log.
    pub async fn lines(&self, path: &str, accept: &str) -> anyhow::Result<impl Stream<Item = anyhow::Result<String>>> {
        let request = Request::get(path).header("Accept", accept).body(Vec::new())?;
        let reader = self.client.request_stream(request).await.map_err(explain)?;
        Ok(reader.lines().map_err(anyhow::Error::from))
    }

    /// Path of an object, in the command's namespace or the object's own.
    pub fn path(&self, resource: &Resource, namespace: Option<&str>, name: &str) -> String {
        let namespace = namespace.unwrap_or(&self.namespace);
        match name {
            "" => resource.path(namespace),
            name => format!("{}/{name}", resource.path(namespace)),
        }
    }
}

/// The server's refusal behind an error, if it was one.
pub fn refusal(error: &anyhow::Error) -> Option<&ApiError> {
    error.downcast_ref()
}

/// A refusal becomes an [`ApiError`]; anything else keeps its own words.
fn explain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => {
            let status = serde_json::to_value(&*status).and_then(serde_json::from_value::<Status>);
            match status {
                Ok(status) => anyhow::Error::new(ApiError(Box::new(status))),
                Err(error) => error.into(),
            }
        }
        other => anyhow::Error::new(other),
    }
}

/// Escapes a query value.
pub fn query(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (byte as char).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
