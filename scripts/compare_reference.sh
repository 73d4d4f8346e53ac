#!/usr/bin/env bash
#
# Trains the reference in the real TensorFlow and with this program, and compares what they generate. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dcgan=$root/target/release/dcgan

usage() {
    cat <<EOF_USAGE
Trains the reference on MNIST in TensorFlow 1 and with dcgan, from several seeds, generates images with each,
and measures them with 'dcgan eval'. The mean Fréchet distance of dcgan's images must be at most 1.1 times that
of TensorFlow's.

Usage: scripts/compare_reference.sh --mnist DIR [OPTION...]

  --mnist DIR     folder with MNIST's image and label files, gzipped or not
  --seeds N       seeds 0 to N-1 (default: 3)
  --epochs N      passes over the 70,000 images (default: 1, as in the reference)
  --width N       base width (default: 64, the reference's)
  --count N       images that each program generates (default: 10000)
  --out DIR       folder for everything that is trained; what is there already is not trained again
                  (default: target/compare)
  -h, --help      print this text

With the defaults it takes 70 minutes on two cores. The first time, TensorFlow 2.15.1 is installed with pip
into target/peers/tensorflow. Needs target/release/dcgan: cargo build --release.

Exit code: 0 if the ratio is 1.1 or less, 1 if it is not or something failed, 2 on wrong usage.
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

mnist="" seeds=3 epochs=1 width=64 count=10000 out=$root/target/compare
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --mnist | --seeds | --epochs | --width | --count | --out)
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
mnist=$(cd "$mnist" && pwd -P)
mkdir -p "$out"
out=$(cd "$out" && pwd -P)

# dcgan looks for MNIST in a folder of that name.
mkdir -p "$out/data"
ln -sfn "$mnist" "$out/data/mnist"
export DCGAN_DATA=$out/data

ensure_venv tensorflow 9 11 "$root/scripts/requirements-reference.txt"
seed=0
while [ "$seed" -lt "$seeds" ]; do
    if ! [ -e "$out/tf-$seed.npz" ]; then
        run_child "$venv_python" -B "$root/scripts/peers/tensorflow1_train.py" --mnist "$mnist" --seed "$seed" \
            --epochs "$epochs" --base-width "$width" --count "$count" --out "$out/tf-$seed.npz"
    fi
    if ! [ -e "$out/ours-$seed.npz" ]; then
        # A run that was stopped is resumed.
        if [ -e "$out/ours-$seed/config.toml" ]; then
            run_child "$dcgan" train --resume "$out/ours-$seed"
        else
            run_child "$dcgan" train --dataset mnist --epochs "$epochs" --base-width "$width" --seed "$seed" \
                --run "$out/ours-$seed"
        fi
        run_child "$dcgan" sample "$out/ours-$seed" --count "$count" --seed "$seed" --npz "$out/ours-$seed.npz"
    fi
    for side in tf ours; do
        run_child "$dcgan" eval --images "$out/$side-$seed.npz" --dataset mnist --count "$count" --json \
            --metrics frechet_distance,kernel_distance,precision,recall,density,coverage,classifier_score,class_balance \
            >"$out/$side-$seed.json"
    done
    seed=$((seed + 1))
done

run_child "$venv_python" -B - "$out" "$seeds" <<'EOF_PY'
import json
import sys
from pathlib import Path

folder, seeds = Path(sys.argv[1]), int(sys.argv[2])
sides = {}
for side in ("tf", "ours"):
    reports = [json.loads((folder / f"{side}-{seed}.json").read_text()) for seed in range(seeds)]
    sides[side] = [{row["metric"]: row["value"] for row in report["metrics"]} for report in reports]
print(f"| | TensorFlow, seeds 0 to {seeds - 1} | mean | dcgan, seeds 0 to {seeds - 1} | mean |")
print("|---|---|---|---|---|")
means = {}
for metric in sides["tf"][0]:
    cells = [metric]
    for side in ("tf", "ours"):
        values = [row[metric] for row in sides[side]]
        means[side, metric] = sum(values) / seeds
        cells += [", ".join(f"{value:.4g}" for value in values), f"{means[side, metric]:.4g}"]
    print("| " + " | ".join(cells) + " |")
ratio = means["ours", "frechet_distance"] / means["tf", "frechet_distance"]
print(f"\nmean Fréchet distance: {ratio:.3f} of TensorFlow's (at most 1.1)")
sys.exit(not ratio <= 1.1)
EOF_PY
