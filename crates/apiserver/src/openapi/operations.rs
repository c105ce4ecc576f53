//! One operation on one path: its parameters, its body and what it answers.

use serde_json::{Map, Value, json};

use super::schemas::{Components, Style, gvk};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const ANSWER_TYPES: [&str; 2] = ["application/json", "application/yaml"];
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// What an operation does, in the words of `x-kubernetes-action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    List,
    Post,
    Put,
    Patch,
    Delete,
    DeleteCollection,
    ConnectGet,
    ConnectPost,
    ConnectPut,
    ConnectPatch,
    ConnectDelete,
}

impl Action {
    pub fn method(self) -> &'static str {
        match self {
            Action::Get | Action::List | Action::ConnectGet => "get",
            Action::Post | Action::ConnectPost => "post",
            Action::Put | Action::ConnectPut => "put",
            Action::Patch | Action::ConnectPatch => "patch",
            Action::Delete | Action::DeleteCollection | Action::ConnectDelete => "delete",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Action::Get => "get",
            Action::List => "list",
            Action::Post => "post",
            Action::Put => "put",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::DeleteCollection => "deletecollection",
            Action::ConnectGet
            | Action::ConnectPost
            | Action::ConnectPut
            | Action::ConnectPatch
            | Action::ConnectDelete => "connect",
        }
    }

    /// The verb that an operation's id starts with.
    pub fn id(self) -> &'static str {
        match self {
            Action::Get => "read",
            Action::List => "list",
            Action::Post => "create",
            Action::Put => "replace",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::DeleteCollection => "deleteCollection",
            Action::ConnectGet => "connectGet",
            Action::ConnectPost => "connectPost",
            Action::ConnectPut => "connectPut",
            Action::ConnectPatch => "connectPatch",
            Action::ConnectDelete => "connectDelete",
        }
    }

    fn query(self) -> &'static [Parameter] {
        match self {
            Action::Get => &[PRETTY],
            Action::List => LIST,
            Action::Post | Action::Put => WRITE,
            Action::Patch => APPLY,
            Action::Delete => DELETE,
            Action::DeleteCollection => DELETE_COLLECTION,
            Action::ConnectGet
            | Action::ConnectPost
            | Action::ConnectPut
            | Action::ConnectPatch
            | Action::ConnectDelete => &[],
        }
    }
}

/// A query parameter: name, type, what it does.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "Indent the answer if 'true'.");
const DRY_RUN: Parameter = ("dryRun", "string", "With 'All', go through every check but store nothing.");
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "Who makes this change; at most 128 printable characters. Required for apply.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do with unknown or duplicate fields: 'Ignore' drops them, 'Warn' also sends a warning, 'Strict' refuses \
     the request.",
);
const CONTINUE: Parameter = ("continue", "string", "The token of the page before, to get the next one.");
const FIELD_SELECTOR: Parameter = ("fieldSelector", "string", "Restricts the objects by their fields.");
const LABEL_SELECTOR: Parameter = ("labelSelector", "string", "Restricts the objects by their labels.");
const LIMIT: Parameter = ("limit", "integer", "The most objects that one answer may hold.");
const RESOURCE_VERSION: Parameter = ("resourceVersion", "string", "The state from which to answer.");
const RESOURCE_VERSION_MATCH: Parameter =
    ("resourceVersionMatch", "string", "How resourceVersion is meant: 'Exact' or 'NotOlderThan'.");
const SEND_INITIAL_EVENTS: Parameter =
    ("sendInitialEvents", "boolean", "Start the watch with the objects that exist, and a bookmark behind them.");
const TIMEOUT: Parameter = ("timeoutSeconds", "integer", "How long a list may take or a watch may last.");
const WATCH: Parameter = ("watch", "boolean", "Stream changes instead of listing.");
const BOOKMARKS: Parameter = ("allowWatchBookmarks", "boolean", "Send bookmarks in a watch now and then.");
const GRACE: Parameter = ("gracePeriodSeconds", "integer", "Seconds until the object is deleted; 0 is at once.");
const ORPHAN: Parameter = ("orphanDependents", "boolean", "The old form of propagationPolicy: 'Orphan' if true.");
const PROPAGATION: Parameter =
    ("propagationPolicy", "string", "What becomes of dependents: 'Orphan', 'Background' or 'Foreground'.");
const IGNORE_READ_ERROR: Parameter = (
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Delete an object that cannot be read any more, past all its safeguards.",
);
const FORCE: Parameter = ("force", "boolean", "Take over fields that others own; for apply only.");

