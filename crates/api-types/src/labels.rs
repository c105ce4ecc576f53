//! Label selectors: the text that clients send in `labelSelector`, the structure that
//! objects hold, and whether a set of labels matches.
//!
//! Source: apimachinery/pkg/labels/selector.go.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde_json::{Map, Value};

use crate::{k8s::meta::LabelSelector, names};

/// All requirements must hold; without any, every object matches.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// What a selector says of one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without duplicates.
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// Why a selector cannot be read, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// Anything that labels can be looked up in.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}
impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}
impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}
impl<L: Labels> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (*self).label(key)
    }
}
/// The value of `metadata.labels`, whatever it is.
impl Labels for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }
    /// What an absent selector means in most objects.
    pub fn nothing() -> Self {
        Self { requirements: vec![], nothing: true }
    }
    /// Reads the text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Parser { tokens: tokens(text), next: 0 }.selector().map_err(ParseError)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }
    /// The only value that `key` may have, if the selector says so.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let requirement = self.requirements.iter().find(|requirement| requirement.key == key)?;
        match (requirement.operator, requirement.values.as_slice()) {
            (Operator::Equals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl Requirement {
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        let listed = || value.is_some_and(|value| self.values.iter().any(|wanted| wanted == value));
        let number = |text: &str| text.parse::<i64>().ok();
        let compared = || Some((number(value?)?, number(self.values.first()?)?));
        match self.operator {
            Operator::Equals | Operator::In => listed(),
            Operator::NotEquals | Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compared().is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => compared().is_some_and(|(value, bound)| value < bound),
        }
    }
}

/// An operator that the API does not know makes a selector of nothing: validation refuses it, so that
/// only an old or foreign object can hold one.
impl From<&LabelSelector> for Selector {
    fn from(selector: &LabelSelector) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        let mut requirements: Vec<Requirement> = selector.match_labels.iter().flatten().map(equals).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Self::nothing(),
            };
            let values = sorted(expression.values.clone().unwrap_or_default());
            requirements.push(Requirement { key: expression.key.clone(), operator, values });
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }
}
/// An absent selector selects nothing, an empty one everything.
impl From<Option<&LabelSelector>> for Selector {
    fn from(selector: Option<&LabelSelector>) -> Self {
        selector.map_or_else(Self::nothing, Self::from)
    }
}
/// The old form of a selector: labels that must be equal.
impl From<&BTreeMap<String, String>> for Selector {
    fn from(labels: &BTreeMap<String, String>) -> Self {
        Self::from(&LabelSelector { match_labels: Some(labels.clone()), match_expressions: None })
    }
}

