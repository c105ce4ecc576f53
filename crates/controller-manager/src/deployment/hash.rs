//! The label that tells the ReplicaSets of a Deployment apart.
//!
//! Upstream hashes Go's print of the template. Nobody relies on the value: sets are found by
//! comparing templates, so a set made by either is taken over by the other.

use api_types::k8s::core::PodTemplateSpec;

use api_types::names::SUFFIX_ALPHABET;

/// The hash of a template, as a label value. `collisions` makes another of the same template.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = serde_json::to_vec(template).expect("a template has string keys only, so it has a JSON form");
    let mut hash = fnv1a(FNV_OFFSET, &text);
    if let Some(collisions) = collisions {
        // Upstream writes the number into the first half of eight bytes.
        let [a, b, c, d] = collisions.to_le_bytes();
        hash = fnv1a(hash, &[a, b, c, d, 0, 0, 0, 0]);
    }
    safe(&hash.to_string())
}

const FNV_OFFSET: u32 = 2_166_136_261;
const FNV_PRIME: u32 = 16_777_619;

/// FNV-1a, 32 bits.
fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// In an alphabet that spells no words.
fn safe(text: &str) -> String {
    text.bytes().map(|byte| char::from(SUFFIX_ALPHABET[usize::from(byte) % SUFFIX_ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{core::PodSpec, meta::ObjectMeta};

    use super::*;

    #[test]
    fn a_template_has_one_hash_and_collisions_give_others() {
        let template = PodTemplateSpec::default();
        let other = PodTemplateSpec { spec: Some(PodSpec::default()), metadata: Some(ObjectMeta::default()) };
        assert_eq!(template_hash(&template, None), template_hash(&template, None));
        assert_ne!(template_hash(&template, None), template_hash(&other, None));
        assert_ne!(template_hash(&template, None), template_hash(&template, Some(1)));
        assert!(template_hash(&template, None).bytes().all(|byte| SUFFIX_ALPHABET.contains(&byte)));
    }

    #[test]
    fn digits_become_the_alphabet_of_upstream() {
        assert_eq!(safe("0123456789"), "456789bcdf");
    }
}
