//! What names, label keys and values, port names and keys may look like. Each check returns
//! upstream's messages, empty if all is well.
//!
//! Source: apimachinery/pkg/util/validation and pkg/api/validate/content.

/// Longest DNS label, label value and name part of a label key, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes; the bound of most objects' names.
pub const SUBDOMAIN_MAX: usize = 253;
/// Longest name of a container port, in bytes.
pub const PORT_NAME_MAX: usize = 15;
/// Total of all keys and values of an object's annotations, in bytes.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Letters of generated names: no vowels and no look-alikes, so that no words arise.
pub const SUFFIX_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters that the server appends to `generateName`.
pub const SUFFIX_LEN: usize = 5;
/// `generateName` is cut so that the whole fits in a DNS label.
pub const GENERATE_NAME_MAX: usize = LABEL_MAX - SUFFIX_LEN;

const LABEL_REGEX: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_REGEX: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_WORDS: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// A DNS label (RFC 1123), as namespaces are named.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut errors = max_len(value, LABEL_MAX);
    if !is_label(value) {
        errors.push(if is_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_REGEX,
                &["my-name", "123-abc"],
            )
        });
    }
    errors
}

/// A DNS subdomain (RFC 1123), as most objects are named.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = max_len(value, SUBDOMAIN_MAX);
    if !is_subdomain(value) {
        errors.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN_REGEX,
            &["example.com"],
        ));
    }
    errors
}

/// A DNS label that starts with a letter (RFC 1035), as Services are named.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut errors = max_len(value, LABEL_MAX);
    if !(is_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        errors.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    errors
}

/// A DNS subdomain behind `*.`, as an Ingress host may be.
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut errors = max_len(value, SUBDOMAIN_MAX);
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN_REGEX}"),
            &["*.example.com"],
        ));
    }
    errors
}

