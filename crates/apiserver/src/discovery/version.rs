//! The order of API versions: stable ones before beta before alpha, higher ones first.

use std::cmp::Ordering;

/// By stability, then by number; names of another form come last, by their letters.
///
/// Source: `CompareKubeAwareVersionStrings` in apimachinery/pkg/version.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// (stability, major, minor)
fn parse(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (major, rest) = rest.split_at(digits);
    let major = major.parse().ok()?;
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (stability, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (None, Some(minor)) => (0, minor),
        (None, None) => return None,
    };
    Some((stability, major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_before_beta_before_alpha() {
        let mut versions =
            ["foo1", "v1alpha1", "v2", "v12alpha1", "v1", "v2beta1", "v10beta3", "bar", "v3beta1", "v10"];
        versions.sort_by(|a, b| compare(b, a));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v10beta3", "v3beta1", "v2beta1", "v12alpha1", "v1alpha1", "bar", "foo1"]
        );
    }
}
