//! Where in an object something is wrong, and the list that collects it. A path is a
//! chain of borrowed parts that becomes text only when there is an error to report.

use std::fmt;

use api_types::FieldError;
use serde::Serialize;

/// `spec.containers[0].env[1].name`, built on the way down.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path of one field, or of several joined by dots.
    pub const fn root(field: &'a str) -> Path<'a> {
        Path { parent: None, part: Part::Field(field) }
    }
    pub const fn field(&'a self, field: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Field(field) }
    }
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), part: Part::Index(index) }
    }
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), part: Part::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.part {
            Part::Field(field) if self.parent.is_some() => write!(f, ".{field}"),
            Part::Field(field) => f.write_str(field),
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Everything found wrong so far: validation reports all errors at once.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.0.push(FieldError::required(path.to_string(), detail));
    }
    pub fn invalid(&mut self, path: &Path, value: impl Serialize, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(path.to_string(), value, detail));
    }
    /// One error for each message.
    pub fn invalid_all(&mut self, path: &Path, value: impl Serialize + Copy, messages: Vec<String>) {
        for message in messages {
            self.invalid(path, value, message);
        }
    }
    pub fn not_supported(&mut self, path: &Path, value: impl Serialize, supported: &[&str]) {
        self.0.push(FieldError::not_supported(path.to_string(), value, supported));
    }
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(path.to_string(), detail));
    }
    pub fn duplicate(&mut self, path: &Path, value: impl Serialize) {
        self.0.push(FieldError::duplicate(path.to_string(), value));
    }
    pub fn not_found(&mut self, path: &Path, value: impl Serialize) {
        self.0.push(FieldError::not_found(path.to_string(), value));
    }
    pub fn too_long(&mut self, path: &Path, max_bytes: usize) {
        self.0.push(FieldError::too_long(path.to_string(), max_bytes));
    }
    pub fn too_many(&mut self, path: &Path, count: usize, max: usize) {
        self.0.push(FieldError::too_many(path.to_string(), count, max));
    }

    /// Refuses text that is not one of `supported`.
    pub fn one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.not_supported(path, value, supported);
        }
    }
    /// Like [`Errors::one_of`], with another error for the empty text.
    pub fn required_one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        match value {
            "" => self.required(path, ""),
            value => self.one_of(path, value, supported),
        }
    }
    pub fn non_negative(&mut self, path: &Path, value: impl Into<i64>) {
        let value = value.into();
        if value < 0 {
            self.invalid(path, value, NOT_NEGATIVE);
        }
    }
    /// Refuses any change of a field.
    pub fn immutable<T: Serialize + PartialEq>(&mut self, path: &Path, new: &T, old: &T) {
        if new != old {
            self.invalid(path, new, IMMUTABLE);
        }
    }
}

pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub const IMMUTABLE: &str = "field is immutable";

/// A field's text, or `""`: upstream's structs know no difference.
pub fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The items of an optional list.
pub fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_like_upstream() {
        let spec = Path::root("spec");
        let containers = spec.field("containers");
        assert_eq!(
            containers.index(2).field("resources.limits").key("cpu").to_string(),
            "spec.containers[2].resources.limits[cpu]"
        );
    }
}