/// Anything that can be one segment of a URL path, as RBAC objects are named.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|c| value.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A label key: an optional DNS subdomain and `/`, then a name.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns1123_subdomain(prefix).into_iter().map(|error| format!("prefix part {error}")));
            }
            name
        }
        _ => {
            let words = regex_error(KEY_WORDS, KEY_REGEX, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a valid label key {words} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else {
        errors.extend(max_len(name, LABEL_MAX).into_iter().map(|error| format!("name part {error}")));
    }
    if !is_key_name(name) {
        errors.push(format!("name part {}", regex_error(KEY_WORDS, KEY_REGEX, &["MyName", "my.name", "123-abc"])));
    }
    errors
}

/// A label's key is a qualified name.
pub fn label_key(value: &str) -> Vec<String> {
    qualified_name(value)
}

pub fn label_value(value: &str) -> Vec<String> {
    let mut errors = max_len(value, LABEL_MAX);
    if !(value.is_empty() || is_key_name(value)) {
        errors.push(regex_error(
            &format!("a valid label must be an empty string or {}", &KEY_WORDS["must ".len()..]),
            &format!("({KEY_REGEX})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// A container port's or Service port's name (an IANA service name in lower case).
pub fn port_name(value: &str) -> Vec<String> {
    let mut errors = max_len(value, PORT_NAME_MAX);
    let mut refuse = |refused: bool, message: &str| {
        if refused {
            errors.push(message.to_owned());
        }
    };
    let legal = !value.is_empty() && value.bytes().all(|b| b == b'-' || is_lower_alphanumeric(b));
    refuse(!legal, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    refuse(!value.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    refuse(value.contains("--"), "must not contain consecutive hyphens");
    refuse(value.starts_with('-') || value.ends_with('-'), "must not begin or end with a hyphen");
    errors
}

pub fn port_number(value: i64) -> Vec<String> {
    in_range(value, 1, 65535)
}

pub fn in_range(value: i64, min: i64, max: i64) -> Vec<String> {
    if (min..=max).contains(&value) { vec![] } else { vec![format!("must be between {min} and {max}, inclusive")] }
}

/// A user or group id of a container.
pub fn user_id(value: i64) -> Vec<String> {
    in_range(value, 0, i64::from(i32::MAX))
}

/// Any printable ASCII but `=` is an environment variable's name.
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.is_empty() {
        errors.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=') {
        errors.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='"
                .to_owned(),
        );
    }
    errors
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut errors = max_len(value, SUBDOMAIN_MAX);
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." || value == ".." {
        errors.push(format!("must not be '{value}'"));
    } else if value.starts_with("..") {
        errors.push("must not start with '..'".to_owned());
    }
    errors
}

pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return vec![];
    }
    let words = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_error(words, "[0-9]+%", &["1%", "93%"])]
}

pub fn http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|b| b == b'-' || b.is_ascii_alphanumeric()) {
        return vec![];
    }
    let words = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_error(words, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The name that `generateName` and five random numbers make.
pub fn generated(base: &str, random: [u8; SUFFIX_LEN]) -> String {
    let mut end = base.len().min(GENERATE_NAME_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let letters = random.map(|number| char::from(SUFFIX_ALPHABET[usize::from(number) % SUFFIX_ALPHABET.len()]));
    base[..end].chars().chain(letters).collect()
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(value: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(is_lower_alphanumeric);
    ends(value.bytes().next())
        && ends(value.bytes().next_back())
        && value.bytes().all(|b| b == b'-' || is_lower_alphanumeric(b))
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

fn is_key_name(value: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric());
    ends(value.bytes().next())
        && ends(value.bytes().next_back())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn max_len(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} characters")] } else { vec![] }
}

fn regex_error(words: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{words} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str) -> Vec<String>;

    #[test]
    fn accepts() {
        let long = "a".repeat(63);
        for (check, values) in [
            (dns1123_label as Check, &["a", "1", "a-b", "1-a", long.as_str()][..]),
            (dns1123_subdomain, &["a.b", "1.2.3", "a-b.c"]),
            (dns1035_label, &["a", "a-1"]),
            (wildcard_dns1123_subdomain, &["*.a.b", "*.a"]),
            (path_segment, &["system:node", "a b", "...", ""]),
            (qualified_name, &["a", "A_b.c-d", "example.com/MyName", "1"]),
            (label_value, &["", "a", "A_b.c-d"]),
            (port_name, &["http", "a-1", "1a"]),
            (env_var_name, &["A", "a.b", "1 2"]),
            (config_map_key, &["a.b", ".a", "A_B-c", "...x".trim_start_matches("..")]),
            (percent, &["1%", "250%"]),
            (http_header_name, &["X-A"]),
        ] {
            for value in values {
                assert_eq!(check(value), Vec::<String>::new(), "{value}");
            }
        }
    }

    #[test]
    fn refuses_in_upstreams_words() {
        let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        let key = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
        let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        let long = "a".repeat(64);
        for (check, input, errors) in [
            (dns1123_label as Check, "", &[label][..]),
            (dns1123_label, "A", &[label]),
            (dns1123_label, "-a", &[label]),
            (dns1123_label, "a.b", &["must not contain dots"]),
            (dns1123_label, &long, &["must be no more than 63 characters"]),
            (dns1123_subdomain, "a..b", &[subdomain]),
            (dns1123_subdomain, "a_b", &[subdomain]),
            (path_segment, "..", &["may not be '..'"]),
            (path_segment, "a/b%", &["may not contain '/'", "may not contain '%'"]),
            (qualified_name, "", &["name part must be non-empty", key]),
            (qualified_name, "/a", &["prefix part must be non-empty"]),
            (qualified_name, "-a", &[key]),
            (label_value, "a b", &[value]),
            (port_name, "80", &["must contain at least one letter (a-z)"]),
            (port_name, "-a--b", &["must not contain consecutive hyphens", "must not begin or end with a hyphen"]),
            (config_map_key, "..", &["must not be '..'"]),
            (config_map_key, "..a", &["must not start with '..'"]),
        ] {
            assert_eq!(check(input), errors, "{input}");
        }
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert!(qualified_name("a/b/c")[0].starts_with("a valid label key must consist of"));
    }

    #[test]
    fn generates_names_that_fit_a_label() {
        assert_eq!(generated("web-", [0, 26, 27, 1, 28]), "web-b9bcc");
        assert_eq!(generated(&"a".repeat(80), [0; 5]).len(), 63);
    }
}
