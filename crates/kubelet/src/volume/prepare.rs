//! Makes a pod's volumes exist, and makes those from the API hold what the API says now. May be repeated at any time.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use api_types::{
    Key, Object,
    jiff::{SignedDuration, Timestamp},
    k8s::{
        authentication::TokenRequest,
        core::{
            DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
            ServiceAccountTokenProjection, Volume,
        },
    },
    quantity::Quantity,
};
use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{
    PodDir, VolumeError,
    atomic::{self, File, Payload},
    downward,
    payload::{self, DEFAULT_MODE, Source},
};
use crate::{
    objects::{ObjectError, Objects},
    pod::resources::{self, ResourceList},
};

/// Tokens are renewed when this share of their life is over, and at the latest after a day.
const TOKEN_USED_PERCENT: i64 = 80;
const TOKEN_AGE_MAX: SignedDuration = SignedDuration::from_hours(24);
const TOKEN_EXPIRATION_S_DEFAULT: i64 = 3600;
/// Upstream's directory names of volume plugins.
pub const EMPTY_DIR: &str = "kubernetes.io~empty-dir";
const CONFIG_MAP: &str = "kubernetes.io~configmap";
const SECRET: &str = "kubernetes.io~secret";
const PROJECTED: &str = "kubernetes.io~projected";
const DOWNWARD: &str = "kubernetes.io~downward-api";

/// What a pod's volumes are made from, beside the pod.
pub struct Context<'a> {
    pub pod: &'a Pod,
    pub dir: &'a PodDir,
    pub objects: &'a Objects,
    pub tokens: &'a Tokens,
    pub allocatable: &'a ResourceList,
    pub ips: &'a [IpAddr],
    pub node_ips: &'a [IpAddr],
    pub now: Timestamp,
}

/// The volume that could not be made, and why.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
pub struct PrepareError {
    pub volume: String,
    pub source: VolumeError,
}

/// Makes all volumes. Answers when a token in them has to be renewed.
pub async fn prepare(context: &Context<'_>) -> Result<Option<Timestamp>, PrepareError> {
    let mut renew_at: Option<Timestamp> = None;
    let spec = context.pod.spec.as_ref();
    for volume in spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let made = make(context, volume).await;
        let due = made.map_err(|source| PrepareError { volume: volume.name.clone(), source })?;
        renew_at = [renew_at, due].into_iter().flatten().min();
    }
    Ok(renew_at)
}

/// Where a volume is on the machine, and whether containers may only read it.
pub fn place(dir: &PodDir, volume: &Volume) -> Option<(PathBuf, bool)> {
    let name = &volume.name;
    if let Some(source) = &volume.host_path {
        return Some((PathBuf::from(&source.path), false));
    }
    let (kind, read_only) = if volume.empty_dir.is_some() {
        (EMPTY_DIR, false)
    } else if volume.config_map.is_some() {
        (CONFIG_MAP, true)
    } else if volume.secret.is_some() {
        (SECRET, true)
    } else if volume.projected.is_some() {
        (PROJECTED, true)
    } else if volume.downward_api.is_some() {
        (DOWNWARD, true)
    } else {
        return None;
    };
    Some((dir.volume(kind, name), read_only))
}

async fn make(context: &Context<'_>, volume: &Volume) -> Result<Option<Timestamp>, VolumeError> {
    let Some((path, _)) = place(context.dir, volume) else {
        return Err(VolumeError::Unavailable("this kind of volume is not supported on this node".to_owned()));
    };
    if let Some(source) = &volume.host_path {
        return host_path(source).map(|()| None);
    }
    if let Some(source) = &volume.empty_dir {
        return empty_dir(context, &path, source).map(|()| None);
    }
    let (mut files, renew_at) = contents(context, volume).await?;
    let group = fs_group(context.pod);
    if group.is_some() {
        files.values_mut().for_each(|file| file.mode |= 0o440);
    }
    fs::create_dir_all(&path).map_err(|error| VolumeError::file(&path, error))?;
    let stamp = context.now.strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
    atomic::write(&path, &files, group, &stamp)?;
    Ok(renew_at)
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// The user that all containers run as, if they agree.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let pod_user = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.security_context.as_ref().and_then(|context| context.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

async fn contents(context: &Context<'_>, volume: &Volume) -> Result<(Payload, Option<Timestamp>), VolumeError> {
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let items = source.items.as_deref().unwrap_or_default();
        let files = config_map(context, &source.name, items, source.optional, mode).await?;
        return Ok((files, None));
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let items = source.items.as_deref().unwrap_or_default();
        let name = source.secret_name.as_deref().unwrap_or_default();
        return Ok((secret(context, name, items, source.optional, mode).await?, None));
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        return Ok((downward_files(context, source.items.as_deref().unwrap_or_default(), mode)?, None));
    }
    match &volume.projected {
        Some(source) => projected(context, source).await,
        None => Ok((Payload::new(), None)),
    }
}

