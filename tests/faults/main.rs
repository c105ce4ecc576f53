//! Daemons killed at the worst moment: what was acknowledged stays, what should live lives on.

mod history;
mod linear;
mod rollout;
mod watches;
