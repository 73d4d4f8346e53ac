//! From files to upright images, and from those to mirrored batches.
//!
//! ```text
//! spec ──► load ──► formats ──► sink ──► cache ──► set ──► batches ──► prefetch
//! its     options   one file    fit to   decoded   upright  mirrored    ahead of
//! name    and key   a format    a size   pixels    bytes    floats      time
//! ```
//!
//! - [`spec`]: what the user calls a data set; [`fetch`]: those that can be downloaded;
//! - [`load()`]: from a name to a set, through the cache of decoded images;
//! - [`formats`]: what can be read. A further format is one file there and one line in its table;
//! - [`sink`]: takes what formats read; [`fit`]: brings each image to the size and channels of the set;
//!   [`findings`]: what was found besides; `remarks`: what of it is told;
//! - [`set`]: images and their classes; [`batches`]: the order of training, the entrance to the mirrored
//!   frame ([`crate::tf::frame`]).

pub mod batches;
mod cache;
pub mod fetch;
pub mod findings;
pub mod fit;
pub mod formats;
#[cfg_attr(not(feature = "cli"), path = "no_http.rs")]
mod http;
mod load;
pub mod prefetch;
mod remarks;
pub mod set;
pub mod sink;
pub mod spec;

pub use batches::{Batch, Batches};
pub use findings::{Deep, Examples, Findings, Foreign};
pub use fit::Fit;
pub use formats::{RangeIsMissing, ShapeIsMissing, builtin, npy};
pub use load::{Event, Options, decoded_bytes, load};
pub use set::{Classes, ImageSet, Labels, SetIdentity};
