//! `kubelet`: read flags, build, serve, leave the containers alone.

use kubelet::{flags::Flags, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags: Flags = daemon::flags::parse_with_config(kubelet::flags::CONFIG_FIELDS);
    daemon::start("kubelet", &flags.log);
    run::run(flags, daemon::shutdown()).await
}
