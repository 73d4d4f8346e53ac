//! How good generated images are: metrics, each with its source, its floor and its uncertainty.
//!
//! [`features`] makes features of images, with a [`classifier`] of its own if need be; [`measure`] and [`evaluator`]
//! put all together. [`frechet`], [`kernel`], [`coverage`] and [`score`] take features as they come; [`pixels`] and
//! [`neighbours`] take images. All statistics are in float64. `tests/metrics.rs` compares them with the
//! standard Python tools.

pub mod classifier;
pub mod coverage;
pub mod evaluator;
pub mod features;
pub mod frechet;
pub mod kernel;
pub mod measure;
pub mod metric;
pub mod neighbours;
pub mod pixels;
pub mod score;
