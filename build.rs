//! Sets the path on which executables look for libtorch, links libtorch's CUDA library, compiles the C++ of
//! `src/torch/`, and records the commit, which runs write to their files.
//!
//! `torch-sys` finds libtorch and links it, but its linker arguments do not reach our executables, nor do ours reach
//! those of a crate that depends on this one. So they are told to its build script too: see docs/library.md.
//!
//! `DCGAN_RPATH` is a path to look on in place of libtorch's folder, such as `$ORIGIN/lib`, for executables that are moved
//! together with libtorch (`scripts/package.sh`). Then no path of this machine is compiled in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

fn main() {
    for name in ["cuda_graphs", "nccl", "openmp"] {
        println!("cargo:rustc-check-cfg=cfg({name})");
    }
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        return; // there is no libtorch where only the documentation is made
    }
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
    println!("cargo:rerun-if-env-changed=DCGAN_RPATH");
    let rpath = env::var("DCGAN_RPATH").ok();

    let target_os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if target_os == "linux" || target_os == "macos" {
        // With libtorch's folder, an executable finds it even after it is moved, as long as the checkout stays where it is.
        let path = rpath.clone().unwrap_or_else(|| lib_dir.display().to_string());
        link_arg("RPATH", &format!("-Wl,-rpath,{path}"));
    }
    if target_os == "linux" {
        for name in ["torch_cuda", "torch_hip"] {
            if lib_dir.join(format!("lib{name}.so")).exists() {
                // We use none of its symbols: it registers itself when it is loaded. The linker would
                // therefore drop it as unneeded, and libtorch would report that there is no GPU.
                link_arg(name, &format!("-Wl,--no-as-needed,-l{name},--as-needed"));
            }
        }
        satisfy_cuda_request(lib_dir);
    }
    if rpath.is_none() {
        println!("cargo:rustc-env=DCGAN_LIBTORCH_LIB={}", lib_dir.display());
    }
    compile_shim(lib_dir);
    name_commit();
}

/// Gives the linker an argument for our own executables, and names it to the build scripts of dependent crates, which find
/// it as `DEP_DCGAN_LINK_ARG_<NAME>`.
fn link_arg(name: &str, argument: &str) {
    println!("cargo:rustc-link-arg={argument}");
    println!("cargo:link_arg_{name}={argument}");
}