async fn projected(
    context: &Context<'_>,
    source: &ProjectedVolumeSource,
) -> Result<(Payload, Option<Timestamp>), VolumeError> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    let mut files = Payload::new();
    let mut renew_at: Option<Timestamp> = None;
    for part in source.sources.iter().flatten() {
        if let Some(part) = &part.config_map {
            let items = part.items.as_deref().unwrap_or_default();
            files.extend(config_map(context, &part.name, items, part.optional, mode).await?);
        }
        if let Some(part) = &part.secret {
            let items = part.items.as_deref().unwrap_or_default();
            files.extend(secret(context, &part.name, items, part.optional, mode).await?);
        }
        if let Some(part) = &part.downward_api {
            files.extend(downward_files(context, part.items.as_deref().unwrap_or_default(), mode)?);
        }
        if let Some(part) = &part.service_account_token {
            let (token, due) = token(context, part).await?;
            let owner = common_user(context.pod);
            let mode = if owner.is_some() || fs_group(context.pod).is_some() { 0o600 } else { mode };
            files.insert(part.path.clone(), File { owner, ..payload::file(token.into_bytes(), mode) });
            renew_at = Some(renew_at.map_or(due, |at| at.min(due)));
        }
        if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
            let message = "clusterTrustBundle and podCertificate projections are not supported on this node";
            return Err(VolumeError::Unavailable(message.to_owned()));
        }
    }
    Ok((files, renew_at))
}

fn unavailable(error: ObjectError) -> VolumeError {
    VolumeError::Unavailable(error.to_string())
}

async fn config_map(
    context: &Context<'_>,
    name: &str,
    items: &[KeyToPath],
    optional: Option<bool>,
    default_mode: i32,
) -> Result<Payload, VolumeError> {
    let namespace = context.pod.namespace();
    let found = context.objects.config_map(context.pod.uid(), &Key::new(namespace, name)).await.map_err(unavailable)?;
    payload::files(Source {
        kind: "configmap",
        namespace,
        name,
        data: found.map(|object| payload::config_map_data(&object)),
        items,
        optional: optional.unwrap_or_default(),
        default_mode,
    })
}

async fn secret(
    context: &Context<'_>,
    name: &str,
    items: &[KeyToPath],
    optional: Option<bool>,
    default_mode: i32,
) -> Result<Payload, VolumeError> {
    let namespace = context.pod.namespace();
    let found = context.objects.secret(context.pod.uid(), &Key::new(namespace, name)).await.map_err(unavailable)?;
    payload::files(Source {
        kind: "secret",
        namespace,
        name,
        data: found.map(|object| payload::secret_data(&object)),
        items,
        optional: optional.unwrap_or_default(),
        default_mode,
    })
}

fn downward_files(
    context: &Context<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: i32,
) -> Result<Payload, VolumeError> {
    let mut files = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref, &context.pod.spec) {
            (Some(field), _, _) => downward::field(context.pod, &field.field_path, context.ips, context.node_ips),
            (None, Some(selector), Some(spec)) => resources::field(spec, "", selector, context.allocatable),
            (None, _, _) => Ok(String::new()),
        };
        let value = value.map_err(VolumeError::Unavailable)?;
        files.insert(item.path.clone(), payload::file(value.into_bytes(), item.mode.unwrap_or(default_mode)));
    }
    Ok(files)
}

