//! The messages of the API's protobuf form, out of a derived table: numbers, names in JSON and
//! types, and which fields are written although nobody set them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use api_types::schema::{self, Presence};

use super::wire;

/// Parsed when the first protobuf body comes or goes.
pub static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(include_str!("fields.txt")));

#[derive(Debug, Default)]
pub struct Table {
    pub messages: Vec<Message>,
    by_name: HashMap<&'static str, usize>,
}

#[derive(Debug)]
pub struct Message {
    pub name: &'static str,
    pub special: Option<Special>,
    pub fields: BTreeMap<u32, Field>,
    /// Where a field of the JSON object goes; also those of the messages that stand inline.
    pub places: HashMap<&'static str, Place>,
    /// What is written, in order.
    pub steps: Vec<Step>,
    /// How many slots `steps` has, at every depth.
    pub slots: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub repeated: Repeated,
    pub type_: Type,
    /// The message's fields stand among those of the one around it.
    pub is_inline: bool,
    /// Nothing is written for it unless it is set: a pointer in upstream's structs.
    pub is_pointer: bool,
}

/// A field as the encoder meets it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub number: u32,
    pub field: Field,
    pub slot: usize,
}

/// A part of a message, as it is written.
#[derive(Debug)]
pub enum Step {
    /// What was encoded for this slot, or else what stands for an unset field.
    Field { slot: usize, unset: Vec<u8> },
    /// A message whose fields come from the same JSON object.
    Inline { number: u32, steps: Vec<Step> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeated {
    No,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    Bytes,
    /// Of any width; signed ones are sign-extended to 64 bits on the wire.
    Integer,
    Double,
    Message(usize),
}

/// Messages whose JSON is not an object of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// JSON text in field 1.
    Raw,
    /// A list in field 1.
    Items,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrTexts,
}

impl Special {
    fn of(message: &str) -> Option<Self> {
        Some(match message {
            "apimachinery.pkg.api.resource.Quantity" => Self::Quantity,
            "apimachinery.pkg.apis.meta.v1.Time" | "apimachinery.pkg.apis.meta.v1.Timestamp" => Self::Time,
            "apimachinery.pkg.apis.meta.v1.MicroTime" => Self::MicroTime,
            "apimachinery.pkg.apis.meta.v1.Duration" => Self::Duration,
            "apimachinery.pkg.util.intstr.IntOrString" => Self::IntOrString,
            "apimachinery.pkg.runtime.RawExtension"
            | "apimachinery.pkg.apis.meta.v1.FieldsV1"
            | "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON" => Self::Raw,
            "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray" => Self::SchemaOrArray,
            "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool" => Self::SchemaOrBool,
            "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => Self::SchemaOrTexts,
            name if name.ends_with(".ExtraValue") || name.ends_with(".Verbs") => Self::Items,
            _ => return None,
        })
    }

    /// The message of an unset value that is no pointer.
    fn unset(self) -> &'static [u8] {
        match self {
            Self::Quantity => b"\x0a\x010",
            Self::Duration | Self::SchemaOrBool => b"\x08\0",
            Self::IntOrString => b"\x08\0\x10\0\x1a\0",
            Self::Time | Self::MicroTime | Self::Raw | Self::Items | Self::SchemaOrArray | Self::SchemaOrTexts => b"",
        }
    }
}

/// Go structs that are embedded without a name of their own in JSON.
const INLINE: [&str; 9] = [
    "volumeSource",
    "handler",
    "localObjectReference",
    "persistentVolumeSource",
    "ephemeralContainerCommon",
    "rule",
    "ruleWithOperations",
    "ingressRuleValue",
    "deviceConfiguration",
];

/// Pointers in upstream's structs that the field tables do not know as such: they are required.
const POINTERS: [(&str, &str); 4] = [
    ("io.k8s.api.admissionregistration.v1.MutatingWebhook", "sideEffects"),
    ("io.k8s.api.admissionregistration.v1.ValidatingWebhook", "sideEffects"),
    ("io.k8s.api.networking.v1.HTTPIngressPath", "pathType"),
    ("io.k8s.api.resource.v1.NodeAllocatableResourceMapping", "capacityKey"),
];

/// Values in upstream's structs that the field tables do not know as such: JSON may leave them out.
const VALUES: [(&str, &str); 11] = [
    ("io.k8s.api.apps.v1.ControllerRevision", "data"),
    ("io.k8s.api.core.v1.HTTPGetAction", "port"),
    ("io.k8s.api.core.v1.ResourceFieldSelector", "divisor"),
    ("io.k8s.api.core.v1.ServicePort", "targetPort"),
    ("io.k8s.api.core.v1.TCPSocketAction", "port"),
    ("io.k8s.api.resource.v1.Counter", "value"),
    ("io.k8s.api.resource.v1.DeviceCapacity", "value"),
    ("io.k8s.api.resource.v1.OpaqueDeviceConfiguration", "parameters"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Status", "metadata"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent", "object"),
];

