//! What a command is about: `pods`, `pod/web`, `deploy web api`, `pods,services`.

use anyhow::bail;
use api_types::Resource;

use crate::catalog::Catalog;

/// One resource, and the names asked for; none: all.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub resource: &'a Resource,
    pub names: Vec<String>,
}

/// Reads the words of a command line. `TYPE/NAME` words and `TYPE NAME…` do not mix.
pub fn parse<'a>(catalog: &'a Catalog, words: &[String]) -> anyhow::Result<Vec<Target<'a>>> {
    if words.iter().any(|word| word.contains('/')) {
        let pair = |word: &String| match word.split_once('/') {
            Some((kind, name)) if !name.is_empty() => {
                Ok(Target { resource: find(catalog, kind)?, names: vec![name.to_owned()] })
            }
            _ => bail!("{word:?} stands beside TYPE/NAME words, so it must be TYPE/NAME too"),
        };
        return words.iter().map(pair).collect();
    }
    let Some((kinds, names)) = words.split_first() else { bail!("say what: TYPE, TYPE NAME or TYPE/NAME") };
    let mut targets = Vec::new();
    for kind in kinds.split(',') {
        let members = catalog.category(kind);
        match members.is_empty() {
            true => targets.push(Target { resource: find(catalog, kind)?, names: names.to_vec() }),
            false => targets.extend(members.into_iter().map(|resource| Target { resource, names: Vec::new() })),
        }
    }
    Ok(targets)
}

/// A single named object; a bare word is a pod.
pub fn one<'a>(catalog: &'a Catalog, word: &str) -> anyhow::Result<(&'a Resource, String)> {
    match word.split_once('/') {
        Some((kind, name)) => Ok((find(catalog, kind)?, name.to_owned())),
        None => Ok((find(catalog, "pods")?, word.to_owned())),
    }
}

fn find<'a>(catalog: &'a Catalog, word: &str) -> anyhow::Result<&'a Resource> {
    match catalog.find(word) {
        Some(resource) => Ok(resource),
        None => bail!("the server doesn't have a resource type {word:?}"),
    }
}
