#!/usr/bin/env bash
#
# Checks a run's event files with TensorBoard's own reader. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF_USAGE'
Checks that TensorBoard reads from a run what the run's own files say: the tags, every scalar in
metrics.jsonl, every image in samples/ and real.png pixel for pixel, and the text of the settings.

Usage: scripts/check_tensorboard.sh RUN

  RUN         folder of a run, for example runs/NAME
  -h, --help  print this text

The first time, TensorBoard 2.21.0 (without TensorFlow) is installed with pip into target/peers/tensorboard:
25 MB to download and 0.2 GB on disk. It needs Python 3.10 to 3.13.

Variables:
  PEER_TENSORBOARD_VENV=DIR  use your own environment, with tensorboard and pillow
  PYTHON=PROGRAM             the Python that makes the environment

Exit code: 0 if all is as expected, 1 if something is not, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'check_tensorboard: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "check_tensorboard: error: %s\nTry 'scripts/check_tensorboard.sh --help'.\n" "$1" >&2
    exit 2
}

# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
-*) die_usage "unknown argument '$1'." ;;
"") die_usage "expected the folder of a run." ;;
esac
[ $# -eq 1 ] || die_usage "expected one folder of a run, found $# arguments."
[ -d "$1" ] || die "$1: no such folder."

ensure_venv tensorboard 10 13 "$root/scripts/peers/requirements-tensorboard.txt"
exec "$venv_python" -B "$root/scripts/check_tensorboard.py" "$1"
