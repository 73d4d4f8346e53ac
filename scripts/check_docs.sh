#!/usr/bin/env bash
#
# Checks that the documentation says what is so. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

usage() {
    cat <<EOF_USAGE
Checks that the documentation is not stale:
  scripts/check_docs.py  links, pictures, paths and names of tests in the Markdown pages
  scripts/run_docs.py    the commands of README.md, CONTRIBUTING.md and docs/, which are run at tiny sizes in a
                         temporary folder; those that cannot run here are listed with the reason
It takes one to three minutes on two cores, and needs Python 3.8 or newer.

Usage: scripts/check_docs.sh [PROGRAM]

  PROGRAM   the executable to run; without it, cargo builds target/release/dcgan

Exit code: 0 if all is so, 1 if something is not, 2 on wrong usage.
EOF_USAGE
}

case "$#:${1-}" in
    1:-h | 1:--help) usage; exit 0 ;;
    1:-* | [!01]:*) printf "check_docs: error: expected no more than the PROGRAM\nTry 'scripts/check_docs.sh --help'.\n" >&2; exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${1-$root/target/release/dcgan}
if [ "$#" -eq 0 ]; then
    (cd "$root" && cargo build --release --locked)
elif [ ! -x "$program" ]; then
    echo "check_docs: error: there is no executable $program" >&2
    exit 2
fi
python3 -B "$root/scripts/check_docs.py"
python3 -B "$root/scripts/run_docs.py" "$program"