/// Fields whose names in JSON are no names in protobuf.
fn json_name(message: &str, name: &'static str) -> &'static str {
    let is_schema = message.ends_with(".JSONSchemaProps");
    match name {
        "schema" if is_schema => "$schema",
        "ref" if is_schema => "$ref",
        "Webhooks" => "webhooks",
        "Expression" => "expression",
        "Name" => "name",
        "uID" => "uid",
        "aPIGroup" => "apiGroup",
        "xKubernetesPreserveUnknownFields" => "x-kubernetes-preserve-unknown-fields",
        "xKubernetesEmbeddedResource" => "x-kubernetes-embedded-resource",
        "xKubernetesIntOrString" => "x-kubernetes-int-or-string",
        "xKubernetesListMapKeys" => "x-kubernetes-list-map-keys",
        "xKubernetesListType" => "x-kubernetes-list-type",
        "xKubernetesMapType" => "x-kubernetes-map-type",
        "xKubernetesValidations" => "x-kubernetes-validations",
        name => name,
    }
}

/// A message's name from that of its type in the OpenAPI documents.
fn message_name(type_name: &str) -> String {
    type_name.trim_start_matches("io.k8s.").replace('-', "_")
}

impl Table {
    /// The table's own tests show that it parses, so lines that do not are left out.
    fn parse(text: &'static str) -> Self {
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let mut table = Self::default();
        for name in lines().filter(|line| !line.starts_with(' ')) {
            table.by_name.insert(name, table.messages.len());
            table.messages.push(Message {
                name,
                special: Special::of(name),
                fields: BTreeMap::new(),
                places: HashMap::new(),
                steps: Vec::new(),
                slots: 0,
            });
        }
        let mut message = 0;
        for line in lines() {
            match line.strip_prefix(' ') {
                None => message = table.by_name[line],
                Some(field) => {
                    if let Some((number, field)) = table.field(table.messages[message].name, field) {
                        table.messages[message].fields.insert(number, field);
                    }
                }
            }
        }
        for type_ in schema::types() {
            if let Some(message) = table.by_name.get(message_name(&type_.name).as_str()) {
                table.mark_pointers(type_, *message);
            }
        }
        for message in 0..table.messages.len() {
            let (mut places, mut slots) = (HashMap::new(), 0);
            let steps = table.steps(message, &mut places, &mut slots);
            let message = &mut table.messages[message];
            (message.steps, message.places, message.slots) = (steps, places, slots);
        }
        table
    }

    fn field(&self, message: &str, line: &'static str) -> Option<(u32, Field)> {
        let mut parts = line.split(' ');
        let (number, name, type_) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let (repeated, type_) = match (type_.strip_prefix("[]"), type_.strip_prefix("{}")) {
            (Some(item), _) => (Repeated::List, item),
            (_, Some(value)) => (Repeated::Map, value),
            _ => (Repeated::No, type_),
        };
        let type_ = match type_ {
            "string" => Type::String,
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "int32" | "int64" | "uint32" => Type::Integer,
            "double" => Type::Double,
            name => Type::Message(*self.by_name.get(name)?),
        };
        let is_inline = matches!(type_, Type::Message(_)) && repeated == Repeated::No && INLINE.contains(&name);
        // Slices are nil until they are set.
        let is_pointer = type_ == Type::Bytes;
        Some((number, Field { name: json_name(message, name), repeated, type_, is_inline, is_pointer }))
    }

    /// Messages that stand inline have no type of their own: the one around them knows their fields.
    fn mark_pointers(&mut self, type_: &schema::Type, message: usize) {
        let numbers: Vec<u32> = self.messages[message].fields.keys().copied().collect();
        for number in numbers {
            let field = self.messages[message].fields[&number];
            if let (true, Type::Message(inner)) = (field.is_inline, field.type_) {
                self.mark_pointers(type_, inner);
            } else if let Some(known) = type_.field(field.name) {
                let name = (type_.name.as_ref(), field.name);
                let is_pointer = match field.type_ {
                    Type::Bytes => true,
                    Type::Message(_) => known.presence != Presence::Always,
                    _ => known.presence == Presence::Optional && !known.required,
                };
                let is_pointer = (is_pointer || POINTERS.contains(&name)) && !VALUES.contains(&name);
                self.messages[message].fields.entry(number).and_modify(|field| field.is_pointer = is_pointer);
            }
        }
    }

    fn steps(&self, message: usize, places: &mut HashMap<&'static str, Place>, slots: &mut usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for (&number, &field) in &self.messages[message].fields {
            if let (true, Type::Message(inner)) = (field.is_inline, field.type_) {
                steps.push(Step::Inline { number, steps: self.steps(inner, places, slots) });
                continue;
            }
            let slot = *slots;
            *slots += 1;
            places.insert(field.name, Place { number, field, slot });
            steps.push(Step::Field { slot, unset: self.unset(number, field) });
        }
        steps
    }

    /// What upstream writes for a field that nobody set.
    fn unset(&self, number: u32, field: Field) -> Vec<u8> {
        let mut bytes = Vec::new();
        if field.repeated != Repeated::No || field.is_pointer {
            return bytes;
        }
        wire::put_tag(&mut bytes, number, field.type_);
        match field.type_ {
            Type::String | Type::Bool | Type::Bytes | Type::Integer => bytes.push(0),
            Type::Double => bytes.extend_from_slice(&[0; 8]),
            Type::Message(message) => {
                let at = bytes.len();
                match self.messages[message].special {
                    Some(special) => bytes.extend_from_slice(special.unset()),
                    None => {
                        for (&number, &field) in &self.messages[message].fields {
                            bytes.extend(self.unset(number, field));
                        }
                    }
                }
                wire::put_length(&mut bytes, at);
            }
        }
        bytes
    }

    /// The message of a kind; lists, options and Status are kinds, too.
    pub fn of(&self, (group, version, kind): (&str, &str, &str)) -> Option<usize> {
        if group == META_GROUP {
            return self.by_name.get(format!("{META}.{kind}").as_str()).copied();
        }
        let named = schema::of(group, version, kind).map(|type_| message_name(&type_.name));
        self.by_name.get(named?.as_str()).copied()
    }
}

