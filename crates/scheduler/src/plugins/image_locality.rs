//! A node that has the pod's images already starts it sooner.
//!
//! Source: scheduler/framework/plugins/imagelocality.

use super::{SCORE_MAX, Scene};
use crate::facts::NodeFacts;

const MIB: i64 = 1024 * 1024;
/// Fewer bytes than this are not worth a preference.
const BYTES_MIN: i64 = 23 * MIB;
/// More bytes than this per container make no difference.
const CONTAINER_BYTES_MAX: i64 = 1000 * MIB;

pub fn scores(scene: Scene<'_>, nodes: &[&NodeFacts]) -> Vec<i64> {
    let images: Vec<String> = scene.pod.needs.images.iter().map(|image| tagged(image)).collect();
    let total = scene.snapshot.nodes().len().max(1) as f64;
    let score = |node: &&NodeFacts| {
        // An image that is on few nodes counts less, so that not all its pods end up there.
        let weighed = images.iter().filter_map(|image| {
            let spread = scene.snapshot.nodes_with_image(image) as f64 / total;
            Some((*node.images.get(image)? as f64 * spread) as i64)
        });
        let max = CONTAINER_BYTES_MAX * images.len() as i64;
        let bytes = weighed.sum::<i64>().clamp(BYTES_MIN, max.max(BYTES_MIN));
        if max <= BYTES_MIN { 0 } else { SCORE_MAX * (bytes - BYTES_MIN) / (max - BYTES_MIN) }
    };
    nodes.iter().map(score).collect()
}

/// `name:latest` if no tag is given, as nodes list them.
fn tagged(image: &str) -> String {
    if image.rfind(':') > image.rfind('/') { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (image, expected) in [
            ("a", "a:latest"),
            ("a:1", "a:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("host:5000/a:1", "host:5000/a:1"),
        ] {
            assert_eq!(tagged(image), expected);
        }
    }
}
