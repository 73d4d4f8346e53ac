//! Arguments of `import`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What `dcgan export` or a run wrote (safetensors or tf), or what
    /// scripts/tf_checkpoint_to_safetensors.py made: both networks in one file, or one in each of two.
    /// A network that is in none begins with initial values
    #[arg(value_name = "FILE", required = true, num_args = 1..=2)]
    pub files: Vec<PathBuf>,
    /// The checkpoint to write
    #[arg(long, value_name = "CHECKPOINT.safetensors")]
    pub out: PathBuf,
    /// Overwrite what is there already
    #[arg(long)]
    pub force: bool,
}
