//! `cox scale`: the number of replicas, through the scale subresource.

use http::Method;
use serde_json::json;

use crate::{flags::Scale, output, server::Server, target};

pub async fn run(server: &Server, flags: Scale) -> anyhow::Result<()> {
    let catalog = server.catalog().await?;
    for target in target::parse(&catalog, &flags.targets)? {
        if target.resource.subresource("scale").is_none() {
            anyhow::bail!("{} cannot be scaled", target.resource.plural);
        }
        for name in &target.names {
            let path = format!("{}/scale", server.path(target.resource, None, name));
            let patch = json!({"spec": {"replicas": flags.replicas}});
            server.write(Method::PATCH, &path, "application/merge-patch+json", &patch).await?;
            println!("{} scaled", output::reference(target.resource, name));
        }
    }
    Ok(())
}
