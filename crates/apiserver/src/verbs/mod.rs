//! One verb, all kinds. No kind's name appears here: what a kind does differently it
//! says in `rules`, and what is no plain object comes in through a hook.

pub mod hook;
