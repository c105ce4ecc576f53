//! Facts of the machine, read from the kernel.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, UdpSocket},
    path::Path,
};

/// What does not change while the kubelet runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub cpus: i64,
    pub memory_bytes: i64,
    pub hostname: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    pub may_lower_oom_score: bool,
}

/// What may run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_available_bytes: i64,
    pub disk_bytes: i64,
    pub disk_available_bytes: i64,
    pub inodes: i64,
    pub inodes_free: i64,
    pub pids_max: i64,
    pub pids: i64,
}

/// Bit of CAP_SYS_RESOURCE in the kernel's capability masks.
const CAP_SYS_RESOURCE: u32 = 24;

pub fn facts() -> Facts {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os_release = text("/etc/os-release");
    let pretty = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    Facts {
        cpus: std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1)),
        memory_bytes: memory().get("MemTotal").copied().unwrap_or_default(),
        hostname: text("/proc/sys/kernel/hostname").to_lowercase(),
        machine_id: text("/etc/machine-id"),
        system_uuid: Some(text("/sys/class/dmi/id/product_uuid"))
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| text("/etc/machine-id")),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image: pretty.unwrap_or("Linux").trim_matches('"').to_owned(),
        may_lower_oom_score: has_capability(&text("/proc/self/status"), CAP_SYS_RESOURCE),
    }
}

fn has_capability(status: &str, bit: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << bit) != 0
}

/// `/proc/meminfo` in bytes.
fn memory() -> BTreeMap<String, i64> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let entry = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let kib: i64 = rest.split_whitespace().next()?.parse().ok()?;
        Some((name.to_owned(), kib * 1024))
    };
    text.lines().filter_map(entry).collect()
}

/// `root` names the file system that pods fill.
pub fn usage(root: &Path) -> Usage {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let disk = rustix::fs::statvfs(root).ok();
    let of_disk = |read: fn(&rustix::fs::StatVfs) -> u64| disk.as_ref().map(read).map(number).unwrap_or_default();
    let pids_max = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split_whitespace().nth(3).and_then(|pair| pair.split('/').nth(1));
    Usage {
        memory_available_bytes: memory().get("MemAvailable").copied().unwrap_or_default(),
        disk_bytes: of_disk(|disk| disk.f_blocks * disk.f_frsize),
        disk_available_bytes: of_disk(|disk| disk.f_bavail * disk.f_frsize),
        inodes: of_disk(|disk| disk.f_files),
        inodes_free: of_disk(|disk| disk.f_favail),
        pids_max: pids_max.trim().parse().unwrap_or_default(),
        pids: running.and_then(|count| count.parse().ok()).unwrap_or_default(),
    }
}

/// The address from which this machine would reach others, found without sending anything.
pub fn default_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address of the documentation range: only the routing table is asked.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// Docker's and Rust's names of architectures are not Kubernetes'.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_by_bit() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001ffffffffff\n", CAP_SYS_RESOURCE));
        assert!(!has_capability("CapEff:\t000001fffeffffff\n", CAP_SYS_RESOURCE));
        assert!(!has_capability("", CAP_SYS_RESOURCE));
    }

    #[test]
    fn this_machine_has_cpus_and_memory() {
        let facts = facts();
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && !facts.kernel.is_empty());
        assert!(usage(Path::new("/")).disk_bytes > 0);
    }
}
