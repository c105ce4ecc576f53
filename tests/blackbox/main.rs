//! The apiserver over a real etcd, asked by raw HTTP and stock kubectl. Each test names the
//! line of the API's semantics that it proves.

mod apply;
mod attacks;
mod audit;
mod authorisation;
mod bad_input;
mod certificates;
mod clock;
mod discovery;
mod encodings;
mod fairness;
mod golden;
mod hostile;
mod identity;
mod lifecycles;
mod lists;
mod matrix;
mod operation;
mod patches;
mod secrecy;
mod semantics_reads;
mod semantics_writes;
mod two_servers;
mod watches;
mod writes;
