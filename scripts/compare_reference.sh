#!/usr/bin/env bash
#
# Trains the reference in the real TensorFlow and with this program, and compares what they generate. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dcgan=$root/target/release/dcgan

usage() {
    cat <<EOF_USAGE
Trains the reference on MNIST in TensorFlow 1, with dcgan, and with dcgan --plain-convolutions, from several seeds
each, and tests whether what they generate differs: by 'dcgan eval', by a second classifier of other layers, and by
pixels. Samples the weights of each program in the other, too. Prints a table with exact p-values.

Usage: scripts/compare_reference.sh --mnist DIR [OPTION...]

  --mnist DIR     folder with MNIST's four files, gzipped or not
  --seeds N       seeds 0 to N-1 of each, 8 to 12 (default: 10)
  --epochs N      passes over the 70,000 images (default: 1, as in the reference)
  --width N       base width (default: 32; the reference's is 64)
  --count N       images that each run generates (default: 10000)
  --jobs N        runs at a time, of one thread each (default: as many as there are cores)
  --out DIR       folder for everything that is trained; what is there already is not trained again
                  (default: target/compare)
  -h, --help      print this text

With the defaults it takes two hours on two cores, and may be stopped and started again with the same settings. The first time,
TensorFlow 2.15.1 is installed with pip into target/peers/tensorflow. Needs target/release/dcgan: cargo build --release.

Exit code: 0 if nothing differs (no p-value below 0.01 after Bonferroni's correction, and equal weights give equal
images but for rounding), 1 if something does or something failed, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'compare_reference: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "compare_reference: error: %s\nTry 'scripts/compare_reference.sh --help'.\n" "$1" >&2
    exit 2
}

# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"

mnist="" seeds=10 epochs=1 width=32 count=10000 out=$root/target/compare
jobs=$(getconf _NPROCESSORS_ONLN)
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --mnist | --seeds | --epochs | --width | --count | --jobs | --out)
        [ $# -gt 1 ] || die_usage "$1: expected a value."
        case "$1" in
        --mnist | --out) ;;
        *) case "$2" in '' | *[!0-9]* | 0) die_usage "$1: expected a whole number above 0, found '$2'." ;; esac ;;
        esac
        case "$1" in
        --mnist) mnist=$2 ;;
        --seeds) seeds=$2 ;;
        --epochs) epochs=$2 ;;
        --width) width=$2 ;;
        --count) count=$2 ;;
        --jobs) jobs=$2 ;;
        --out) out=$2 ;;
        esac
        shift
        ;;
    *) die_usage "unknown argument '$1'." ;;
    esac
    shift
done
[ -n "$mnist" ] || die_usage "--mnist is missing."
[ -d "$mnist" ] || die "--mnist $mnist: there is no such folder."
[ -x "$dcgan" ] || die "there is no $dcgan." "Build it: cargo build --release"
# With fewer no p-value can be small enough for so many tests, and with more there are too many ways to deal the runs.
if [ "$seeds" -lt 8 ] || [ "$seeds" -gt 12 ]; then die_usage "--seeds: expected 8 to 12, found $seeds."; fi
mnist=$(cd "$mnist" && pwd -P)
mkdir -p "$out"
out=$(cd "$out" && pwd -P)

ensure_venv tensorflow 9 11 "$root/scripts/requirements-reference.txt"
exec "$venv_python" -B "$root/scripts/peers/compare_distributions.py" --dcgan "$dcgan" --mnist "$mnist" \
    --seeds "$seeds" --epochs "$epochs" --width "$width" --count "$count" --jobs "$jobs" --out "$out"
