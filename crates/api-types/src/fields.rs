//! Field selectors: `spec.nodeName=n1,status.phase!=Failed`.
//!
//! Source: apimachinery/pkg/fields/selector.go.

use std::{fmt, str::FromStr};

/// All terms must hold; without any, every object matches.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

/// What a selector says of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub operator: Operator,
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    #[error("invalid field selector: unescaped character in value: {0:?}")]
    Unescaped(char),
}

impl FieldSelector {
    pub fn everything() -> Self {
        Self::default()
    }
    /// One field that must have one value.
    pub fn equals(field: impl Into<String>, value: impl Into<String>) -> Self {
        Self { terms: vec![Term { field: field.into(), operator: Operator::Equals, value: value.into() }] }
    }
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let terms = parts.into_iter().filter(|part| !part.is_empty()).map(|part| term(text, part));
        Ok(Self { terms: terms.collect::<Result<_, _>>()? })
    }
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }
    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }
    /// `get` gives a field's value; a field that is absent counts as empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| {
            let equal = get(&term.field).unwrap_or_default() == term.value;
            match term.operator {
                Operator::Equals => equal,
                Operator::NotEquals => !equal,
            }
        })
    }
    /// The only value that `field` may have, if the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.field == field && term.operator == Operator::Equals)?;
        Some(&term.value)
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn term(selector: &str, term: &str) -> Result<Term, ParseError> {
    for (i, _) in term.char_indices() {
        // The longer spelling of equality first: the shorter would leave a `=` in the value.
        for (symbol, operator) in [("!=", Operator::NotEquals), ("==", Operator::Equals), ("=", Operator::Equals)] {
            if let Some(value) = term[i..].strip_prefix(symbol) {
                return Ok(Term { field: term[..i].to_owned(), operator, value: unescape(value)? });
            }
        }
    }
    Err(ParseError::Term { selector: selector.to_owned(), term: term.to_owned() })
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    return Err(ParseError::Escape('\\'.to_string() + &other.map(String::from).unwrap_or_default()));
                }
            },
            ',' | '=' => return Err(ParseError::Unescaped(c)),
            c => plain.push(c),
        }
    }
    Ok(plain)
}

impl FromStr for FieldSelector {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let operator = match term.operator {
                Operator::Equals => "=",
                Operator::NotEquals => "!=",
            };
            let value = term.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(field: &str) -> Option<&'static str> {
        match field {
            "metadata.name" => Some("a"),
            "odd" => Some("x=y,z\\"),
            _ => None,
        }
    }

    #[test]
    fn matches_as_written() {
        for (text, expected, printed) in [
            ("", true, ""),
            ("metadata.name=a", true, "metadata.name=a"),
            ("metadata.name==a", true, "metadata.name=a"),
            ("metadata.name!=a", false, "metadata.name!=a"),
            ("spec.nodeName=", true, "spec.nodeName="),
            ("spec.nodeName!=", false, "spec.nodeName!="),
            ("metadata.name=a,,b!=c", true, "b!=c,metadata.name=a"),
            (r"odd=x\=y\,z\\", true, r"odd=x\=y\,z\\"),
        ] {
            let selector = FieldSelector::parse(text).unwrap();
            assert_eq!(selector.matches(get), expected, "{text}");
            assert_eq!(selector.to_string(), printed);
        }
        assert_eq!(FieldSelector::parse("a=b,c!=d").unwrap().exact("a"), Some("b"));
    }

    #[test]
    fn refuses_in_upstreams_words() {
        for (text, error) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b,c", "invalid selector: 'a=b,c'; can't understand 'c'"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=\", r"invalid field selector: invalid escape sequence: \"),
            ("a=b=c", "invalid field selector: unescaped character in value: '='"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), error);
        }
    }
}
