//! Which format and shape a client wants, from its Accept header. Pure.

use api_types::{ApiError, options::Query};
use http::{HeaderMap, header};

use super::protobuf;

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    /// In upstream's envelope; not for tables.
    Protobuf,
}

impl Format {
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => protobuf::MEDIA_TYPE,
        }
    }
}

/// What is made of objects before they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Object,
    Table,
    /// PartialObjectMetadata, or a list of it.
    Partial,
}

/// Which shapes an endpoint can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shapes {
    ObjectOnly,
    All,
}

/// Which formats an endpoint can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formats {
    /// JSON and YAML: custom resources have no protobuf form.
    Text,
    All,
}

impl Formats {
    /// Those of a kind.
    pub fn of(kind: protobuf::Kind<'_>) -> Self {
        if protobuf::has(kind) { Self::All } else { Self::Text }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub format: Format,
    pub shape: Shape,
    pub is_pretty: bool,
    pub is_gzip: bool,
    /// Of tables and partial objects, which are the same in both.
    pub meta_api_version: &'static str,
}

const META_V1: &str = "meta.k8s.io/v1";
const META_V1BETA1: &str = "meta.k8s.io/v1beta1";

impl Accepted {
    pub const JSON: Self = Self {
        format: Format::Json,
        shape: Shape::Object,
        is_pretty: false,
        is_gzip: false,
        meta_api_version: META_V1,
    };

    /// Objects go out as they are stored, with nothing but the revision added.
    pub fn is_plain(&self) -> bool {
        *self == Self { is_gzip: self.is_gzip, meta_api_version: self.meta_api_version, ..Self::JSON }
    }
}

/// The first of the client's wishes, by its order of preference, that can be met.
///
/// Source: apiserver/pkg/endpoints/handlers/negotiation/negotiate.go.
pub fn negotiate(headers: &HeaderMap, query: &Query, shapes: Shapes, formats: Formats) -> Result<Accepted, ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accept = text(header::ACCEPT);
    let met = wishes(accept).into_iter().find_map(|wish| Some((met(&wish, shapes, formats)?, wish)));
    let Some(((format, shape), wish)) = met else {
        return Err(not_acceptable(formats));
    };
    let is_pretty = match query.flag("pretty") {
        Some(is_pretty) => is_pretty,
        None if wish.parameter("pretty") == "1" => true,
        None => {
            let agent = text(header::USER_AGENT);
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
        }
    };
    let is_gzip = text(header::ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.next() != Some("q=0")
    });
    let meta_api_version = if wish.parameter("v") == "v1beta1" { META_V1BETA1 } else { META_V1 };
    Ok(Accepted { format, shape, is_pretty: is_pretty && format == Format::Json, is_gzip, meta_api_version })
}

pub fn not_acceptable(formats: Formats) -> ApiError {
    let mut available = vec![Format::Json.media_type(), Format::Yaml.media_type()];
    if formats == Formats::All {
        available.push(Format::Protobuf.media_type());
    }
    let available = available.join(", ");
    let mut error = ApiError::not_acceptable(format!("406: Not Acceptable\n\nAvailable representations: {available}"));
    error.0.details = Some(Default::default());
    error
}

#[derive(Debug)]
struct Wish<'a> {
    media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Wish<'_> {
    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| *value)
    }
}

/// Best first: by quality, then what is named before what is a pattern, then in the order written.
fn wishes(accept: &str) -> Vec<Wish<'_>> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut wishes: Vec<Wish<'_>> = accept.split(',').filter_map(wish).collect();
    let thousandths = |wish: &Wish<'_>| {
        let quality = wish.parameter("q").parse::<f32>().unwrap_or(1.0);
        (quality.clamp(0.0, 1.0) * 1000.0) as u32
    };
    wishes.retain(|wish| thousandths(wish) > 0);
    let stars = |wish: &Wish<'_>| wish.media_type.matches('*').count();
    wishes.sort_by_key(|wish| (std::cmp::Reverse(thousandths(wish)), stars(wish)));
    wishes
}

fn wish(text: &str) -> Option<Wish<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next().filter(|media_type| !media_type.is_empty())?;
    let parameters = parts.filter_map(|part| part.split_once('='));
    Some(Wish { media_type, parameters: parameters.map(|(name, value)| (name.trim(), value.trim())).collect() })
}

