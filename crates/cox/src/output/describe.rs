//! One object for a person: every field by its words, then what happened to it.

use std::fmt::Write;

use serde_json::Value;

const COLUMN: usize = 24;
/// Noise for a reader.
const HIDDEN_METADATA: &[&str] =
    &["managedFields", "uid", "resourceVersion", "generation", "selfLink", "name", "namespace"];

/// Maps whose keys are the user's own words.
const OWN_WORDS: &[&str] = &["labels", "annotations", "matchLabels", "nodeSelector", "data", "limits", "requests"];

/// `events` newest last, as the server lists them.
pub fn describe(object: &Value, events: &[Value]) -> String {
    let mut text = String::new();
    let metadata = &object["metadata"];
    for key in ["name", "namespace"] {
        if let Some(value) = metadata[key].as_str() {
            line(&mut text, 0, &words(key), value);
        }
    }
    line(&mut text, 0, "API Version", object["apiVersion"].as_str().unwrap_or_default());
    line(&mut text, 0, "Kind", object["kind"].as_str().unwrap_or_default());
    for (key, value) in metadata.as_object().into_iter().flatten() {
        if !HIDDEN_METADATA.contains(&key.as_str()) {
            field(&mut text, 0, key, value);
        }
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata"].contains(&key.as_str()) {
            field(&mut text, 0, key, value);
        }
    }
    happened(&mut text, events);
    text
}

fn field(text: &mut String, depth: usize, key: &str, value: &Value) {
    match value {
        Value::Object(map) if map.is_empty() => {}
        Value::Object(map) => {
            let _ = writeln!(text, "{}{}:", "  ".repeat(depth), words(key));
            for (inner, value) in map {
                match OWN_WORDS.contains(&key) {
                    true => line(text, depth + 1, inner, &scalar(value)),
                    false => field(text, depth + 1, inner, value),
                }
            }
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            line(text, depth, &words(key), &items.join(", "));
        }
        Value::Array(items) => {
            let _ = writeln!(text, "{}{}:", "  ".repeat(depth), words(key));
            for item in items {
                let name = item["name"].as_str().or_else(|| item["type"].as_str()).unwrap_or("-");
                let _ = writeln!(text, "{}{name}:", "  ".repeat(depth + 1));
                for (key, value) in item.as_object().into_iter().flatten() {
                    field(text, depth + 2, key, value);
                }
            }
        }
        other => line(text, depth, &words(key), &scalar(other)),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn line(text: &mut String, depth: usize, title: &str, value: &str) {
    let indented = format!("{}{title}:", "  ".repeat(depth));
    let _ = writeln!(text, "{indented:<COLUMN$} {value}");
}

/// `creationTimestamp` becomes `Creation Timestamp`; anything that is not camelCase stays.
fn words(key: &str) -> String {
    if !key.chars().all(|character| character.is_ascii_alphanumeric()) {
        return key.to_owned();
    }
    let mut words = String::new();
    for (at, character) in key.chars().enumerate() {
        if at == 0 {
            words.push(character.to_ascii_uppercase());
            continue;
        }
        if character.is_ascii_uppercase() && !words.ends_with(|last: char| last.is_ascii_uppercase()) {
            words.push(' ');
        }
        words.push(character);
    }
    words
}

fn happened(text: &mut String, events: &[Value]) {
    if events.is_empty() {
        text.push_str("Events: <none>\n");
        return;
    }
    text.push_str("Events:\n");
    for event in events {
        let part = |name: &str| event[name].as_str().unwrap_or_default();
        let source = event["source"]["component"].as_str().unwrap_or_default();
        let times = match event["count"].as_u64() {
            Some(count) if count > 1 => format!(" (x{count})"),
            _ => String::new(),
        };
        let last = event["lastTimestamp"].as_str().or_else(|| event["eventTime"].as_str()).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:<8} {:<20} {last}{times}  {source}  {}",
            part("type"),
            part("reason"),
            part("message").trim_end()
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_get_words_and_labels_stay() {
        for (key, expected) in
            [("podIP", "Pod IP"), ("creationTimestamp", "Creation Timestamp"), ("app.io/x", "app.io/x")]
        {
            assert_eq!(words(key), expected);
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "u"},
            "spec": {"containers": [{"name": "box", "args": ["x", "y"]}]}});
        let text = describe(&pod, &[json!({"type": "Normal", "reason": "Started", "count": 2, "message": "m"})]);
        assert!(text.contains("Args:") && text.contains("x, y") && text.contains("Started") && text.contains("(x2)"));
        assert!(!text.contains("Uid"));
        let labelled = json!({"metadata": {"labels": {"run": "x"}}});
        assert!(describe(&labelled, &[]).contains("  run:"), "a label's key is not ours to change");
    }
}
