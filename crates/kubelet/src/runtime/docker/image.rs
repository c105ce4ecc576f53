//! Images: looking, pulling, and the sandbox image that the kubelet brings along.

use std::collections::HashMap;

use bollard::{
    auth::DockerCredentials,
    models::ImageSummary,
    query_parameters::{CreateImageOptionsBuilder, ListImagesOptionsBuilder},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{Engine, refusal};
use crate::runtime::{Credentials, Image, RuntimeError};

pub(super) const SANDBOX_IMAGE: &str = "coxswain/pause:1";
/// The static `pause` of build.rs.
static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
const TAR_BLOCK_BYTES: usize = 512;

impl Engine {
    /// Imports the sandbox image from this very binary if the engine lacks it.
    pub(super) async fn ensure_sandbox_image(&self) -> Result<(), RuntimeError> {
        if self.find_image(SANDBOX_IMAGE).await?.is_some() {
            return Ok(());
        }
        let (repository, tag) = SANDBOX_IMAGE.split_once(':').expect("the constant has a tag");
        let options = CreateImageOptionsBuilder::default()
            .from_src("-")
            .repo(repository)
            .tag(tag)
            .changes(vec![r#"ENTRYPOINT ["/pause"]"#.to_owned()])
            .build();
        let archive = bollard::body_full(Bytes::from(tar_of("pause", PAUSE)));
        let progress = self.docker.create_image(Some(options), Some(archive), None);
        progress.try_collect::<Vec<_>>().await.map_err(refusal)?;
        tracing::info!(image = SANDBOX_IMAGE, "imported the sandbox image");
        Ok(())
    }

    pub(super) async fn find_image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        match self.docker.inspect_image(name).await.map_err(refusal) {
            Ok(details) => Ok(Some(Image {
                id: details.id.unwrap_or_default(),
                names: [details.repo_digests, details.repo_tags].into_iter().flatten().flatten().collect(),
                user: details.config.and_then(|config| config.user).unwrap_or_default(),
                size_bytes: details.size.unwrap_or_default(),
            })),
            Err(RuntimeError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        let filters = HashMap::from([("dangling", vec!["false"])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let summaries = self.docker.list_images(Some(options)).await.map_err(refusal)?;
        Ok(summaries.into_iter().map(image).collect())
    }

    pub(super) async fn pull_image(&self, name: &str, credentials: Option<&Credentials>) -> Result<(), RuntimeError> {
        let options = CreateImageOptionsBuilder::default().from_image(name).build();
        let credentials = credentials.map(|credentials| DockerCredentials {
            username: Some(credentials.username.clone()),
            password: Some(credentials.password.clone()),
            serveraddress: Some(credentials.registry.clone()),
            ..DockerCredentials::default()
        });
        let mut progress = self.patient.create_image(Some(options), None, credentials);
        while let Some(line) = progress.next().await {
            line.map_err(refusal)?;
        }
        Ok(())
    }
}

fn image(summary: ImageSummary) -> Image {
    let names = summary.repo_digests.into_iter().chain(summary.repo_tags);
    Image {
        id: summary.id,
        names: names.filter(|name| !name.contains("<none>")).collect(),
        user: String::new(),
        size_bytes: summary.size,
    }
}

/// A tar archive (ustar) that holds one executable file.
pub(super) fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; TAR_BLOCK_BYTES];
    let mut field = |offset: usize, text: &str| header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000755\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", content.len()));
    field(136, "00000000000\0");
    // The checksum counts its own field as spaces.
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\u{0}00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(TAR_BLOCK_BYTES) + 2 * TAR_BLOCK_BYTES, 0);
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_is_padded_and_ends_with_two_empty_blocks() {
        let archive = tar_of("x", b"hello");
        assert_eq!(archive.len(), 4 * TAR_BLOCK_BYTES);
        assert_eq!(&archive[124..136], b"00000000005\0");
        assert_eq!(&archive[512..517], b"hello");
    }

    #[test]
    fn pause_is_an_elf_file() {
        assert!(PAUSE.starts_with(b"\x7fELF"));
    }
}
