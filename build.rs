//! Run path, CUDA linking, and the commit that a run's record names; nothing else.
//!
//! `torch-sys` finds libtorch and links it, but its linker arguments don't reach our executables.

use std::path::Path;
use std::process::Command;
use std::{env, fs, process};

fn main() {
    // From torch-sys' `links = "tch"`; set only when this package depends on torch-sys directly.
    let Ok(lib_dir) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        fail("torch-sys named no libtorch folder (DEP_TCH_LIBTORCH_LIB is not set)")
    };
    let lib_dir = Path::new(&lib_dir);
    if !lib_dir.is_dir() {
        fail(&format!("there is no libtorch in {}", lib_dir.display()));
    }
    // The folder, not the file: cargo takes a file that doesn't exist for changed, every time.
    // scripts/setup.sh gives the folder a new time when it puts another set in its place.
    println!("cargo:rerun-if-changed={}", lib_dir.display());
    println!("cargo:rerun-if-changed=build.rs");

    let target_os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os == "linux" || target_os == "macos" {
        // The executable finds libtorch wherever it is moved, as long as the checkout stays.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib_dir.display());
    }
    if target_os == "linux" {
        for name in ["torch_cuda", "torch_hip"] {
            if lib_dir.join(format!("lib{name}.so")).exists() {
                // No symbol of ours is in it: it registers itself when it is loaded. The linker
                // would drop it as unneeded, and libtorch would then report no GPU.
                println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-l{name},--as-needed");
            }
        }
        satisfy_cuda_request(lib_dir);
    }
    println!("cargo:rustc-env=DCGAN_LIBTORCH_LIB={}", lib_dir.display());
    name_commit();
}

/// `DCGAN_GIT_COMMIT`, where this is a checkout and git is there.
fn name_commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // A crate unpacked inside somebody else's checkout is not of that checkout's commit.
    if !Path::new(".git").exists() {
        return;
    }
    let Some(mut commit) = git(&["rev-parse", "HEAD"]) else { return };
    if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty())
    {
        commit.push_str(" (modified)");
    }
    println!("cargo:rustc-env=DCGAN_GIT_COMMIT={commit}");
    // Only what exists: cargo takes the rest for changed, every time.
    println!("cargo:rerun-if-changed=src");
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// A torch-sys that was built on the CUDA set asks for `-ltorch_cuda` ever after, and cargo has no
/// reason to build it anew on the CPU set: there, give the linker an empty library of that name.
fn satisfy_cuda_request(lib_dir: &Path) {
    let out_dir = env::var("OUT_DIR").unwrap_or_default();
    let empty = Path::new(&out_dir).join("libtorch_cuda.a");
    let done = if !lib_dir.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-search=native={out_dir}");
        fs::write(&empty, "!<arch>\n")
    } else if empty.exists() {
        fs::remove_file(&empty) // or the linker might take it for the real one
    } else {
        Ok(())
    };
    if let Err(error) = done {
        fail(&format!("can't write {}: {error}", empty.display()));
    }
}

fn fail(found: &str) -> ! {
    println!("cargo:warning={found}. Run scripts/setup.sh, or set LIBTORCH to a libtorch 2.13.0.");
    process::exit(1)
}
