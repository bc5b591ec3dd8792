//! Tests of the whole: the rules between crates, the harness itself, the packages, the
//! scripts, and dokkaa end to end on three hosts.

mod dist;
mod e2e;
mod harness;
mod rules;
mod scripts;
