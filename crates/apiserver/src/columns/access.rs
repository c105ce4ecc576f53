//! Who may do what, and what checks requests.

use serde_json::Value;

use super::{
    AGE,
    About::{Field, Words},
    NAME, Spec, duration, integer, text,
    view::View,
    wide,
};

const USERS: Spec = wide("Users", Words("Users that the role is bound to."));
const GROUPS: Spec = wide("Groups", Words("Groups that the role is bound to."));
const SERVICE_ACCOUNTS: Spec = wide("ServiceAccounts", Words("Service accounts that the role is bound to."));

pub const ROLE_BINDING: &[Spec] =
    &[NAME, text("Role", Field("rbac.v1.RoleBinding", "roleRef")), AGE, USERS, GROUPS, SERVICE_ACCOUNTS];
pub const CLUSTER_ROLE_BINDING: &[Spec] =
    &[NAME, text("Role", Field("rbac.v1.ClusterRoleBinding", "roleRef")), AGE, USERS, GROUPS, SERVICE_ACCOUNTS];

pub fn role_binding(binding: &View) -> Vec<Value> {
    let subjects = |kind: &str| {
        let of_kind = binding.items("/subjects").filter(|subject| subject.text("/kind") == kind);
        let names = of_kind.map(|subject| match subject.text("/namespace") {
            namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                format!("{namespace}/{}", subject.text("/name"))
            }
            _ => subject.text("/name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    let role = format!("{}/{}", binding.text("/roleRef/kind"), binding.text("/roleRef/name"));
    vec![binding.name(), role.into(), binding.age(), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

pub const SIGNING_REQUEST: &[Spec] = &[
    NAME,
    AGE,
    text("SignerName", Field("certificates.v1.CertificateSigningRequestSpec", "signerName")),
    text("Requestor", Field("certificates.v1.CertificateSigningRequestSpec", "username")),
    text("RequestedDuration", Field("certificates.v1.CertificateSigningRequestSpec", "expirationSeconds")),
    text("Condition", Field("certificates.v1.CertificateSigningRequestStatus", "conditions")),
];

pub fn signing_request(request: &View) -> Vec<Value> {
    let lasts = request.get("/spec/expirationSeconds").and_then(Value::as_i64);
    let lasts = lasts.map_or_else(|| "<none>".to_owned(), duration::human);
    let has = |condition: &str| request.items("/status/conditions").any(|c| c.text("/type") == condition);
    let mut condition = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !request.text("/status/certificate").is_empty() {
        condition.push_str(",Issued");
    }
    vec![
        request.name(),
        request.age(),
        request.text_or("/spec/signerName", "<none>").into(),
        request.text("/spec/username").into(),
        lasts.into(),
        condition.into(),
    ]
}

const WEBHOOKS: Spec = integer("Webhooks", Words("How many webhooks are called."));
pub const MUTATING_WEBHOOKS: &[Spec] = &[NAME, WEBHOOKS, AGE];
pub const VALIDATING_WEBHOOKS: &[Spec] = &[NAME, WEBHOOKS, AGE];

pub fn webhooks(configuration: &View) -> Vec<Value> {
    vec![configuration.name(), configuration.count("/webhooks").into(), configuration.age()]
}

const PARAM_KIND: Spec = text("ParamKind", Words("The kind of the policy's parameters."));
pub const VALIDATING_POLICY: &[Spec] =
    &[NAME, integer("Validations", Words("How many validations the policy has.")), PARAM_KIND, AGE];
pub const MUTATING_POLICY: &[Spec] =
    &[NAME, integer("Mutations", Words("How many mutations the policy has.")), PARAM_KIND, AGE];

pub fn validating_policy(policy: &View) -> Vec<Value> {
    vec![policy.name(), policy.count("/spec/validations").into(), param_kind(policy).into(), policy.age()]
}

pub fn mutating_policy(policy: &View) -> Vec<Value> {
    vec![policy.name(), policy.count("/spec/mutations").into(), param_kind(policy).into(), policy.age()]
}

fn param_kind(policy: &View) -> String {
    match policy.has("/spec/paramKind") {
        true => format!("{}/{}", policy.text("/spec/paramKind/apiVersion"), policy.text("/spec/paramKind/kind")),
        false => "<unset>".to_owned(),
    }
}

const POLICY_NAME: Spec = text("PolicyName", Words("The policy that is bound."));
const PARAM_REF: Spec = text("ParamRef", Words("The parameters that the policy is bound with."));
pub const VALIDATING_POLICY_BINDING: &[Spec] = &[NAME, POLICY_NAME, PARAM_REF, AGE];
pub const MUTATING_POLICY_BINDING: &[Spec] = &[NAME, POLICY_NAME, PARAM_REF, AGE];

pub fn policy_binding(binding: &View) -> Vec<Value> {
    let name = binding.text("/spec/paramRef/name");
    let parameters = if !name.is_empty() {
        format!("{}/{name}", binding.text_or("/spec/paramRef/namespace", "*"))
    } else if binding.has("/spec/paramRef/selector") {
        binding.selector("/spec/paramRef/selector", "<none>")
    } else {
        "<unset>".to_owned()
    };
    vec![binding.name(), binding.text("/spec/policyName").into(), parameters.into(), binding.age()]
}
