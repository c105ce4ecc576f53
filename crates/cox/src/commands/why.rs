//! `cox why`: asks the scheduler, the controller-manager and the object's kubelet for the
//! reasons of their deciders. Each is found through the API and asked over mutual TLS.

use std::sync::Arc;

use anyhow::Context;
use api_types::Resource;
use diagnosis::{ADDRESS_ANNOTATION, ExplainRequest, ObjectReference, diagnosis_client::DiagnosisClient};
use hyper_util::rt::TokioIo;
use kube::client::ConfigExt;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{
    flags::Why,
    output,
    server::{JSON, Server},
    target,
};

/// Daemons that say in their Lease where they answer.
const LEADERS: &[&str] = &["kube-scheduler", "kube-controller-manager"];

pub async fn run(server: &Server, flags: Why) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    let (resource, name) = target::one(&catalog, &flags.target)?;
    let object: Value = server.get(&server.path(resource, None, &name), JSON).await?;
    println!("{}{}", output::reference(resource, &name), state(&object));

    let mut said = 0;
    let question = question(resource, &object);
    for (daemon, address) in daemons(server, &object).await? {
        match ask(server, &address, question.clone()).await {
            Ok(reasons) => {
                said += reasons.len();
                reasons.iter().for_each(|reason| println!("  {daemon:<24} {}: {}", reason.code, reason.message));
            }
            Err(error) => eprintln!("  {daemon} at {address} does not answer: {error:#}"),
        }
    }
    if said == 0 {
        println!("  no daemon has anything to say about it");
    }
    Ok(())
}

/// What the object itself says of its state.
fn state(object: &Value) -> String {
    let phase = object["status"]["phase"].as_str().map(|phase| format!(" is {phase}")).unwrap_or_default();
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let false_ones = conditions.filter(|one| one["status"] == "False").filter_map(|one| one["type"].as_str());
    let missing: Vec<&str> = false_ones.collect();
    match missing.is_empty() {
        true => phase,
        false => format!("{phase}; not {}", missing.join(", not ")),
    }
}

fn question(resource: &Resource, object: &Value) -> ObjectReference {
    ObjectReference {
        group: resource.group.to_string(),
        resource: resource.plural.to_string(),
        namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        name: output::name(object).to_owned(),
    }
}

/// Who may know, and where they answer: `(name, host:port)`.
async fn daemons(server: &Server, object: &Value) -> anyhow::Result<Vec<(String, String)>> {
    let mut daemons = Vec::new();
    for leader in LEADERS {
        let lease =
            server.find(&format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{leader}")).await?;
        let address =
            lease.and_then(|lease| lease["metadata"]["annotations"][ADDRESS_ANNOTATION].as_str().map(str::to_owned));
        daemons.extend(address.map(|address| ((*leader).to_owned(), address)));
    }
    if let Some(node) = object["spec"]["nodeName"].as_str()
        && let Some(node) = server.find(&format!("/api/v1/nodes/{node}")).await?
    {
        daemons.extend(kubelet(&node).map(|address| ("kubelet".to_owned(), address)));
    }
    Ok(daemons)
}

fn kubelet(node: &Value) -> Option<String> {
    let addresses = node["status"]["addresses"].as_array()?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP")?["address"].as_str()?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    Some(format!("{internal}:{port}"))
}

async fn ask(server: &Server, address: &str, object: ObjectReference) -> anyhow::Result<Vec<diagnosis::Reason>> {
    let mut client = DiagnosisClient::new(connect(server, address).await?);
    let reply = client.explain(ExplainRequest { object: Some(object) }).await?;
    Ok(reply.into_inner().reasons)
}

/// A channel that shows the kubeconfig's certificate and trusts its CA.
async fn connect(server: &Server, address: &str) -> anyhow::Result<Channel> {
    let mut tls = server.config.rustls_client_config()?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(tls));
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).context("not a host name or address")?;
    let target = address.to_owned();
    // "http": the connector below already speaks TLS.
    let channel =
        Endpoint::from_shared(format!("http://{address}"))?
            .connect_with_connector(tower::service_fn(move |_| {
                let (tls, name, target) = (tls.clone(), name.clone(), target.clone());
                async move {
                    Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, TcpStream::connect(target).await?).await?))
                }
            }))
            .await?;
    Ok(channel)
}
