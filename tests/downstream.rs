//! A crate that depends on this one builds and runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

#[test]
#[ignore = "builds the library and its dependencies anew without the command line: some minutes"]
fn a_crate_that_depends_on_this_one_samples_and_trains() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO"))
        .args(["run", "--release", "--manifest-path", "tests/downstream/Cargo.toml"])
        .arg("--target-dir")
        .arg(root.join("target/downstream"))
        .current_dir(root)
        .env_remove("LD_LIBRARY_PATH") // cargo sets it for tests, and the program must do without
        .output()?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{err}");
    ensure!(out.starts_with("4096 bytes of images\n"), "{out}"); // 4 images of 32×32×1
    ensure!(out.contains("iteration 5: d_loss "), "{out}");
    Ok(())
}
