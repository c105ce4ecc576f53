//! `--authentication-config`: issuers of JSON web tokens and what of a claim becomes what of a user,
//! and which paths answer without credentials. Read strictly: a field that is not known is an error.
//!
//! Source: apiserver/pkg/apis/apiserver/{types,validation}.go.

use std::collections::BTreeSet;

use http::Uri;
use serde::Deserialize;
use serde_json::Value;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const KIND: &str = "AuthenticationConfiguration";
const ISSUERS_MAX: usize = 64;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Configuration {
    api_version: String,
    kind: String,
    pub jwt: Vec<Jwt>,
    pub anonymous: Option<Anonymous>,
}

/// One issuer, and how its tokens are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Jwt {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimRule>,
    pub claim_mappings: Mappings,
    pub user_validation_rules: Vec<UserRule>,
    /// Names of signature algorithms; empty: every asymmetric one.
    #[serde(skip)]
    pub algorithms: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Issuer {
    /// As in the claim `iss`.
    pub url: String,
    /// Where the discovery document is, if not under `url`.
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    /// PEM; empty: the authorities of the machine.
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
}

/// A claim must have a value, or an expression must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Mappings {
    pub username: Mapping,
    pub groups: Mapping,
    pub uid: Mapping,
    pub extra: Vec<Extra>,
}

