#!/usr/bin/env bash
#
# Does all set-up and runs every check and test. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

usage() {
    cat <<EOF_USAGE
Sets libtorch up (scripts/setup.sh) and runs every check: rustfmt, clippy, rustdoc, all tests. Three more
run where their tools are at hand, and are skipped with a line that says so where they are not:
  cargo-deny  licences, sources and advisories of the crates that the program depends on
  Node.js     the browser page's tests
  Python 3    links, paths and test names in the Markdown pages (scripts/check_docs.py)

Usage: scripts/test.sh [--cpu | --cuda]

The options are those of scripts/setup.sh. Everything is built once, in release.
CONTRIBUTING.md names the longer checks.

Exit code: 0 if all passed, 1 if something failed, 2 on wrong usage.
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
step() { printf '\n== %s\n' "$*"; "$@" || exit 1; }
skip() { printf '\n== skipped: %s\n' "$*"; }

step scripts/setup.sh ${setup_options[@]+"${setup_options[@]}"}
# rustup's minimal profile lacks these two.
for component in fmt clippy; do
    if ! cargo "$component" --version >/dev/null 2>&1; then
        echo "test: error: cargo $component is missing; install it: rustup component add rustfmt clippy" >&2
        exit 1
    fi
done
step cargo fmt --all --check
if ! cargo deny --version >/dev/null 2>&1; then
    skip "cargo deny check: cargo-deny is not installed (cargo install --locked cargo-deny)"
elif ! cargo metadata --locked --format-version 1 >/dev/null 2>&1; then
    # It lists crates for every platform, which setting up for one does not download.
    skip "cargo deny check: not all crates of Cargo.lock are here, and they cannot be downloaded"
else
    step cargo deny --locked check bans licenses sources
    # The list of advisories is downloaded separately, which fails without a network.
    if cargo deny fetch db >/dev/null 2>&1; then
        step cargo deny --frozen check advisories
    else
        skip "cargo deny check advisories: the list of advisories cannot be downloaded here"
    fi
fi
if node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
process.exit(major > 18 || (major === 18 && minor >= 18) ? 0 : 1)' >/dev/null 2>&1; then
    step node --test --test-reporter=spec docs/browser/*.test.js
else
    skip "node --test docs/browser/*.test.js: Node.js 18.18 or later is not installed"
fi
if command -v python3 >/dev/null 2>&1; then
    step python3 -B scripts/check_docs.py
else
    skip "scripts/check_docs.py: there is no python3"
fi
# Clippy checks every target. It checks in release, so that libtorch's bindings are compiled only once.
step cargo clippy --release --all-targets --locked -- -D warnings
# The library alone, without what only the program needs.
step cargo check --release --no-default-features --lib --examples --locked
RUSTDOCFLAGS="-D warnings" step cargo doc --release --no-deps --locked
step cargo build --release --all-targets --locked
# nextest does not run documentation tests. They come first, so that the last line counts all other tests.
step cargo test --release --doc --locked
if cargo nextest --version >/dev/null 2>&1; then
    step cargo nextest run --release --locked
else
    step cargo test --release --all-targets --locked
fi