/// Compiles `src/torch/`: what needs CUDA or NCCL, only for a libtorch with CUDA whose headers are found. Sets the flags
/// `cuda_graphs` and `nccl` then, and `openmp` where convolutions as matrix products use all threads.
fn compile_shim(lib_dir: &Path) {
    println!("cargo:rerun-if-changed=src/torch");
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let out_dir = env::var("OUT_DIR").unwrap_or_default();
    let mut cuda = cuda_headers(lib_dir).filter(|_| lib_dir.join("libc10_cuda.so").exists());
    let mut nccl = cuda.as_deref().and_then(|cuda| nccl_headers(lib_dir, cuda));
    let mut compiled = compile(lib_dir, Path::new(&out_dir), cuda.as_deref(), nccl.as_deref());
    if let (Err(error), Some(headers)) = (&compiled, &nccl) {
        println!(
            "cargo:warning=NCCL is left out, because what needs it does not compile with the headers in {}: {error}",
            headers.display()
        );
        nccl = None;
        compiled = compile(lib_dir, Path::new(&out_dir), cuda.as_deref(), None);
    }
    if let (Err(error), Some(headers)) = (&compiled, &cuda) {
        println!(
            "cargo:warning=what needs CUDA is left out, because it does not compile with the headers in {}: {error}",
            headers.display()
        );
        cuda = None;
        compiled = compile(lib_dir, Path::new(&out_dir), None, None);
    }
    if let Err(error) = compiled {
        fail(&format!("src/torch does not compile: {error}"));
    }
    let has_openmp = compile_products(lib_dir, Path::new(&out_dir));
    for (name, is_there) in
        [("cuda_graphs", cuda.is_some()), ("nccl", nccl.is_some()), ("openmp", has_openmp)]
    {
        if is_there {
            println!("cargo:rustc-cfg={name}");
        }
    }
    println!("cargo:rustc-link-search=native={out_dir}");
    println!("cargo:rustc-link-lib=static=dcgan_torch");
    // Libraries come after ours, which asks for what is in them.
    let is_apple = env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    println!("cargo:rustc-link-lib={}", if is_apple { "c++" } else { "stdc++" });
    println!("cargo:rustc-link-search=native={}", lib_dir.display());
    // torch-sys asks for the others, but the linker drops what nothing before them has asked for.
    let of_cuda = if cuda.is_some() { &["torch_cuda", "c10_cuda"][..] } else { &[] };
    for name in ["torch_cpu", "c10"].iter().chain(of_cuda) {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
    if has_openmp {
        println!("cargo:rustc-link-lib=dylib{}", gomp_of(lib_dir));
    }
}

/// Compiles the convolutions of `src/torch/`, and tells whether they use OpenMP's threads, which are then libtorch's.
fn compile_products(lib_dir: &Path, out_dir: &Path) -> bool {
    let folders = folders_of(lib_dir);
    let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
    let compile = |name: &str, flag: Option<&str>| {
        archive(name, lib_dir, out_dir, &folders, &["src/torch/conv.cpp"], &|build| {
            // Its loops are the program's own.
            build.opt_level(3).flags(flag);
        })?;
        println!("cargo:rustc-link-lib=static={name}");
        Ok(())
    };
    // Elsewhere libtorch's OpenMP is not GCC's, and clang would ask for its own.
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux");
    if is_linux && cc::Build::new().cpp(true).get_compiler().is_like_gnu() {
        match compile("dcgan_conv", Some("-fopenmp")) {
            Ok(()) => return true,
            Err::<(), String>(error) => println!(
                "cargo:warning=convolutions as matrix products will use one thread, and so are never chosen, because they do not compile with OpenMP: {error}"
            ),
        }
    }
    if let Err(error) = compile("dcgan_conv_serial", None) {
        fail(&format!("src/torch/conv.cpp does not compile: {error}"));
    }
    false
}

/// How the linker is told of the libgomp that libtorch uses: it has a name of its own in some of PyTorch's wheels, and a
/// second libgomp would have threads of its own.
fn gomp_of(lib_dir: &Path) -> String {
    let files = fs::read_dir(lib_dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = files.filter_map(|file| file.file_name().into_string().ok()).collect();
    names.sort();
    match names.iter().find(|name| name.starts_with("libgomp-") && name.contains(".so")) {
        Some(name) => format!(":+verbatim={name}"),
        None => "=gomp".to_owned(),
    }
}

/// The folders of libtorch's headers.
fn folders_of(lib_dir: &Path) -> [PathBuf; 2] {
    let include = lib_dir.parent().unwrap_or(lib_dir).join("include");
    let api = include.join("torch/csrc/api/include");
    [include, api]
}

/// Compiles `src/torch/` into `out_dir`, with its parts for CUDA and NCCL if their headers are given.
fn compile(
    lib_dir: &Path,
    out_dir: &Path,
    cuda: Option<&Path>,
    nccl: Option<&Path>,
) -> Result<(), String> {
    let [include, api] = folders_of(lib_dir);
    let folders: Vec<_> =
        [Some(&*include), Some(&*api), cuda, nccl].into_iter().flatten().collect();
    let mut files = vec!["src/torch/shim.cpp", "src/torch/dist.cpp"];
    files.extend(cuda.map(|_| "src/torch/graph.cpp"));
    files.extend(nccl.map(|_| "src/torch/nccl.cpp"));
    archive("dcgan_torch", lib_dir, out_dir, &folders, &files, &|build| {
        if nccl.is_some() {
            build.define("DCGAN_NCCL", None);
        }
    })
}

/// Compiles `files` into the static library `name`, with the headers in `folders` and with what `adjust` says.
///
/// Cargo runs this script after every change of a source. Compiling takes half a minute, so it is done only where something
/// that it reads has changed.
fn archive(
    name: &str,
    lib_dir: &Path,
    out_dir: &Path,
    folders: &[&Path],
    files: &[&str],
    adjust: &dyn Fn(&mut cc::Build),
) -> Result<(), String> {
    let library = out_dir.join(format!("lib{name}.a"));
    let key_file = out_dir.join(format!("{name}.key"));
    let mut build = cc::Build::new();
    // As torch-sys does it. Warnings about libtorch's own headers are not ours.
    build.cpp(true).std("c++17").opt_level(1).define("_GLIBCXX_USE_CXX11_ABI", "1");
    build.cargo_metadata(false).include("src/torch").files(files);
    for folder in folders {
        build.flag(format!("-isystem{}", folder.display()));
    }
    adjust(&mut build);
    let key = key_of(lib_dir, folders, files);
    if library.exists() && fs::read_to_string(&key_file).is_ok_and(|made_with| made_with == key) {
        return Ok(());
    }
    build.try_compile(name).map_err(|error| error.to_string())?;
    fs::write(&key_file, key)
        .map_err(|error| format!("can't write {}: {error}", key_file.display()))
}

/// What decides what compiling `files` gives, as text.
fn key_of(lib_dir: &Path, folders: &[&Path], files: &[&str]) -> String {
    let changed = fs::metadata(lib_dir).and_then(|data| data.modified()).ok();
    let mut key = format!("{changed:?} {folders:?} {files:?}\n");
    for file in files.iter().chain(&["src/torch/shim.h", "src/torch/dist.h", "build.rs"]) {
        key += &fs::read_to_string(file).unwrap_or_default();
    }
    for header in headers_in(Path::new("src/torch/gloo")) {
        key += &fs::read_to_string(header).unwrap_or_default();
    }
    key
}

/// The files in `folder` and in the folders in it, in the order of their paths.
fn headers_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let files = |path: PathBuf| if path.is_dir() { headers_in(&path) } else { vec![path] };
    paths.into_iter().flat_map(files).collect()
}

/// The folder of NCCL's headers: beside libtorch, where wheels put them, or with CUDA's.
fn nccl_headers(lib_dir: &Path, cuda: &Path) -> Option<PathBuf> {
    let beside = lib_dir.join("../../nvidia/nccl/include");
    let usual = Path::new("/usr/include").to_path_buf();
    [beside, cuda.to_path_buf(), usual].into_iter().find(|folder| folder.join("nccl.h").exists())
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
