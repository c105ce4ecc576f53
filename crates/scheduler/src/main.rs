mod affinity;
mod cycle;
mod facts;
mod plugins;
mod preempt;
mod queue;
mod resources;
mod snapshot;
mod spread;
fn main() {}
