//! The options of a request, read from its query and checked with upstream's refusals.
//!
//! Source: apimachinery/pkg/apis/meta/v1/validation and pkg/apis/meta/internalversion/validation.

use crate::{
    fields::FieldSelector,
    k8s::meta::DeleteOptions,
    labels::Selector,
    status::{ApiError, FieldError},
};

/// The group that upstream names in refusals of options.
const META_GROUP: &str = "meta.k8s.io";
const FIELD_MANAGER_MAX: usize = 128;
const PROPAGATION_POLICIES: [&str; 3] = ["Foreground", "Background", "Orphan"];

/// A URL's query, decoded, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=1&b=%20`; malformed escapes stay as they are.
    pub fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }
    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    /// The first value of `name`, or `""`.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
    /// Anything but `false` and `0` is true, also nothing (`?watch`).
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| !(value.eq_ignore_ascii_case("false") || value == "0"))
    }
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let refusal = || ApiError::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"));
        value.parse().map(Some).map_err(|_| refusal())
    }
}

/// Decodes `+` and `%xx`.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = || {
            let digits = text.get(i + 1..i + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
            u8::from_str_radix(digits, 16).ok()
        };
        match bytes[i] {
            b'+' => plain.push(b' '),
            b'%' => match escaped() {
                Some(byte) => {
                    plain.push(byte);
                    i += 2;
                }
                None => plain.push(b'%'),
            },
            byte => plain.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GetOptions {
    pub resource_version: String,
}

impl GetOptions {
    pub fn from_query(query: &Query) -> Self {
        Self { resource_version: query.text("resourceVersion").to_owned() }
    }
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    pub label_selector: Selector,
    pub field_selector: FieldSelector,
    pub watch: bool,
    pub allow_watch_bookmarks: bool,
    pub resource_version: String,
    pub resource_version_match: Option<ResourceVersionMatch>,
    pub timeout_s: Option<i64>,
    /// 0: no limit.
    pub limit: i64,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceVersionMatch {
    Exact,
    NotOlderThan,
}

impl ListOptions {
    pub fn from_query(query: &Query) -> Result<Self, ApiError> {
        let refuse = |error: &dyn std::fmt::Display| ApiError::bad_request(error.to_string());
        let selector = Selector::parse(query.get("labelSelector").unwrap_or_default());
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default());
        let options = Self {
            label_selector: selector.map_err(|error| refuse(&error))?,
            field_selector: fields.map_err(|error| refuse(&error))?,
            watch: query.flag("watch").unwrap_or_default(),
            allow_watch_bookmarks: query.flag("allowWatchBookmarks").unwrap_or_default(),
            resource_version: query.text("resourceVersion").to_owned(),
            resource_version_match: match query.get("resourceVersionMatch") {
                Some("Exact") => Some(ResourceVersionMatch::Exact),
                Some("NotOlderThan") => Some(ResourceVersionMatch::NotOlderThan),
                _ => None,
            },
            timeout_s: query.number("timeoutSeconds")?,
            limit: query.number("limit")?.unwrap_or(0).max(0),
            continue_token: query.text("continue").to_owned(),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        let match_ = query.get("resourceVersionMatch").unwrap_or_default();
        let errors = if options.watch { options.watch_errors(match_) } else { options.list_errors(match_) };
        refuse_if_any("ListOptions", &errors)?;
        Ok(options)
    }

    fn list_errors(&self, match_: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut forbid = |why: &str| errors.push(FieldError::forbidden("resourceVersionMatch", why));
        if !match_.is_empty() {
            if self.resource_version.is_empty() {
                forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            if match_ == "Exact" && self.resource_version == "0" {
                forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
            if self.resource_version_match.is_none() {
                let supported = ["Exact", "NotOlderThan", ""];
                errors.push(FieldError::not_supported("resourceVersionMatch", match_, &supported));
            }
        }
        if self.send_initial_events.is_some() {
            errors.push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        errors
    }

    fn watch_errors(&self, match_: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut forbid = |why: &str| errors.push(FieldError::forbidden("resourceVersionMatch", why));
        let not_older = self.resource_version_match == Some(ResourceVersionMatch::NotOlderThan);
        if self.send_initial_events.is_some() && !not_older {
            forbid("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !match_.is_empty() {
            if self.send_initial_events.is_none() {
                forbid("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
            }
            if !self.continue_token.is_empty() {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            if !not_older {
                errors.push(FieldError::not_supported("resourceVersionMatch", match_, &["NotOlderThan"]));
            }
        }
        errors
    }
}

/// What to do with fields that the kind does not have, or has twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Options that every write has: create and update have no others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// Empty: derived from the user agent.
    pub field_manager: String,
    pub field_validation: FieldValidation,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchOptions {
    pub write: WriteOptions,
    pub force: Option<bool>,
}

/// Whether a patch is a server-side apply, which has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Apply,
    Other,
}

impl WriteOptions {
    pub fn for_create(query: &Query) -> Result<Self, ApiError> {
        let (options, errors) = Self::read(query);
        refuse_if_any("CreateOptions", &errors)?;
        Ok(options)
    }
    pub fn for_update(query: &Query) -> Result<Self, ApiError> {
        let (options, errors) = Self::read(query);
        refuse_if_any("UpdateOptions", &errors)?;
        Ok(options)
    }

    fn read(query: &Query) -> (Self, Vec<FieldError>) {
        let dry_run: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
        let field_manager = query.text("fieldManager").to_owned();
        let mut errors = field_manager_errors(&field_manager);
        errors.extend(dry_run_errors(&dry_run));
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported("fieldValidation", other, &supported));
                FieldValidation::Warn
            }
        };
        (Self { dry_run: !dry_run.is_empty(), field_manager, field_validation }, errors)
    }
}

impl PatchOptions {
    pub fn from_query(query: &Query, kind: PatchKind) -> Result<Self, ApiError> {
        let (write, write_errors) = WriteOptions::read(query);
        let force = query.flag("force");
        let mut errors = Vec::new();
        match kind {
            PatchKind::Apply if write.field_manager.is_empty() => {
                errors.push(FieldError::required("fieldManager", "is required for apply patch"));
            }
            PatchKind::Other if force.is_some() => {
                errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
            }
            PatchKind::Apply | PatchKind::Other => {}
        }
        errors.extend(write_errors);
        refuse_if_any("PatchOptions", &errors)?;
        Ok(Self { write, force })
    }
}

/// The options of a delete whose body is empty.
pub fn delete_options(query: &Query) -> Result<DeleteOptions, ApiError> {
    let dry_run: Vec<String> = query.all("dryRun").map(str::to_owned).collect();
    Ok(DeleteOptions {
        dry_run: (!dry_run.is_empty()).then_some(dry_run),
        grace_period_seconds: query.number("gracePeriodSeconds")?,
        orphan_dependents: query.flag("orphanDependents"),
        propagation_policy: query.get("propagationPolicy").map(str::to_owned),
        ..DeleteOptions::default()
    })
}

/// Checks the options of a delete, from the query or from the body.
pub fn check_delete(options: &DeleteOptions) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    if let Some(policy) = &options.propagation_policy {
        if options.orphan_dependents.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid("propagationPolicy", policy, why));
        }
        if !PROPAGATION_POLICIES.contains(&policy.as_str()) {
            let supported = [&PROPAGATION_POLICIES[..], &["nil"]].concat();
            errors.push(FieldError::not_supported("propagationPolicy", policy, &supported));
        }
    }
    errors.extend(dry_run_errors(options.dry_run.as_deref().unwrap_or_default()));
    refuse_if_any("DeleteOptions", &errors)
}

fn field_manager_errors(manager: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > FIELD_MANAGER_MAX {
        errors.push(FieldError::too_long("fieldManager", FIELD_MANAGER_MAX));
    }
    for (i, c) in manager.char_indices().filter(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {i})", u32::from(c));
        errors.push(FieldError::invalid("fieldManager", manager, why));
    }
    errors
}