/// Tokens that were given out, so that a look at the volumes does not ask for new ones.
#[derive(Default)]
pub struct Tokens(Mutex<BTreeMap<TokenKey, Token>>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TokenKey {
    pod_uid: String,
    audience: String,
    expiration_s: i64,
}

#[derive(Clone)]
struct Token {
    text: String,
    renew_at: Timestamp,
}

impl Tokens {
    pub fn release(&self, pod_uid: &str) {
        self.0.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}

async fn token(
    context: &Context<'_>,
    part: &ServiceAccountTokenProjection,
) -> Result<(String, Timestamp), VolumeError> {
    let expiration_s = part.expiration_seconds.unwrap_or(TOKEN_EXPIRATION_S_DEFAULT);
    let key = TokenKey {
        pod_uid: context.pod.uid().to_owned(),
        audience: part.audience.clone().unwrap_or_default(),
        expiration_s,
    };
    let known = context.tokens.0.lock().get(&key).cloned();
    if let Some(token) = known.filter(|token| context.now < token.renew_at) {
        return Ok((token.text, token.renew_at));
    }
    let answer =
        context.objects.token(context.pod, part.audience.as_deref(), expiration_s).await.map_err(unavailable)?;
    let Some((text, renew_at)) = read_token(answer, context.now) else {
        return Err(VolumeError::Unavailable("the apiserver answered a token request without a token".to_owned()));
    };
    context.tokens.0.lock().insert(key, Token { text: text.clone(), renew_at });
    Ok((text, renew_at))
}

fn read_token(answer: TokenRequest, now: Timestamp) -> Option<(String, Timestamp)> {
    let status = answer.status?;
    let life = status.expiration_timestamp?.0.duration_since(now);
    let use_for = (life * i32::try_from(TOKEN_USED_PERCENT).unwrap_or(i32::MAX) / 100).min(TOKEN_AGE_MAX);
    Some((status.token?, now.saturating_add(use_for).unwrap_or(Timestamp::MAX)))
}

fn empty_dir(context: &Context<'_>, path: &Path, source: &EmptyDirVolumeSource) -> Result<(), VolumeError> {
    fs::create_dir_all(path).map_err(|error| VolumeError::file(path, error))?;
    if source.medium.as_deref() == Some("Memory") && !is_mount_point(path) {
        let limit = source.size_limit.as_ref().and_then(|limit| Quantity::parse(&limit.0).ok()).map(Quantity::value);
        let limit = limit.filter(|bytes| *bytes > 0);
        let options = limit.map_or("mode=0777".to_owned(), |bytes| format!("mode=0777,size={bytes}"));
        let options = std::ffi::CString::new(options).expect("the options hold no zero byte");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
            .map_err(|source| VolumeError::Mount { path: path.to_owned(), source })?;
    }
    // Containers of any user share it; with a group, new files get that group.
    let group = fs_group(context.pod);
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if group.is_some() {
        chown(path, None, group).map_err(|error| VolumeError::file(path, error))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| VolumeError::file(path, error))
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    path.parent().is_some_and(|parent| device(parent) != device(path))
}

/// Source: `checkType` in pkg/volume/hostpath.
fn host_path(source: &HostPathVolumeSource) -> Result<(), VolumeError> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let fail = |error| VolumeError::file(path, error);
    match kind {
        "DirectoryOrCreate" if !path.exists() => fs::create_dir_all(path).map_err(fail)?,
        "FileOrCreate" if !path.exists() => {
            fs::File::create(path).map_err(fail)?;
        }
        _ => {}
    }
    let found = fs::metadata(path).map(|meta| meta.file_type()).ok();
    let (fits, what) = match kind {
        "" => (true, ""),
        "Directory" | "DirectoryOrCreate" => (found.is_some_and(|kind| kind.is_dir()), "a directory"),
        "File" | "FileOrCreate" => (found.is_some_and(|kind| kind.is_file()), "a file"),
        "Socket" => (found.is_some_and(|kind| kind.is_socket()), "a socket file"),
        "CharDevice" => (found.is_some_and(|kind| kind.is_char_device()), "a character device"),
        "BlockDevice" => (found.is_some_and(|kind| kind.is_block_device()), "a block device"),
        other => return Err(VolumeError::Unavailable(format!("{other} is an invalid volume type"))),
    };
    if fits {
        return Ok(());
    }
    Err(VolumeError::Unavailable(format!("hostPath type check failed: {} is not {what}", source.path)))
}

/// Takes a pod's files away, and the tmpfs mounts among them.
pub fn remove(dir: &PodDir) -> Result<(), VolumeError> {
    let memory = fs::read_dir(dir.path().join("volumes").join(EMPTY_DIR)).into_iter().flatten().flatten();
    for entry in memory.filter(|entry| is_mount_point(&entry.path())) {
        let path = entry.path();
        rustix::mount::unmount(&path, UnmountFlags::DETACH).map_err(|source| VolumeError::Mount { path, source })?;
    }
    match fs::remove_dir_all(dir.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::file(dir.path(), error)),
        Ok(()) | Err(_) => Ok(()),
    }
}
