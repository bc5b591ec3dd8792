//! Makes Docker match the plan: claims slots, executes plans, keeps the directory.

pub mod engine;
