//! Whole clusters: every daemon real, every container real, stock clients as witnesses.

mod cox;
mod deploy;
mod dns;
mod hooks;
mod isolation;
mod nodes;
mod pending;
mod python;
mod restarts;
mod streams;
mod tour;