fn dry_run_errors(dry_run: &[String]) -> Option<FieldError> {
    dry_run.iter().any(|value| value != "All").then(|| FieldError::not_supported("dryRun", dry_run, &["All"]))
}

fn refuse_if_any(kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(META_GROUP, kind, "", errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%20in+(b%2Cc)&watch&limit=5&x=%zz&dryRun=All&dryRun=b&e=%C3%A9");
        assert_eq!(query.get("labelSelector"), Some("a in (b,c)"));
        assert_eq!(query.flag("watch"), Some(true));
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.get("e"), Some("é"));
        assert_eq!(query.all("dryRun").collect::<Vec<_>>(), ["All", "b"]);
        assert_eq!(query.get("none"), None);
        assert_eq!(Query::parse("watch=0").flag("watch"), Some(false));
    }

    #[test]
    fn lists_are_read() {
        let query = Query::parse("labelSelector=a%3Db&fieldSelector=metadata.name%3Dx&limit=2&timeoutSeconds=7");
        let options = ListOptions::from_query(&query).unwrap();
        assert_eq!(options.label_selector.to_string(), "a=b");
        assert_eq!(options.field_selector.to_string(), "metadata.name=x");
        assert_eq!((options.limit, options.timeout_s, options.watch), (2, Some(7), false));
    }

    // long: a table
    #[test]
    fn bad_options_are_refused_in_upstreams_words() {
        let list = |query: &Query| ListOptions::from_query(query).map(drop);
        let create = |query: &Query| WriteOptions::for_create(query).map(drop);
        let patch = |query: &Query| PatchOptions::from_query(query, PatchKind::Other).map(drop);
        let apply = |query: &Query| PatchOptions::from_query(query, PatchKind::Apply).map(drop);
        let delete = |query: &Query| delete_options(query).and_then(|options| check_delete(&options));
        type Read<'a> = &'a dyn Fn(&Query) -> Result<(), ApiError>;
        let cases: [(Read, &str, u16, &str); 14] = [
            (&list, "labelSelector=a%20in", 400, "unable to parse requirement: found '' expected: '('"),
            (&list, "limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
            (
                &list,
                "resourceVersionMatch=Exact",
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                &list,
                "resourceVersionMatch=Exact&resourceVersion=0",
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                &list,
                "resourceVersionMatch=Nearly&resourceVersion=5",
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Nearly\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            (
                &list,
                "sendInitialEvents=true",
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ),
            (
                &list,
                "watch=1&sendInitialEvents=true",
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                &create,
                "fieldValidation=Maybe",
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
            ),
            (
                &create,
                "dryRun=Some",
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            (
                &create,
                "fieldManager=a%0A",
                422,
                "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Invalid value: \"a\\n\": invalid character U+000A (at position 1)",
            ),
            (
                &patch,
                "force=true",
                422,
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
            ),
            (
                &apply,
                "",
                422,
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ),
            (
                &delete,
                "propagationPolicy=Sideways",
                422,
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            ),
            (
                &delete,
                "propagationPolicy=Foreground&orphanDependents=true",
                422,
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"Foreground\": orphanDependents and deletionPropagation cannot be both set",
            ),
        ];
        for (read, query, code, message) in cases {
            let error = read(&Query::parse(query)).unwrap_err();
            assert_eq!((error.code(), error.message()), (code, message), "{query}");
        }
    }

    #[test]
    fn writes_are_read() {
        let query = Query::parse("dryRun=All&fieldManager=me&fieldValidation=Strict&force=true");
        let options = PatchOptions::from_query(&query, PatchKind::Apply).unwrap();
        assert_eq!(options.force, Some(true));
        assert!(options.write.dry_run);
        assert_eq!(
            (options.write.field_manager.as_str(), options.write.field_validation),
            ("me", FieldValidation::Strict)
        );
    }
}
