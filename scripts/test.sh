#!/usr/bin/env bash
#
# Does all set-up and passes the tests: formatting, clippy, docs, tests. See --help.
set -euo pipefail

usage() {
    cat <<EOF_USAGE
Sets libtorch up (scripts/setup.sh) and runs every check: rustfmt, clippy, rustdoc, all tests.

Usage: scripts/test.sh [--cpu | --cuda]

The options are those of scripts/setup.sh. Everything is built once, in release.
Longer checks are marked #[ignore]: cargo test --release -- --ignored
EOF_USAGE
}

setup_options=()
for option in "$@"; do
    case $option in
        -h | --help) usage; exit 0 ;;
        --cpu | --cuda) setup_options+=("$option") ;;
        *) printf "test: error: unknown option %s\nTry 'scripts/test.sh --help'.\n" "$option" >&2; exit 2 ;;
    esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
step() { printf '\n== %s\n' "$*"; "$@"; }

step scripts/setup.sh ${setup_options[@]+"${setup_options[@]}"}
# rustup leaves these two out of its minimal profile.
for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
        echo "test: error: cargo $component is missing; install it: rustup component add rustfmt clippy" >&2
        exit 1
    fi
done
step cargo fmt --all --check
# Clippy checks every target; --release, so that libtorch's bindings are compiled once for all.
step cargo clippy --release --all-targets --locked -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --release --no-deps --locked
step cargo build --release --all-targets --locked
# The doc tests are not nextest's; they run first, so that the last line is the whole count.
step cargo test --release --doc --locked
if cargo nextest --version >/dev/null 2>&1; then
    step cargo nextest run --release --locked
else
    step cargo test --release --all-targets --locked
fi
