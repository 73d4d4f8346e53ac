#!/usr/bin/env bash
#
# Measures one training iteration of dcgan against other programs that train the same network.
# See --help.
#
# This script parses its arguments, makes the peers' environments and names the contenders.
# scripts/peers/compare.py measures them. A further peer is one program in scripts/peers/ (see measure.py)
# and one line in add().
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF_USAGE'
Measures one training iteration of dcgan and of other programs that train the same network, on this
machine and in turn. Prints milliseconds an iteration, peak memory, and the ratios dcgan/peer; below 1,
dcgan is faster.

Usage: scripts/bench_peers.sh [OPTIONS]

  --ours LIST       dcgan, dcgan-bf16 or both (default: dcgan)
  --peers LIST      peers, separated by commas (default: pytorch)
                      pytorch            PyTorch 2.13.0, eager, f32: the usual port
                      pytorch-bf16       the same under bfloat16 autocast
                      torch-compile      the same in f32, through torch.compile (needs a C++ compiler)
                      torch-compile-bf16 torch.compile under bfloat16 autocast
                      tensorflow         TensorFlow 2.15.1, graph mode, f32: the reference itself
  --rounds N        in each round, every contender runs once in a new process (default: 10)
  --iterations N    measured iterations of each run (default: 6)
  --warmup N        iterations before them that are not measured (default: 2)
  --batch-size N    images in a batch (default: 128)
  --samples N       after the iterations, time sampling N images with dcgan and pytorch (default: 0)
  --floor           also measure libtorch's convolutions alone, each pass in its best memory layout
  --threads N       threads of each contender (default: the number of cores)
  --out FILE        save every number as JSON, with the command, machine, versions and date
  --force           replace FILE if it exists
  --prepare         only make the environments of the peers
  -h, --help        print this text

The default takes about 4 minutes on 2 cores. Nothing else should run meanwhile. The script records how
much of the processors other programs take, and warns above 5 %.

Environments are made once with pip, under target/peers/. pytorch takes 2 GB to download and 3.7 GB on disk
(on Linux the wheel needs CUDA's libraries even where there is no GPU); tensorflow takes 0.3 GB and 1.3 GB.
TensorFlow needs Python 3.9 to 3.11, PyTorch 3.10 to 3.13.

Variables:
  DCGAN_BIN=PROGRAM          the dcgan to measure (default: target/release/dcgan; it is not built here)
  PEER_PYTORCH_VENV=DIR      use your own environment instead of target/peers/pytorch
  PEER_TENSORFLOW_VENV=DIR   the same for target/peers/tensorflow
  PYTHON=PROGRAM             the Python that makes the environments

Exit code: 0 if all was measured, 1 if a contender or an environment failed, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'bench_peers: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "bench_peers: error: %s\nTry 'scripts/bench_peers.sh --help'.\n" "$1" >&2
    exit 2
}

# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"

# ---- arguments --------------------------------------------------------------------------------

# whole_number FLAG TEXT LOW
whole_number() {
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || [ "$2" -lt "$3" ]; then
        die_usage "$1: expected a whole number of at least $3, found '$2'."
    fi
}

# One call for each contender: name=... and command=(...).
add() {
    case "$1" in
    dcgan) command=("$dcgan" bench --json --device cpu --precision f32 --samples "$samples" ${floor:+"$floor"}) ;;
    dcgan-bf16) command=("$dcgan" bench --json --device cpu --precision bf16 ${floor:+"$floor"}) ;;
    pytorch) python_peer pytorch pytorch.py --precision f32 --samples "$samples" ;;
    pytorch-bf16) python_peer pytorch pytorch.py --precision bf16 ;;
    torch-compile) python_peer pytorch pytorch.py --precision f32 --compile ;;
    torch-compile-bf16) python_peer pytorch pytorch.py --precision bf16 --compile ;;
    tensorflow) python_peer tensorflow tensorflow1.py --precision f32 ;;
    *) die_usage "--peers: expected pytorch, pytorch-bf16, torch-compile, torch-compile-bf16 or tensorflow, found '$1'." ;;
    esac
    contenders+=(:: "$1" "${command[@]}")
}