/// The group under which what is not of any group goes by its own name.
pub const META_GROUP: &str = "meta.k8s.io";
const META: &str = "apimachinery.pkg.apis.meta.v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let fields: usize = TABLE.messages.iter().map(|message| message.fields.len()).sum();
        assert_eq!(fields, include_str!("fields.txt").lines().filter(|line| line.starts_with(' ')).count());
    }

    #[test]
    fn every_field_has_a_place_in_json() {
        let mut lost = Vec::new();
        for type_ in schema::types() {
            let Some(message) = TABLE.by_name.get(message_name(&type_.name).as_str()) else { continue };
            let message = &TABLE.messages[*message];
            let fields = message.fields.values().filter(|field| !field.is_inline);
            lost.extend(
                fields.filter(|field| type_.field(field.name).is_none()).map(|field| (message.name, field.name)),
            );
        }
        assert!(lost.is_empty(), "{lost:?}");
    }

    /// Nothing that an object of a built-in kind can hold is lost in its protobuf form.
    #[test]
    fn every_field_of_json_has_a_number() {
        let mut lost = Vec::new();
        for type_ in schema::types() {
            let Some(message) = TABLE.by_name.get(message_name(&type_.name).as_str()) else { continue };
            let message = &TABLE.messages[*message];
            let is_type = |name: &str| matches!(name, "apiVersion" | "kind") && !type_.kinds.is_empty();
            let fields = type_.fields.iter().map(|field| field.name.as_ref()).filter(|name| !is_type(name));
            lost.extend(fields.filter(|name| !message.places.contains_key(name)).map(|name| (message.name, name)));
        }
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn exceptions_name_fields_that_are_there() {
        for (name, field) in POINTERS.iter().chain(&VALUES) {
            assert!(schema::named(name).is_some_and(|type_| type_.field(field).is_some()), "{name}.{field}");
        }
    }

    #[test]
    fn every_row_has_a_message_and_so_has_its_list() {
        for resource in api_types::resources::BUILT_IN {
            let of = |kind: &str| TABLE.of((&resource.group, &resource.version, kind));
            assert!(of(&resource.kind).is_some(), "{}", resource.kind);
            let has_list = resource.verbs.contains(api_types::Verb::List);
            assert!(!has_list || of(&resource.list_kind()).is_some(), "{}", resource.list_kind());
        }
        assert!(TABLE.of(("", "v1", "Status")).is_some());
        assert!(TABLE.of(("meta.k8s.io", "v1", "PartialObjectMetadataList")).is_some());
        assert!(TABLE.of(("meta.k8s.io", "v1", "Table")).is_none());
    }
}
