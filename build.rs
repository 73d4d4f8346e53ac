//! Sets the path on which executables look for libtorch, links libtorch's CUDA library, compiles the C++ of
//! `src/torch/`, and records the commit, which runs write to their files.
//!
//! `torch-sys` finds libtorch and links it, but its linker arguments do not reach our executables.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

fn main() {
    // torch-sys provides this through `links = "tch"`, to packages that depend on it directly.
    let Ok(lib_dir) = env::var("DEP_TCH_LIBTORCH_LIB") else {
        fail("torch-sys named no libtorch folder (DEP_TCH_LIBTORCH_LIB is not set)")
    };
    let lib_dir = Path::new(&lib_dir);
    if !lib_dir.is_dir() {
        fail(&format!("there is no libtorch in {}", lib_dir.display()));
    }
    // Watches the folder, not the CUDA library in it, because cargo treats a file that does not exist as changed
    // at every build. When scripts/setup.sh installs another libtorch, it updates the folder's time.
    println!("cargo:rerun-if-changed={}", lib_dir.display());
    println!("cargo:rerun-if-changed=build.rs");

    let target_os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os == "linux" || target_os == "macos" {
        // With this, an executable finds libtorch even after it is moved, as long as the checkout stays where it is.
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib_dir.display());
    }
    if target_os == "linux" {
        for name in ["torch_cuda", "torch_hip"] {
            if lib_dir.join(format!("lib{name}.so")).exists() {
                // We use none of its symbols: it registers itself when it is loaded. The linker would
                // therefore drop it as unneeded, and libtorch would report that there is no GPU.
                println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-l{name},--as-needed");
            }
        }
        satisfy_cuda_request(lib_dir);
    }
    println!("cargo:rustc-env=DCGAN_LIBTORCH_LIB={}", lib_dir.display());
    compile_shim(lib_dir);
    name_commit();
}

/// Compiles `src/torch/`: what needs CUDA, only for a libtorch with CUDA whose headers are found. Sets the flag
/// `cuda_graphs` then.
fn compile_shim(lib_dir: &Path) {
    println!("cargo:rustc-check-cfg=cfg(cuda_graphs)");
    // A crate that depends on this one and has copied this file gets the compiled functions from here.
    if !Path::new("src/torch/shim.cpp").exists() {
        return;
    }
    println!("cargo:rerun-if-changed=src/torch");
    let include = lib_dir.parent().unwrap_or(lib_dir).join("include");
    let compile = |name: &str, file: &str, headers: Option<&Path>| {
        let mut build = cc::Build::new();
        // As torch-sys does it. Warnings about libtorch's own headers are not ours.
        build.cpp(true).std("c++17").opt_level(1).define("_GLIBCXX_USE_CXX11_ABI", "1");
        for folder in [Some(&*include), headers].into_iter().flatten() {
            build.flag(format!("-isystem{}", folder.display()));
        }
        build.file(file).try_compile(name).map_err(|error| error.to_string())
    };
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    if let Some(headers) = cuda_headers(lib_dir)
        && lib_dir.join("libc10_cuda.so").exists()
    {
        match compile("dcgan_graph", "src/torch/graph.cpp", Some(&headers)) {
            Ok(()) => {
                println!("cargo:rustc-cfg=cuda_graphs");
                // Behind our library, which asks for what is in them.
                println!("cargo:rustc-link-search=native={}", lib_dir.display());
                for name in ["torch_cuda", "c10_cuda"] {
                    println!("cargo:rustc-link-lib=dylib={name}");
                }
            }
            Err(error) => println!(
                "cargo:warning=there will be no CUDA graphs, for src/torch/graph.cpp does not compile with the headers in \
                 {}: {error}",
                headers.display()
            ),
        }
    }
    if let Err(error) = compile("dcgan_torch", "src/torch/shim.cpp", None) {
        fail(&format!("src/torch/shim.cpp does not compile: {error}"));
    }
}

/// The folder of CUDA's headers: beside libtorch, where `scripts/setup.sh --cuda` and wheels put them, or that of an
/// installed toolkit.
fn cuda_headers(lib_dir: &Path) -> Option<PathBuf> {
    let beside = lib_dir.join("../../nvidia/cu13/include");
    let home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("include"));
    let usual = Path::new("/usr/local/cuda/include").to_path_buf();
    let is_whole = |folder: &PathBuf| {
        ["cuda_runtime_api.h", "crt/host_defines.h"].iter().all(|name| folder.join(name).exists())
    };
    [Some(beside), home, Some(usual)].into_iter().flatten().find(is_whole)
}

/// Sets `DCGAN_GIT_COMMIT` where this is a checkout and git is installed.
fn name_commit() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // A crate that is unpacked inside another project's checkout does not belong to that commit.
    if !Path::new(".git").exists() {
        return;
    }
    let Some(mut commit) = git(&["rev-parse", "HEAD"]) else { return };
    if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty())
    {
        commit.push_str(" (modified)");
    }
    println!("cargo:rustc-env=DCGAN_GIT_COMMIT={commit}");
    // Watches only what exists, because cargo treats a missing file as changed at every build.
    println!("cargo:rerun-if-changed=src");
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

/// Gives the linker an empty `libtorch_cuda` where libtorch was built without CUDA.
///
/// A torch-sys that was built with a CUDA libtorch keeps asking for `-ltorch_cuda`, and cargo has no reason to build it
/// again when a libtorch for the CPU takes its place.
fn satisfy_cuda_request(lib_dir: &Path) {
    let out_dir = env::var("OUT_DIR").unwrap_or_default();
    let empty = Path::new(&out_dir).join("libtorch_cuda.a");
    let done = if !lib_dir.join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-search=native={out_dir}");
        fs::write(&empty, "!<arch>\n")
    } else if empty.exists() {
        fs::remove_file(&empty) // otherwise the linker might use it instead of the real library
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
