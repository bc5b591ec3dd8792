//! Tests of the whole: the rules between crates, the harness itself, and
//! dokkaa end to end on three hosts.

mod e2e;
mod harness;
mod rules;
