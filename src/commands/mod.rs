//! What each command does, from its arguments to its output, one file a command. No command calls another:
//! what several do is in a file of its own.
//!
//! - [`errors`]: errors in terms of flags and commands; [`progress`]: bars and lines on standard error;
//! - [`idle_threads`]: how the threads of libtorch wait;
//! - [`interrupted`]: what a signal does to commands other than `train`;
//! - [`output`]: printing, and checks of the files that are to be written;
//! - [`generator`]: opening the generator that arguments name; [`dataset`]: loading a data set;
//! - [`watch`] and [`compare`]: two of the commands of `runs`;
//! - [`ranks`]: several processes for one command;
//! - [`evaluator`]: what images are measured by; [`movie`]: the film of a run's samples.

mod bench;
mod compare;
mod data;
mod dataset;
mod doctor;
mod errors;
mod eval;
mod evaluator;
mod export;
mod film;
mod generator;
mod idle_threads;
mod import;
mod interpolate;
mod interrupted;
mod man;
mod memory;
mod movie;
mod nearest;
mod output;
mod plot;
mod progress;
mod ranks;
mod report;
mod runs;
mod sample;
mod train;
mod verify;
mod watch;

pub use bench::bench;
pub use data::data;
pub use doctor::doctor;
pub use errors::{exit_code, print_error};
pub use eval::eval;
pub use export::export;
pub use film::film;
pub use idle_threads::let_idle_threads_sleep;
pub use import::import;
pub use interpolate::interpolate;
pub use interrupted::{leave_nothing_when_interrupted, wait_if_interrupted};
pub use man::man;
pub use nearest::nearest;
pub use output::print;
pub use plot::plot;
pub use report::report;
pub use runs::runs;
pub use sample::sample;
pub use train::train;
pub use verify::verify;
