//! The command line from outside: the built program, files in, files out.
#![cfg(feature = "cli")]

mod attention;
mod files;
mod flight;
mod kernels;
mod layer;
mod oracle;
mod plan;
mod refusals;
mod sampling;
mod simulate;