# python_peer ENVIRONMENT FILE [ARGUMENT...]: the command of a peer in Python, its environment made.
python_peer() {
    local environment=$1 file=$2
    shift 2
    if [ "$checking" = yes ]; then
        command=(python "$file")
        return
    fi
    case "$environment" in
    pytorch) ensure_venv pytorch 10 13 "$root/scripts/peers/requirements-pytorch.txt" --no-deps ;;
    tensorflow) ensure_venv tensorflow 9 11 "$root/scripts/requirements-reference.txt" ;;
    esac
    # -B: no compiled files beside the sources.
    command=("$venv_python" -B "scripts/peers/$file" "$@")
}

recorded=scripts/bench_peers.sh # the command that a saved file names: all but where it is saved
ours=dcgan peers=pytorch samples=0 floor="" rounds=10 iterations=6 warmup=2 batch_size=128 out="" force=no prepare=no
threads=$(getconf _NPROCESSORS_ONLN)
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --force) force=yes ;;
    --prepare) prepare=yes ;;
    --floor)
        floor=--floor
        recorded+=" --floor"
        ;;
    --ours | --peers | --rounds | --iterations | --warmup | --batch-size | --samples | --threads | --out)
        [ $# -ge 2 ] || die_usage "$1 wants a value."
        case "$1" in
        --ours) ours=$2 ;;
        --peers) peers=$2 ;;
        --samples) whole_number "$1" "$2" 0 && samples=$2 ;;
        --rounds) whole_number "$1" "$2" 1 && rounds=$2 ;;
        --iterations) whole_number "$1" "$2" 1 && iterations=$2 ;;
        --warmup) whole_number "$1" "$2" 0 && warmup=$2 ;;
        --batch-size) whole_number "$1" "$2" 1 && batch_size=$2 ;;
        --threads) whole_number "$1" "$2" 1 && threads=$2 ;;
        --out) out=$2 ;;
        esac
        [ "$1" = --out ] || recorded+=" $1 $2"
        shift
        ;;
    *) die_usage "unknown argument '$1'." ;;
    esac
    shift
done

IFS=, read -r -a names <<<"$ours"
for name in ${names[@]+"${names[@]}"}; do
    case "$name" in dcgan | dcgan-bf16) ;; *) die_usage "--ours: expected dcgan or dcgan-bf16, found '$name'." ;; esac
done
[ ${#names[@]} -gt 0 ] || die_usage "--ours: expected dcgan or dcgan-bf16, found nothing."
IFS=, read -r -a peer_names <<<"$peers"
[ ${#peer_names[@]} -gt 0 ] || die_usage "--peers: expected a list of peers, found nothing."
names+=("${peer_names[@]}")
repeated=$(printf '%s\n' "${names[@]}" | sort | uniq -d | head -n 1)
[ -z "$repeated" ] || die_usage "$repeated is named twice."

# Every name is checked before anything is downloaded.
dcgan=${DCGAN_BIN:-$root/target/release/dcgan} contenders=() checking=yes
for name in "${names[@]}"; do add "$name"; done

if [ -n "$out" ]; then
    case "$out" in /*) ;; *) out=$PWD/$out ;; esac # the contenders run in the checkout
    [ -d "$(dirname "$out")" ] || die "--out $out: the folder $(dirname "$out") does not exist."
    [ ! -d "$out" ] || die "--out $out: is a folder, expected a file to write."
    [ "$force" = yes ] || [ ! -e "$out" ] || die "--out $out: exists already; add --force to replace it."
fi
if [ "$prepare" = no ]; then
    case "$dcgan" in /*) ;; *) dcgan=$(command -v "$dcgan" || true) ;; esac
    case "$dcgan" in
    "") die "DCGAN_BIN=$DCGAN_BIN: no such program." ;;
    /*) ;;
    *) dcgan=$PWD/$dcgan ;;
    esac
    { [ -f "$dcgan" ] && [ -x "$dcgan" ]; } ||
        die "there is no program $dcgan." "Build it first: cargo build --release. Or set DCGAN_BIN."
fi

# ---- environments, then measuring -------------------------------------------------------------

contenders=() checking=no
for name in "${names[@]}"; do add "$name"; done
if [ "$prepare" = yes ]; then
    echo "ready: ${peer_names[*]}"
    exit 0
fi

# Most of what torch.compile compiles is kept here; its headers stay in the system's temporary folder.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$root/target/peers/inductor}
# compare.py needs no package; any Python that the peers run with will do.
cd "$root"
exec "$venv_python" -B scripts/peers/compare.py \
    --rounds "$rounds" --batch-size "$batch_size" --threads "$threads" --warmup "$warmup" \
    --iterations "$iterations" --ours "$ours" --command "$recorded" ${out:+--out "$out"} \
    "${contenders[@]}"