fn met(wish: &Wish<'_>, shapes: Shapes, formats: Formats) -> Option<(Format, Shape)> {
    let format = match wish.media_type {
        "*/*" | "application/*" | "application/json" => Format::Json,
        "application/yaml" => Format::Yaml,
        protobuf::MEDIA_TYPE if formats == Formats::All => Format::Protobuf,
        _ => return None,
    };
    if !matches!(wish.parameter("stream"), "" | "watch") {
        return None;
    }
    let is_meta = wish.parameter("g") == "meta.k8s.io" && matches!(wish.parameter("v"), "v1" | "v1beta1");
    let shape = match (shapes, wish.parameter("as")) {
        (_, "") => Shape::Object,
        (Shapes::All, "Table") if is_meta && format != Format::Protobuf => Shape::Table,
        (Shapes::All, "PartialObjectMetadata" | "PartialObjectMetadataList") if is_meta => Shape::Partial,
        _ => return None,
    };
    Some((format, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, shapes: Shapes, expected: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let got = negotiate(&headers, &Query::default(), shapes, Formats::All).ok().map(|a| (a.format, a.shape));
        assert_eq!(got, expected, "{accept}");
    }

    #[test]
    fn the_first_wish_that_can_be_met_wins() {
        use Format::{Json, Protobuf, Yaml};
        use Shape::{Object, Partial, Table};
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        check("", Shapes::All, Some((Json, Object)));
        check("*/*", Shapes::All, Some((Json, Object)));
        check("application/yaml", Shapes::All, Some((Yaml, Object)));
        check("image/png", Shapes::All, None);
        let protobuf = "application/vnd.kubernetes.protobuf";
        check(protobuf, Shapes::All, Some((Protobuf, Object)));
        check(&format!("{protobuf};stream=watch"), Shapes::All, Some((Protobuf, Object)));
        check(&format!("{protobuf};stream=x"), Shapes::All, None);
        check(&format!("{protobuf},application/json"), Shapes::All, Some((Protobuf, Object)));
        check(&format!("{protobuf}, */*"), Shapes::ObjectOnly, Some((Protobuf, Object)));
        check(&format!("*/*,{protobuf}"), Shapes::All, Some((Protobuf, Object)));
        check(&format!("{protobuf};as=Table;v=v1;g=meta.k8s.io"), Shapes::All, None);
        check(&format!("{protobuf};as=Table;v=v1;g=meta.k8s.io,{table}"), Shapes::All, Some((Json, Table)));
        let partial = format!("{protobuf};as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
        check(&partial, Shapes::All, Some((Protobuf, Partial)));
        check("application/json;q=0.1, application/yaml;q=0.5", Shapes::All, Some((Yaml, Object)));
        check("application/json;q=0", Shapes::All, None);
        check(table, Shapes::All, Some((Json, Table)));
        check(table, Shapes::ObjectOnly, None);
        check(&format!("{table},application/json"), Shapes::ObjectOnly, Some((Json, Object)));
        check("application/json;as=Table;v=v1;g=x", Shapes::All, None);
        check(
            "application/json; as=PartialObjectMetadataList; v=v1; g=meta.k8s.io",
            Shapes::All,
            Some((Json, Partial)),
        );
    }

    #[test]
    fn what_has_no_protobuf_form_is_not_promised() {
        let mut headers = HeaderMap::new();
        for (accept, expected) in
            [(protobuf::MEDIA_TYPE, None), ("application/vnd.kubernetes.protobuf,application/json", Some(Format::Json))]
        {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            let got = negotiate(&headers, &Query::default(), Shapes::All, Formats::Text);
            assert_eq!(got.ok().map(|accepted| accepted.format), expected);
        }
        assert_eq!(Formats::of(("example.com", "v1", "Widget")), Formats::Text);
        assert_eq!(Formats::of(("", "v1", "Pod")), Formats::All);
    }

    #[test]
    fn people_get_indented_json() {
        for (agent, query, expected) in [
            ("curl/8", "", true),
            ("kubectl/v1", "", false),
            ("kubectl/v1", "pretty=true", true),
            ("curl/8", "pretty=0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.parse().unwrap());
            let accepted = negotiate(&headers, &Query::parse(query), Shapes::All, Formats::All).unwrap();
            assert_eq!(accepted.is_pretty, expected);
        }
    }
}