const WRITE: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const APPLY: &[Parameter] = &[PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const LIST: &[Parameter] = &[
    PRETTY,
    BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    TIMEOUT,
    WATCH,
];
const DELETE: &[Parameter] = &[PRETTY, DRY_RUN, GRACE, IGNORE_READ_ERROR, ORPHAN, PROPAGATION];
const DELETE_COLLECTION: &[Parameter] = &[
    PRETTY,
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE,
    IGNORE_READ_ERROR,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN,
    PROPAGATION,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    TIMEOUT,
];

/// An operation, ready to be written.
pub struct Operation<'a> {
    pub action: Action,
    pub path: &'a str,
    pub id: String,
    pub kind: (&'a str, &'a str, &'a str),
    /// The definition of the kind's list.
    pub list: Option<String>,
    /// The schema of the object that is sent and answered.
    pub body: Value,
}

impl Operation<'_> {
    pub fn write(self, components: &mut Components) -> Value {
        let style = components.style;
        let mut parameters = self.path_parameters(style);
        parameters.extend(self.action.query().iter().map(|parameter| query_parameter(*parameter, style)));
        let answer = match self.action {
            Action::List => {
                self.list.as_deref().map_or_else(|| json!({"type": "object"}), |list| components.refer(list))
            }
            Action::Delete | Action::DeleteCollection => components.refer(STATUS),
            _ => self.body.clone(),
        };
        let mut operation = Map::new();
        operation.insert("operationId".to_owned(), json!(self.id));
        match (self.request_body(components), style) {
            (Some((types, schema)), Style::V3) => {
                let content: Map<String, Value> =
                    types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
                operation.insert("requestBody".to_owned(), json!({"content": content, "required": true}));
            }
            (Some((types, schema)), Style::V2) => {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema}));
                operation.insert("consumes".to_owned(), json!(types));
            }
            (None, _) => {}
        }
        operation.insert("parameters".to_owned(), json!(parameters));
        operation.insert("responses".to_owned(), self.responses(&answer, style));
        if style == Style::V2 {
            operation.insert("produces".to_owned(), json!(ANSWER_TYPES));
        }
        operation.insert("x-kubernetes-action".to_owned(), json!(self.action.name()));
        let (group, version, kind) = self.kind;
        operation.insert("x-kubernetes-group-version-kind".to_owned(), gvk(group, version, kind));
        Value::Object(operation)
    }

    fn path_parameters(&self, style: Style) -> Vec<Value> {
        let names = ["name", "namespace"].into_iter().filter(|name| self.path.contains(&format!("{{{name}}}")));
        names
            .map(|name| {
                let mut parameter = json!({"name": name, "in": "path", "required": true});
                set_type(&mut parameter, "string", style);
                parameter
            })
            .collect()
    }

    fn request_body(&self, components: &mut Components) -> Option<(&'static [&'static str], Value)> {
        match self.action {
            Action::Post | Action::Put => Some((&["*/*"], self.body.clone())),
            Action::Patch => Some((&PATCH_TYPES, components.refer(PATCH))),
            Action::Delete | Action::DeleteCollection => Some((&["*/*"], components.refer(DELETE_OPTIONS))),
            Action::Get
            | Action::List
            | Action::ConnectGet
            | Action::ConnectPost
            | Action::ConnectPut
            | Action::ConnectPatch
            | Action::ConnectDelete => None,
        }
    }

    fn responses(&self, answer: &Value, style: Style) -> Value {
        let answers = |text: &str| match style {
            Style::V2 => json!({"description": text, "schema": answer}),
            Style::V3 => {
                let content: Map<String, Value> =
                    ANSWER_TYPES.iter().map(|media| ((*media).to_owned(), json!({"schema": answer}))).collect();
                json!({"description": text, "content": content})
            }
        };
        let mut responses = json!({"200": answers("OK"), "401": {"description": "Unauthorized"}});
        if matches!(self.action, Action::Post | Action::Put | Action::Patch) {
            responses["201"] = answers("Created");
        }
        if matches!(self.action, Action::Post | Action::Delete) {
            responses["202"] = answers("Accepted");
        }
        responses
    }
}

fn query_parameter((name, of_type, description): Parameter, style: Style) -> Value {
    let mut parameter = json!({"name": name, "in": "query", "description": description});
    set_type(&mut parameter, of_type, style);
    parameter
}

fn set_type(parameter: &mut Value, of_type: &str, style: Style) {
    match style {
        Style::V2 => {
            parameter["type"] = json!(of_type);
            parameter["uniqueItems"] = json!(true);
        }
        Style::V3 => parameter["schema"] = json!({"type": of_type, "uniqueItems": true}),
    }
}
