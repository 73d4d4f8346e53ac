#!/usr/bin/env bash
#
# Runs exports in the real PyTorch, TensorFlow and onnxruntime, and compares. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
dcgan=$root/target/release/dcgan

usage() {
    cat <<EOF_USAGE
Exports a generator in every format, gives the same z to PyTorch, TensorFlow and onnxruntime, and compares
their float32 images with dcgan's in float64. The largest absolute difference must be 1e-5 or less. Then it
saves a TensorFlow 1 checkpoint, imports it, and compares again. Of a conditional generator, row i of z is
given the class number i modulo the number of classes.

Usage: scripts/check_exports.sh [MODEL] [--save FILE.safetensors] [--browser]

  MODEL       a run or a checkpoint (default: the built-in generator)
  --save F    write z and every program's images to F, in the form of tests/reference/exports.safetensors; for a
              conditional generator the classes too
  --browser   also compare onnxruntime-web in headless Chromium (see scripts/check_browser.sh)
  -h, --help  print this text

The first time, environments with the three programs are made under target/peers/ (scripts/bench_peers.sh
--help says how large they are). Needs target/release/dcgan: cargo build --release.

Exit code: 0 if all agree, 1 if not, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'check_exports: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "check_exports: error: %s\nTry 'scripts/check_exports.sh --help'.\n" "$1" >&2
    exit 2
}

# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"

model="" save="" browser=""
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --save)
        [ $# -gt 1 ] || die_usage "--save: expected a file's name."
        save=$2
        shift
        ;;
    --browser) browser=1 ;;
    -*) die_usage "unknown option '$1'." ;;
    *)
        [ -z "$model" ] || die_usage "one MODEL, not two: '$model' and '$1'."
        model=$1
        ;;
    esac
    shift
done
[ -x "$dcgan" ] || die "there is no $dcgan." "Build it: cargo build --release"

scratch=$(mktemp -d)
cleanup() {
    stop_child
    rm -rf "$scratch"
}
trap cleanup EXIT

export_as() { # export_as FORMAT FILE
    run_child "$dcgan" export ${model:+"$model"} --format "$1" --out "$scratch/$2"
}
export_as safetensors generator.safetensors
export_as tf generator-tf.safetensors
export_as torchscript generator.pt
export_as onnx generator.onnx

compare=$root/scripts/peers/export_compare.py
ensure_venv pytorch 10 13 "$root/scripts/peers/requirements-pytorch.txt" --no-deps
pytorch=$venv_python
ensure_venv tensorflow 9 11 "$root/scripts/requirements-reference.txt"
tensorflow=$venv_python
ensure_venv onnx 10 13 "$root/scripts/peers/requirements-onnx.txt"
onnx=$venv_python

run_child "$pytorch" -B "$compare" z "$scratch"
sample() { # sample OUT.npy [OPTION...] [MODEL]
    local out=$1
    shift
    run_child "$dcgan" sample "$@" --quiet --device cpu --z "$scratch/z.npy" --npy "$scratch/$out"
}
sample dcgan.npy --precision f64 ${model:+"$model"}
sample dcgan-f32.npy ${model:+"$model"}
run_child "$pytorch" -B "$root/scripts/peers/export_torch.py" "$scratch"
run_child "$tensorflow" -B "$root/scripts/peers/export_tensorflow1.py" "$scratch"
run_child "$onnx" -B "$root/scripts/peers/export_onnx.py" "$scratch"

# The way back: import a checkpoint that the real TensorFlow saved. It does not say what its classes are, nor the size
# of images that are not square. The built-in generator needs neither.
run_child "$tensorflow" -B "$root/scripts/tf_checkpoint_to_safetensors.py" "$scratch/tf1" \
    ${model:+--like "$scratch/generator.safetensors"} --out "$scratch/converted.safetensors"
run_child "$dcgan" import "$scratch/converted.safetensors" --out "$scratch/imported.safetensors"
sample dcgan-imported.npy --precision f64 "$scratch/imported.safetensors"

if [ -n "$browser" ]; then
    run_child "$pytorch" -B "$compare" expect "$scratch"
    run_child "$root/scripts/check_browser.sh" "$scratch/page.png" --model "$scratch/generator.onnx" \
        --expect "$scratch/expect.json"
fi
run_child "$pytorch" -B "$compare" table "$scratch" ${save:+"$save"}
