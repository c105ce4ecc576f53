//! Values that are read from files, and read again when the files change. What holds such a
//! value asks for it each time; what is under way keeps what it began with.

use std::{
    collections::BTreeSet,
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use notify::{RecursiveMode, Watcher};
use parking_lot::Mutex;

/// The value as its files stand now. Clones share it.
pub struct Reloading<T> {
    current: Arc<ArcSwap<T>>,
    /// Ends the watching when dropped.
    _watcher: Option<Arc<notify::RecommendedWatcher>>,
}

impl<T> Clone for Reloading<T> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), _watcher: self._watcher.clone() }
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// A value that no file can change.
    pub fn fixed(value: T) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(value)), _watcher: None }
    }

    /// `read` is called now, and whenever one of `files` has other bytes than before. A later failure of it
    /// leaves the value as it is: half-written files are everyday, and the next event tells of their end.
    pub fn watch<E>(files: &[PathBuf], read: impl Fn() -> Result<T, E> + Send + Sync + 'static) -> Result<Self, E>
    where
        E: Display + From<notify::Error>,
    {
        let bytes = contents(files);
        let current = Arc::new(ArcSwap::from_pointee(read()?));
        let source =
            Arc::new(Source { files: files.to_vec(), bytes: Mutex::new(bytes), current: current.clone(), read });
        let watched = source.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove()) {
                watched.refresh();
            }
        })?;
        for folder in folders(files) {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        // What changed before the watching began would be missed.
        source.refresh();
        Ok(Self { current, _watcher: Some(Arc::new(watcher)) })
    }

    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }
}

struct Source<T, F> {
    files: Vec<PathBuf>,
    bytes: Mutex<Vec<Option<Vec<u8>>>>,
    current: Arc<ArcSwap<T>>,
    read: F,
}

impl<T, E: Display, F: Fn() -> Result<T, E>> Source<T, F> {
    fn refresh(&self) {
        let mut bytes = self.bytes.lock();
        let found = contents(&self.files);
        if found == *bytes {
            return;
        }
        let file = self.files.first().map(|path| path.display().to_string()).unwrap_or_default();
        match (self.read)() {
            Ok(value) => {
                self.current.store(Arc::new(value));
                *bytes = found;
                tracing::info!(file, "read again");
            }
            Err(error) => tracing::debug!(file, %error, "kept as it was"),
        }
    }
}

fn contents(files: &[PathBuf]) -> Vec<Option<Vec<u8>>> {
    files.iter().map(|path| std::fs::read(path).ok()).collect()
}

/// Folders, not files: a mounted volume changes by swapping a link beside them.
fn folders(files: &[PathBuf]) -> BTreeSet<&Path> {
    files.iter().map(|path| path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."))).collect()
}
