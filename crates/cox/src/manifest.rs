//! Objects from files: YAML or JSON, several documents, lists, folders, standard input.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde_json::Value;

pub fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file.is_dir() {
            for file in manifests(file)? {
                objects.extend(parse(&fs::read_to_string(&file)?).with_context(|| file.display().to_string())?);
            }
        } else {
            objects.extend(parse(&text(file)?).with_context(|| file.display().to_string())?);
        }
    }
    if objects.is_empty() {
        bail!("no objects in what was given");
    }
    Ok(objects)
}

fn manifests(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json"));
    files.sort();
    Ok(files)
}

fn text(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

/// Every object of a text; the items of a `List` count one by one.
pub fn parse(text: &str) -> anyhow::Result<Vec<Value>> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        match document["items"].as_array() {
            Some(items) if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                objects.extend(items.iter().cloned());
            }
            _ => objects.push(document),
        }
    }
    for object in &objects {
        if object["kind"].as_str().is_none() || object["apiVersion"].as_str().is_none() {
            bail!("an object without kind or apiVersion");
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_octal_numbers() {
        let objects = parse(
            "kind: A\napiVersion: v1\nmode: 0644\n---\n---\nkind: AList\napiVersion: v1\nitems:\n- {kind: A, apiVersion: v1}\n- {kind: A, apiVersion: v1}\n",
        );
        let objects = objects.expect("well-formed");
        assert_eq!(objects.len(), 3);
        assert_eq!(objects[0]["mode"], 420);
        assert!(parse("a: 1").is_err());
        assert!(parse("{").is_err());
    }
}