impl FromStr for Selector {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.requirements.iter().map(Requirement::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// `in` and `notin` are words here: they are operators only where one can stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_symbol = |c: char| "=!(),><".contains(c);
    let is_space = |c: char| " \t\r\n".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let symbol = ["==", "!="].into_iter().find(|symbol| rest.starts_with(symbol));
        let len = match symbol {
            Some(symbol) => symbol.len(),
            None if is_symbol(first) => 1,
            None => rest.find(|c| is_symbol(c) || is_space(c)).unwrap_or(rest.len()),
        };
        let (token, tail) = rest.split_at(len);
        tokens.push(if is_symbol(first) { Token::Symbol(token) } else { Token::Word(token) });
        rest = tail.trim_start_matches(is_space);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.next).copied().unwrap_or(Token::End)
    }
    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Word(_) | Token::Symbol("!") => {
                    let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(requirement);
                }
                Token::End => return Ok(requirements),
                other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
            match self.take() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                },
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.take();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.take();
        }
        let Token::Word(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let errors = names::label_key(key);
        if !errors.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", errors.join("; ")));
        }
        let operator = match self.peek() {
            Token::End | Token::Symbol(",") if negated => Operator::DoesNotExist,
            Token::End | Token::Symbol(",") => Operator::Exists,
            _ if negated => Operator::DoesNotExist,
            _ => self.operator()?,
        };
        let values = match operator {
            Operator::Exists | Operator::DoesNotExist => vec![],
            Operator::In | Operator::NotIn => self.values()?,
            Operator::Equals | Operator::NotEquals | Operator::GreaterThan | Operator::LessThan => vec![self.value()?],
        };
        check_values(key, operator, &values)?;
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.take() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=" | "==") => Operator::Equals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        })
    }

    fn value(&mut self) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.take() {
            Token::Word(value) => Ok(value.to_owned()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a,b)`; a missing value between commas is the empty value.
    fn values(&mut self) -> Result<Vec<String>, String> {
        let open = self.take();
        if open != Token::Symbol("(") {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        let mut values = Vec::new();
        let mut after_word = false;
        loop {
            match self.take() {
                Token::Word(word) if !after_word => {
                    values.push(word.to_owned());
                    after_word = true;
                }
                Token::Symbol(",") => {
                    if !after_word {
                        values.push(String::new());
                    }
                    after_word = false;
                }
                Token::Symbol(")") => {
                    if !after_word {
                        values.push(String::new());
                    }
                    return Ok(sorted(values));
                }
                other if after_word => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                other if values.is_empty() => {
                    return Err(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
    }
}

fn check_values(key: &str, operator: Operator, values: &[String]) -> Result<(), String> {
    for (i, value) in values.iter().enumerate() {
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
            return Err(format!(
                "values[{i}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ));
        }
        let errors = names::label_value(value);
        if !errors.is_empty() {
            return Err(format!("values[{i}][{key}]: Invalid value: {value:?}: {}", errors.join("; ")));
        }
    }
    Ok(())
}

fn sorted(mut values: Vec<String>) -> Vec<String> {
    values.sort();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn matches_as_written() {
        for (selector, set, expected) in [
            ("", "a=b", true),
            ("a=b", "a=b", true),
            ("a==b", "a=b", true),
            ("a=b", "a=c", false),
            ("a!=b", "a=c", true),
            ("a!=b", "", true),
            ("a", "a=", true),
            ("!a", "a=b", false),
            ("!a", "b=c", true),
            ("a in (b,c)", "a=c", true),
            ("a in (b,c)", "a=d", false),
            ("a in ()", "a=", true),
            ("a in (,b)", "a=", true),
            ("a notin (b)", "a=c", true),
            ("a notin (b)", "", true),
            ("a>1", "a=2", true),
            ("a<1", "a=2", false),
            ("a>1", "a=x", false),
            ("in in (in,notin)", "in=notin", true),
            ("a=b, c = d", "a=b,c=d", true),
            ("a=", "a=", true),
            ("example.com/a=b", "example.com/a=b", true),
        ] {
            assert_eq!(Selector::parse(selector).unwrap().matches(&labels(set)), expected, "{selector} on {set}");
        }
        assert!(!Selector::nothing().matches(&labels("a=b")));
    }

    #[test]
    fn prints_sorted() {
        for (text, printed) in [
            ("b=1,a", "a,b=1"),
            ("x in (b,a)", "x in (a,b)"),
            ("x notin (b)", "x notin (b)"),
            ("!x", "!x"),
            ("a>5,b<6", "a>5,b<6"),
            ("a==b", "a=b"),
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn refuses_in_upstreams_words() {
        for (text, error) in [
            ("a in", "unable to parse requirement: found '' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), error, "{text}");
        }
        assert!(Selector::parse("-a").unwrap_err().to_string().starts_with(
            "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of alphanumeric"
        ));
        assert!(Selector::parse("a=b@c").unwrap_err().to_string().starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"b@c\": a valid label must be an empty string"
        ));
    }

    #[test]
    fn structures_select_too() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({
            "matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]
        }))
        .unwrap();
        let selector = Selector::from(&selector);
        assert_eq!(selector.to_string(), "a in (x,y),b=1");
        assert!(selector.matches(&serde_json::json!({"a": "x", "b": "1"})));
        assert!(!Selector::from(None).matches(&labels("a=b")));
        assert_eq!(selector.exact("b"), Some("1"));
        assert_eq!(selector.exact("a"), None);
    }
}
