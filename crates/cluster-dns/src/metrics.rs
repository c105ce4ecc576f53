//! What the server counts, under CoreDNS's names.

use daemon::metrics::{
    Registry,
    prometheus_client::metrics::{counter::Counter, family::Family},
};
use hickory_server::proto::op::ResponseCode;

type Labels = Vec<(&'static str, String)>;

#[derive(Clone)]
pub struct Metrics {
    responses: Family<Labels, Counter>,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self { responses: Family::default() };
        registry.register("coredns_dns_responses", "Answers by code", metrics.responses.clone());
        metrics
    }

    pub fn answered(&self, code: ResponseCode) {
        let name = match code {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::NXDomain => "NXDOMAIN",
            ResponseCode::ServFail => "SERVFAIL",
            ResponseCode::Refused => "REFUSED",
            ResponseCode::FormErr => "FORMERR",
            ResponseCode::NotImp => "NOTIMP",
            _ => "other",
        };
        self.responses.get_or_create(&vec![("rcode", name.to_owned())]).inc();
    }
}
