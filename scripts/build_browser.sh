#!/usr/bin/env bash
#
# Builds the page that walks through latent space (docs/browser/) into a folder. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF_USAGE'
Builds the page that walks through the latent space of a generator, and puts the page, the generator and
onnxruntime-web into one folder. Any static web server can serve that folder, and no other network is used:

  scripts/build_browser.sh && python3 -m http.server --bind 127.0.0.1 --directory target/browser

Usage: scripts/build_browser.sh [OPTIONS]

  --model FILE.onnx  the generator (default: the built-in generator of digits, exported with
                     target/release/dcgan, which is not built here)
  --out DIR          folder to write (default: target/browser); older files of the page are replaced
  -h, --help         print this text

Needs Node.js 18.18 or later with npm. The packages go into docs/browser/node_modules: 40 MB to download
and 160 MB on disk, once. The built page has 16 MB.

Variables:
  DCGAN_BIN=PROGRAM  the dcgan that exports, instead of target/release/dcgan

Exit code: 0 if the page is built, 1 if it is not, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'build_browser: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "build_browser: error: %s\nTry 'scripts/build_browser.sh --help'.\n" "$1" >&2
    exit 2
}

# Provides run_child, with which a signal also ends the command that is running.
# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"

scratch=""
cleanup() {
    stop_child
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}
trap cleanup EXIT

# ---- arguments --------------------------------------------------------------------------------

model="" out=$root/target/browser
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --model | --out)
        { [ $# -ge 2 ] && [ -n "$2" ]; } || die_usage "$1 wants a value."
        case "$1" in
        --model) model=$2 ;;
        --out) out=$2 ;;
        esac
        shift
        ;;
    *) die_usage "unknown argument '$1'." ;;
    esac
    shift
done

if [ -n "$model" ]; then
    [ ! -d "$model" ] || die "--model $model: is a folder, expected an ONNX file."
    [ -f "$model" ] || die "--model $model: no such file."
else
    dcgan=${DCGAN_BIN:-$root/target/release/dcgan}
    command -v "$dcgan" >/dev/null 2>&1 ||
        die "there is no program $dcgan to export the built-in generator with." \
            "Build it first: cargo build --release. Or give a generator: --model FILE.onnx."
fi
if [ -e "$out" ] && [ ! -d "$out" ]; then die "--out $out: is a file, expected a folder to write."; fi
for program in node npm; do
    command -v "$program" >/dev/null 2>&1 ||
        die "there is no $program in PATH." "Install Node.js 18.18 or later; npm comes with it or beside it."
done
node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
process.exit(major > 18 || (major === 18 && minor >= 18) ? 0 : 1)' ||
    die "Node.js 18.18 or later is needed, found $(node --version)."

# ---- packages ---------------------------------------------------------------------------------

page=$root/docs/browser
# npm ci installs everything anew each time, so it only runs when the stamp is missing or different. The
# stamp is written last and holds the locked versions and the platform, for which esbuild is built.
stamp=$page/node_modules/.complete
locked=$(node -p 'process.platform + " " + process.arch' && cat "$page/package-lock.json")
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$locked" ]; then
    # No package needs an install script of its own here, so none may run.
    run_child npm --prefix "$page" ci --ignore-scripts --no-audit --no-fund >&2 ||
        die "npm could not install the packages of docs/browser; what it said is above."
    printf '%s\n' "$locked" >"$stamp"
fi

# ---- the folder -------------------------------------------------------------------------------

mkdir -p "$out" || die "--out $out: can't be made."
out=$(cd "$out" && pwd -P)
# Everything is made in a scratch folder first, so a failure leaves the old page as it was.
scratch=$(mktemp -d "$out/.building.XXXXXX") || die "--out $out: can't be written."

if [ -n "$model" ]; then
    cp "$model" "$scratch/generator.onnx" || die "--model $model: can't be copied to $out."
else
    # dcgan prints the name of the file it writes, which is not the final one. So only an error is shown.
    run_child "$dcgan" export --format onnx --out "$scratch/generator.onnx" >"$scratch/said" 2>&1 ||
        die "$dcgan could not export its generator; it said:" "$(tail -n 8 "$scratch/said")"
    rm -f "$scratch/said"
fi
run_child "$page/node_modules/.bin/esbuild" "$page/main.js" --bundle --minify --format=esm --target=es2023 \
    --charset=utf8 --legal-comments=linked --log-level=warning --outfile="$scratch/main.js" ||
    die "esbuild could not bundle docs/browser/main.js; what it said is above."
cp "$page/index.html" "$page/style.css" "$page/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm" \
    "$scratch" || die "the page can't be copied to $out."
# A server that runs as another user has to be able to read all files, whatever the model's mode was.
chmod 644 "$scratch"/*
mv -f "$scratch"/* "$out" || die "the page can't be moved to $out."
echo "$out: built; serve it: python3 -m http.server --bind 127.0.0.1 --directory $out"
