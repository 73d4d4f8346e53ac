//! `dcgan doctor`: what this build and this machine can do.

use std::process::ExitCode;

use anyhow::Result;
use dcgan::architecture::{Architecture, ModelConfig};
use dcgan::device::{
    Cuda, IN_ARCHIVE, cpu_capability, cpu_name, default_threads, dotted, libtorch_folder,
    libtorch_version,
};
use dcgan::settings::{Precision, TrainConfig};
use dcgan::torch::HAS_GRAPHS;

use super::output::print;

/// `dcgan doctor`.
///
/// # Errors
/// If standard output fails.
pub fn doctor() -> Result<ExitCode> {
    print(format!("{}\n", report()).as_bytes())
}

/// Whether CUDA graphs can be made by a build that `has_graphs`, with a libtorch that was `built` with CUDA, `in_archive` or
/// in a checkout.
fn graphs(built: bool, has_graphs: bool, in_archive: bool) -> &'static str {
    match (has_graphs, built, in_archive) {
        (true, ..) => "yes",
        (false, true, true) => {
            "no: CUDA's headers were missing when this was built; take another archive, or build from the sources"
        }
        (false, true, false) => {
            "no: CUDA's headers were missing when this was built; run ./scripts/setup.sh --cuda again, or set CUDA_HOME to a toolkit, and build again"
        }
        (false, false, _) => "no: they need CUDA",
    }
}

/// One line a fact, and for each 'no' what to do.
fn report() -> String {
    let mut lines = Vec::new();
    let mut say = |name: &str, value: String| lines.push(format!("{name:<16} {value}"));
    say("dcgan", dcgan::VERSION.to_owned());
    say("libtorch", libtorch_version().unwrap_or_else(|| "unknown version".to_owned()));
    let folder = libtorch_folder();
    say("  in", folder.map_or("unknown".to_owned(), |folder| folder.display().to_string()));
    say("CPU", cpu_name());
    let capability = cpu_capability();
    say(
        "  capability",
        if capability.is_empty() { "unknown".to_owned() } else { capability.join(", ") },
    );
    say(
        "  threads",
        format!(
            "{} by default ({} logical cores for this process, {} physical)",
            default_threads(),
            num_cpus::get(),
            num_cpus::get_physical()
        ),
    );
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let one_dnn = match tch::utils::has_mkldnn() {
        true => "yes",
        false => "no: convolutions will be slow; use a libtorch that was built with it",
    };
    say("  oneDNN", one_dnn.to_owned());
    // The reference's networks are possible, so their layers are there.
    if let Ok(architecture) = Architecture::new(ModelConfig::default()) {
        say(
            "  convolutions",
            "of the default networks, from noise to images and from images to logits:".to_owned(),
        );
        for precision in [Precision::F32, Precision::Bf16] {
            let batch = TrainConfig::default().batch_size;
            let ways = architecture.algorithms(precision.compute(), batch, false);
            let names: Vec<_> = ways.iter().map(|(_, way)| way.name()).collect();
            say(&format!("    {}", precision.name()), names.join(", "));
        }
    }
    let cuda = Cuda::look();
    let obstacles = cuda.obstacles();
    say("CUDA", if obstacles.is_empty() { "ready" } else { "not usable:" }.to_owned());
    for obstacle in &obstacles {
        say("", format!("- {obstacle}"));
    }
    say("  built with", yes_no(cuda.built));
    say("  linked", yes_no(cuda.linked));
    say("  graphs", graphs(cuda.built, HAS_GRAPHS, IN_ARCHIVE).to_owned());
    say(
        "  driver",
        cuda.driver.as_ref().map_or("no".to_owned(), |v| format!("CUDA {}", dotted(*v))),
    );
    say("  devices", cuda.devices.to_string());
    if cuda.devices > 0 {
        let cudnn = match (tch::Cuda::cudnn_is_available(), IN_ARCHIVE) {
            (true, _) => "yes",
            (false, true) => "no: convolutions will be slow; unpack the archive again",
            (false, false) => "no: convolutions will be slow; run ./scripts/setup.sh --cuda again",
        };
        say("  cuDNN", cudnn.to_owned());
    }
    let apple = match (tch::utils::has_mps(), cfg!(target_os = "macos")) {
        (true, _) => "yes, --device mps",
        (false, true) => "no: it needs Apple silicon and macOS 14 or later",
        (false, false) => "no: this is no Mac",
    };
    say("Apple GPU", apple.to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_graphs_says_what_to_do_only_where_that_helps() {
        for in_archive in [true, false] {
            assert_eq!(graphs(true, true, in_archive), "yes");
            let told = graphs(true, false, in_archive);
            assert_eq!(told.contains("setup.sh --cuda again"), !in_archive, "{told}");
            assert_eq!(graphs(false, false, in_archive), "no: they need CUDA");
        }
    }
}
