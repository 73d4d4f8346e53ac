#!/usr/bin/env bash
#
# Compiles the fuzz targets of the parsers. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF_USAGE'
Compiles the fuzz targets in fuzz/, which feed arbitrary bytes to the parsers of data files. They do not
need libtorch.

Usage: scripts/build_fuzz.sh [--instrumented]

  (no option)      checks with the stable compiler that every target still compiles. It builds nothing
                   that can be run, so it finds moved files and changed functions, not crashes
  --instrumented   builds targets that can be run, with the sanitizer and the coverage that fuzzing
                   needs. This takes a nightly compiler and cargo-fuzz
  -h, --help       this text

To fuzz for a minute: cargo +nightly fuzz run TARGET -- -max_total_time=60

Everything is compiled into fuzz/target. The first time takes about a minute on 2 cores and downloads
the crates of fuzz/Cargo.lock.

Exit code: 0 all targets compile, 1 they do not, or a tool is missing, 2 wrong usage.
EOF_USAGE
}

die() {
    printf 'build_fuzz: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}

instrumented=no
for option in "$@"; do
    case $option in
    -h | --help)
        usage
        exit 0
        ;;
    --instrumented) instrumented=yes ;;
    *)
        printf "build_fuzz: error: unknown option '%s'.\nTry 'scripts/build_fuzz.sh --help'.\n" "$option" >&2
        exit 2
        ;;
    esac
done

command -v cargo >/dev/null 2>&1 || die "there is no cargo in PATH." "Install Rust: https://rustup.rs"
# What is declared in fuzz/Cargo.toml and what lies in fuzz/fuzz_targets must not drift apart.
targets=""
for file in "$root"/fuzz/fuzz_targets/*.rs; do
    name=$(basename "$file" .rs)
    grep -q 'fuzz_target!' "$file" || continue # a module that targets share
    grep -q "^name = \"$name\"$" "$root/fuzz/Cargo.toml" ||
        die "fuzz/fuzz_targets/$name.rs has no [[bin]] in fuzz/Cargo.toml."
    targets="$targets${targets:+ }$name"
done

cd "$root"
if [ "$instrumented" = yes ]; then
    missing=()
    cargo +nightly --version >/dev/null 2>&1 || missing+=("a nightly compiler: rustup toolchain install nightly")
    cargo fuzz --version >/dev/null 2>&1 || missing+=("cargo-fuzz: cargo install --locked cargo-fuzz")
    [ ${#missing[@]} -eq 0 ] || die "--instrumented needs tools that are missing here:" "${missing[@]}"
    cargo +nightly fuzz build || die "the fuzz targets do not compile; what the compiler said is above."
    echo "fuzz targets built: $targets"
else
    cargo check --manifest-path fuzz/Cargo.toml --target-dir fuzz/target --bins --locked ||
        die "the fuzz targets do not compile; what the compiler said is above." \
            "Where a parser has moved, correct its path in fuzz/fuzz_targets/data.rs."
    echo "fuzz targets compile: $targets"
fi
