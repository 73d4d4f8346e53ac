#!/usr/bin/env bash
#
# Checks on a GPU that the program computes what it should there, and how fast. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dcgan=$root/target/release/dcgan

usage() {
    cat <<'EOF_USAGE'
Checks the program on a GPU, and prints one table. Is it right: the files of the real TensorFlow's results, losses
and samples against the CPU's, a run that is resumed half-way, exports. How fast: training in float32,
TensorFloat-32 and bfloat16, and sampling; beside PyTorch where it is installed, eager and in a CUDA graph.

Usage: scripts/check_gpu.sh [--device DEVICE] [--quick] [--keep DIR]

  --device DEVICE  what to check: cuda (the default), cuda:N, or cpu to try the script
  --quick          tiny networks and few iterations: a look at the script itself, not at the device
  --keep DIR       keep everything that was made: logs, runs, results.json
  -h, --help       print this text

Needs target/release/dcgan (cargo build --release) and Python 3.9 or newer. Some minutes; nothing else should run.

Variables: PYTHON=PROGRAM, the Python to take. If it has torch, PyTorch is timed and runs the TorchScript export;
if it has onnxruntime and numpy, the ONNX export is run, too.

Exit code: 0 if all that was checked is right, 1 if something is not, 2 on wrong usage. Speed is told, not judged.
EOF_USAGE
}

die() {
    printf 'check_gpu: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "check_gpu: error: %s\nTry 'scripts/check_gpu.sh --help'.\n" "$1" >&2
    exit 2
}

device=cuda quick="" keep=""
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --device | --keep)
        [ $# -gt 1 ] || die_usage "$1: expected a value."
        if [ "$1" = --device ]; then device=$2; else keep=$2; fi
        shift
        ;;
    --quick) quick=1 ;;
    *) die_usage "unknown argument '$1'." ;;
    esac
    shift
done
[ -x "$dcgan" ] || die "there is no $dcgan." "Build it: cargo build --release"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || die "$python is no Python 3.9 or newer." "Set PYTHON."
[ -z "$keep" ] || [ ! -e "$keep" ] || die "--keep $keep: is there already."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/logs"
table() { "$python" -B "$root/scripts/check_gpu.py" "$@"; }

if [ -n "$quick" ]; then # sizes of the two parts
    small=(--base-width 2 --batch-size 16) few=4 half=5 large=(--base-width 2 --batch-size 16) many=20 images=200 width=2 batch=16
else
    small=(--base-width 64) few=20 half=30 large=() many=400 images=100000 width=64 batch=128
fi

# step NAME COMMAND...: its output goes to logs/NAME.log, its exit status and seconds to steps.tsv. None stops another.
step() {
    local name=$1 start=$SECONDS status=0
    shift
    "$@" >"$work/logs/$name.log" 2>&1 </dev/null || status=$?
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - start)) >>"$work/steps.tsv"
    printf 'check_gpu: %-18s %4d s%s\n' "$name" $((SECONDS - start)) "$([ $status = 0 ] || echo ", exit status $status: $(tail -n 1 "$work/logs/$name.log" | cut -c1-150)")"
    return $status
}
train() { # train NAME OPTION...
    local name=$1
    shift
    step "$name" "$dcgan" train --run "$work/$name" --sample-every 0 --checkpoint-every 0 "$@" || true
}

step doctor "$dcgan" doctor || true
# If nothing runs there, one error says more than a table of them.
step start "$dcgan" sample --device "$device" --count 1 --out "$work/one.png" --quiet || die "$(tail -n 1 "$work/logs/start.log")"

# ---- is it right? ---------------------------------------------------------------------------------------

step verify "$dcgan" verify --device "$device" "$root"/tests/reference/f[0-9]*.safetensors || true

for precision in f32 f64; do # of one seed
    [ $precision = f32 ] && of=("${small[@]}") || of=(--base-width 8)
    [ -z "$quick" ] || of=("${small[@]}")
    train "losses-cpu-$precision" --device cpu --precision $precision --iterations $few --log-every 1 "${of[@]}"
    train "losses-$precision" --device "$device" --precision $precision --iterations $few --log-every 1 "${of[@]}"
done
train losses-tf32 --device "$device" --tf32 on --iterations $few --log-every 1 "${small[@]}"
train losses-bf16 --device "$device" --precision bf16 --iterations $few --log-every 1 "${small[@]}"

for precision in f32 f64; do
    of=(--device "$device" --precision "$precision" --deterministic)
    if [ -n "$quick" ]; then of+=("${small[@]}"); else of+=(--base-width 8); fi
    train "whole-$precision" --iterations $((2 * half)) "${of[@]}"
    train "again-$precision" --iterations $((2 * half)) "${of[@]}"
    train "half-$precision" --iterations $half "${of[@]}"
    step "resumed-$precision" "$dcgan" train --resume "$work/half-$precision" --device "$device" --iterations $((2 * half)) || true
done

table z "$work/z.npy"
step sample-cpu "$dcgan" sample --device cpu --precision f64 --z "$work/z.npy" --npy "$work/cpu.npy" --quiet || true
step sample-device "$dcgan" sample --device "$device" --z "$work/z.npy" --npy "$work/device.npy" --quiet || true
step export-torchscript "$dcgan" export --format torchscript --out "$work/g.pt" || true
step export-onnx "$dcgan" export --format onnx --out "$work/g.onnx" || true
step others table others "$work" "$device" || true

# ---- how fast? ------------------------------------------------------------------------------------------

for how in f32 tf32 bf16; do # the default run, without pauses for samples and checkpoints
    if [ $how = tf32 ]; then of=(--tf32 on); else of=(--precision "$how"); fi
    train "speed-$how" --device "$device" --iterations $many "${of[@]}" ${large[@]+"${large[@]}"}
done
step speed-sample "$dcgan" sample --device "$device" --count $images --npz "$work/many.npz" --quiet || true
step peer table peer --device "$device" --width $width --batch $batch ${quick:+--quick} || true

status=0
table table "$work" --device "$device" --batch $batch --images $images || status=$?
if [ -n "$keep" ]; then
    cp -R "$work" "$keep"
    echo "check_gpu: everything is kept in $keep"
fi
exit $status
