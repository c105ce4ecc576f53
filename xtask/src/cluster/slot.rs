//! Slots: small numbers that keep the clusters of one machine apart. A slot is a file
//! that names its cluster's folder, made with `O_EXCL`, so that two cannot take the same.

use std::{fs, io::Write, path::Path};

use anyhow::bail;

const DIR: &str = "/run/coxswain/slots";
/// Bounded by the address ranges of [`super::Cluster`].
const SLOTS_MAX: u8 = 20;

/// Takes the lowest free slot for the cluster in `dir`.
pub fn take(dir: &Path) -> anyhow::Result<u8> {
    fs::create_dir_all(DIR)?;
    for slot in 0..SLOTS_MAX {
        let file = Path::new(DIR).join(slot.to_string());
        if let Ok(owner) = fs::read_to_string(&file)
            && !Path::new(owner.trim()).exists()
        {
            fs::remove_file(&file)?; // its folder was removed by hand
        }
        match fs::OpenOptions::new().write(true).create_new(true).open(&file) {
            Ok(mut file) => {
                fs::create_dir_all(dir)?;
                writeln!(file, "{}", dir.display())?;
                return Ok(slot);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error.into()),
        }
    }
    bail!("{SLOTS_MAX} clusters run on this machine; stop one with `cargo xtask down --dir …` (see {DIR})")
}

pub fn release(slot: u8) {
    let _ = fs::remove_file(Path::new(DIR).join(slot.to_string()));
}

/// No cluster is left on this machine.
pub fn all_free() -> bool {
    fs::read_dir(DIR).map_or(true, |mut entries| entries.next().is_none())
}