/// A claim with a prefix before its value, or an expression over all claims.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Mapping {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Extra {
    pub key: String,
    pub value_expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Anonymous {
    pub enabled: bool,
    /// Paths that admit the anonymous; none: all do, and authorisation decides.
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Condition {
    pub path: String,
}

/// What is wrong with a file, all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ConfigurationError(pub Vec<String>);

impl Configuration {
    /// `own_issuers` make ServiceAccount tokens, so nobody else may.
    pub fn parse(yaml: &str, own_issuers: &[String]) -> Result<Self, ConfigurationError> {
        let alone = |why: String| ConfigurationError(vec![why]);
        // Through a Value, which refuses what is no tree of JSON, such as a key that stands twice.
        let value: Value = serde_saphyr::from_str(yaml).map_err(|error| alone(error.to_string()))?;
        let parsed: Self = serde_json::from_value(value).map_err(|error| alone(error.to_string()))?;
        if !VERSIONS.contains(&parsed.api_version.as_str()) || parsed.kind != KIND {
            let found = format!("{:?} {:?}", parsed.api_version, parsed.kind);
            return Err(alone(format!("{found} is no {KIND} of {}", VERSIONS.join(", "))));
        }
        let errors = parsed.errors(own_issuers);
        if errors.is_empty() { Ok(parsed) } else { Err(ConfigurationError(errors)) }
    }

    fn errors(&self, own_issuers: &[String]) -> Vec<String> {
        let mut errors = Vec::new();
        if self.jwt.len() > ISSUERS_MAX {
            errors.push(format!("jwt: Too many: {}: must have at most {ISSUERS_MAX} items", self.jwt.len()));
        }
        let mut seen = BTreeSet::new();
        for (index, jwt) in self.jwt.iter().enumerate() {
            let place = format!("jwt[{index}]");
            jwt.check(&mut |field, why| errors.push(format!("{place}.{field}: {why}")));
            let url = &jwt.issuer.url;
            if own_issuers.contains(url) {
                errors.push(format!("{place}.issuer.url: Invalid value: {url:?}: URL must not overlap with disallowed issuers: {own_issuers:?}"));
            }
            if !seen.insert(url) {
                errors.push(format!("{place}.issuer.url: Duplicate value: {url:?}"));
            }
        }
        if let Some(anonymous) = &self.anonymous
            && !anonymous.enabled
            && !anonymous.conditions.is_empty()
        {
            errors.push(
                "anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined"
                    .to_owned(),
            );
        }
        errors
    }
}

impl Jwt {
    /// Also for an issuer that the `--oidc-*` flags describe.
    pub fn check(&self, wrong: &mut dyn FnMut(&str, &str)) {
        self.check_issuer(wrong);
        self.check_expressions(wrong);
        for rule in &self.claim_validation_rules {
            match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (true, true) => wrong("claimValidationRules", "Required value: claim or expression is required"),
                (false, false) => {
                    wrong("claimValidationRules", "Invalid value: claim and expression can't both be set")
                }
                (false, true) if !rule.message.is_empty() => {
                    wrong("claimValidationRules.message", "Invalid value: may not be specified when claim is set");
                }
                (true, false) if !rule.required_value.is_empty() => {
                    wrong(
                        "claimValidationRules.requiredValue",
                        "Invalid value: may not be specified when expression is set",
                    );
                }
                (false, true) | (true, false) => {}
            }
        }
        let mappings = &self.claim_mappings;
        for (field, mapping, is_required) in
            [("claimMappings.username", &mappings.username, true), ("claimMappings.groups", &mappings.groups, false)]
        {
            match (mapping.claim.is_empty(), mapping.expression.is_empty()) {
                (true, true) if is_required => wrong(field, "Required value: claim or expression is required"),
                (false, false) => wrong(field, "Invalid value: claim and expression can't both be set"),
                (false, true) if mapping.prefix.is_none() => wrong(
                    field,
                    "Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
                ),
                (true, _) if mapping.prefix.is_some() => {
                    wrong(field, "Invalid value: prefix can't be set without a claim")
                }
                _ => {}
            }
        }
        if !mappings.uid.claim.is_empty() && !mappings.uid.expression.is_empty() {
            wrong("claimMappings.uid", "Invalid value: claim and expression can't both be set");
        }
        for extra in &mappings.extra {
            let domain = extra.key.split_once('/').map(|(domain, _)| domain).unwrap_or_default();
            let is_reserved = ["k8s.io", "kubernetes.io"]
                .iter()
                .any(|own| domain.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
            if domain.is_empty() {
                wrong(
                    "claimMappings.extra.key",
                    "Invalid value: must be a domain-prefixed path (such as \"acme.io/foo\")",
                );
            } else if extra.key != extra.key.to_lowercase() {
                wrong("claimMappings.extra.key", "Invalid value: must be lowercase");
            } else if is_reserved {
                wrong(
                    "claimMappings.extra.key",
                    "Invalid value: k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use",
                );
            }
            if extra.value_expression.is_empty() {
                wrong("claimMappings.extra.valueExpression", "Required value");
            }
        }
    }

    /// Expressions are not evaluated here, and a rule that is not evaluated would let in whom it is to keep out.
    fn check_expressions(&self, wrong: &mut dyn FnMut(&str, &str)) {
        const WHY: &str = "Forbidden: CEL expressions are not supported by this server, use claims";
        let mappings = &self.claim_mappings;
        let is_used = [
            (
                "claimValidationRules.expression",
                self.claim_validation_rules.iter().any(|rule| !rule.expression.is_empty()),
            ),
            ("userValidationRules", !self.user_validation_rules.is_empty()),
            ("claimMappings.username.expression", !mappings.username.expression.is_empty()),
            ("claimMappings.groups.expression", !mappings.groups.expression.is_empty()),
            ("claimMappings.uid.expression", !mappings.uid.expression.is_empty()),
            ("claimMappings.extra", !mappings.extra.is_empty()),
        ];
        is_used.into_iter().filter(|(_, is_used)| *is_used).for_each(|(field, _)| wrong(field, WHY));
    }

    fn check_issuer(&self, wrong: &mut dyn FnMut(&str, &str)) {
        let issuer = &self.issuer;
        for (field, url, is_required) in
            [("issuer.url", &issuer.url, true), ("issuer.discoveryURL", &issuer.discovery_url, false)]
        {
            match url.parse::<Uri>() {
                _ if url.is_empty() && !is_required => {}
                _ if url.is_empty() => wrong(field, "Required value"),
                Err(_) => wrong(field, "Invalid value: not a URL"),
                Ok(uri) if uri.scheme_str() != Some("https") => wrong(field, "Invalid value: URL scheme must be https"),
                Ok(uri) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                    wrong(field, "Invalid value: URL must not contain a username or password");
                }
                Ok(uri) if uri.query().is_some() => wrong(field, "Invalid value: URL must not contain a query"),
                Ok(_) if url.contains('#') => wrong(field, "Invalid value: URL must not contain a fragment"),
                Ok(_) => {}
            }
        }
        let trimmed = |url: &str| url.trim_end_matches('/').to_owned();
        if !issuer.discovery_url.is_empty() && trimmed(&issuer.url) == trimmed(&issuer.discovery_url) {
            wrong("issuer.discoveryURL", "Invalid value: discoveryURL must be different from URL");
        }
        if issuer.audiences.is_empty() {
            wrong("issuer.audiences", "Required value: at least one audience is required");
        }
        if issuer.audiences.iter().any(String::is_empty) {
            wrong("issuer.audiences", "Required value");
        }
        match (issuer.audiences.len(), issuer.audience_match_policy.as_str()) {
            (0 | 1, "" | "MatchAny") | (_, "MatchAny") => {}
            _ => wrong(
                "issuer.audienceMatchPolicy",
                "Invalid value: audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer: {url: https://idp.example, audiences: [k]}
  claimMappings:
    username: {claim: sub, prefix: 'idp:'}
anonymous: {enabled: true, conditions: [{path: /livez}]}
";

    #[test]
    fn a_good_file() {
        let parsed = Configuration::parse(GOOD, &[]).expect("parses");
        assert_eq!(parsed.jwt[0].claim_mappings.username.prefix.as_deref(), Some("idp:"));
        assert_eq!(parsed.anonymous.expect("given").conditions[0].path, "/livez");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            ("/v1\n", "/v9\n", "is no AuthenticationConfiguration"),
            ("audiences: [k]", "audience: k", "unknown field `audience`"),
            ("https://idp", "http://idp", "jwt[0].issuer.url: Invalid value: URL scheme must be https"),
            ("idp.example", "own", "jwt[0].issuer.url: Invalid value: \"https://own\": URL must not overlap"),
            ("https://idp", "https://me:pw@idp", "must not contain a username"),
            ("audiences: [k]", "audiences: []", "at least one audience"),
            ("audiences: [k]", "audiences: [k, l]", "audienceMatchPolicy must be MatchAny"),
            (", prefix: 'idp:'", "", "prefix is required when claim is set"),
            ("claim: sub, prefix: 'idp:'", "claim: sub, expression: x", "can't both be set"),
            (
                "{claim: sub, prefix: 'idp:'}",
                "{expression: claims.sub}",
                "claimMappings.username.expression: Forbidden",
            ),
            (
                "  claimMappings:",
                "  userValidationRules: [{expression: x}]\n  claimMappings:",
                "userValidationRules: Forbidden",
            ),
            (
                "  claimMappings:",
                "  claimValidationRules: [{expression: x}]\n  claimMappings:",
                "Rules.expression: Forbidden",
            ),
            ("enabled: true", "enabled: false", "enabled should be set to true"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let error = Configuration::parse(&text, &["https://own".to_owned()]).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
        let twice = format!("{GOOD}jwt: []\n");
        assert!(Configuration::parse(&twice, &[]).is_err(), "a key twice");
    }
}
