#!/usr/bin/env bash
#
# Builds the page that walks through latent space, opens it in a real browser and checks it. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF_USAGE'
Builds the page of docs/browser/, serves it on a free port of the loopback address, opens it in headless
Chromium, checks it, and writes a picture of it to OUT.png. It checks

  - with --expect: that onnxruntime-web in the browser computes the expected images to within 1e-5, and
    that the page draws them; the largest difference is printed
  - that samples, corners, the walk, directions, play, seed and keyboard work
  - that a generator that knows classes makes those that are chosen, and any other offers none
  - that a wrong file is refused with a reason
  - that the page need not be scrolled sideways when it is 360, 768 or 1440 pixels wide
  - that the page logs no error and requests nothing from other servers

Usage: scripts/check_browser.sh [OPTIONS] OUT.png

  OUT.png             picture to write; an existing one is replaced
  --model FILE.onnx   the generator (default: see scripts/build_browser.sh)
  --expect FILE.json  the expected images: {"z": [[...], ...], "images": [[...], ...]} with 1 to 36 rows each.
                      A row of "images" is one image in [-1, 1], channel by channel and row by row. For a generator
                      that knows classes, also "class": [number, ...], the number of each image's class
  --width N           width of the picture in pixels, 320 to 3840 (default: 1440)
  --dark              show the page in dark colours
  -h, --help          print this text

Needs Node.js 18.18 or later with npm, and Chromium.

Variables:
  CHROMIUM=PROGRAM    the browser (default: chromium, chromium-browser or google-chrome)
  DCGAN_BIN=PROGRAM   the dcgan that exports, see scripts/build_browser.sh

Exit code: 0 if every check passed, 1 if one failed, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'check_browser: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "check_browser: error: %s\nTry 'scripts/check_browser.sh --help'.\n" "$1" >&2
    exit 2
}

# Provides run_child, with which a signal also ends the command that is running.
# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"
# shellcheck source=scripts/peers/chromium.sh
. "$root/scripts/peers/chromium.sh"

scratch=""
cleanup() {
    if [ -n "$child" ]; then
        kill "$child" 2>/dev/null || true
        # Wait, because check.js ends Chromium before it ends itself.
        wait "$child" 2>/dev/null || true
    fi
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}
trap cleanup EXIT

# ---- arguments --------------------------------------------------------------------------------

picture="" model="" expect="" width=1440 dark=""
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        exit 0
        ;;
    --dark) dark=--dark ;;
    --model | --expect | --width)
        { [ $# -ge 2 ] && [ -n "$2" ]; } || die_usage "$1 wants a value."
        case "$1" in
        --model) model=$2 ;;
        --expect) expect=$2 ;;
        --width)
            if ! [[ $2 =~ ^[1-9][0-9]{2,3}$ ]] || [ "$2" -lt 320 ] || [ "$2" -gt 3840 ]; then
                die_usage "--width: expected a whole number from 320 to 3840, found '$2'."
            fi
            width=$2
            ;;
        esac
        shift
        ;;
    -*) die_usage "unknown argument '$1'." ;;
    *)
        [ -z "$picture" ] || die_usage "expected one picture to write, found '$picture' and '$1'."
        picture=$1
        ;;
    esac
    shift
done
case "$picture" in
*.png) ;;
"") die_usage "expected the picture to write." ;;
*) die_usage "expected a picture named *.png, found '$picture'." ;;
esac
out_folder=$(cd "$(dirname "$picture")" 2>/dev/null && pwd -P) ||
    die "$picture: the folder $(dirname "$picture") does not exist."
out=$out_folder/$(basename "$picture")
[ ! -d "$out" ] || die "$picture: is a folder, expected a picture to write."
[ -z "$expect" ] || [ -f "$expect" ] || die "--expect $expect: no such file."
find_chromium

# ---- building and checking --------------------------------------------------------------------

scratch=$(mktemp -d)
run_child "$root/scripts/build_browser.sh" --out "$scratch/page" ${model:+--model "$model"} >/dev/null ||
    die "the page is not built; why is above."
# TMPDIR lies in the scratch folder, so that what a stopped Chromium leaves behind is removed with it.
TMPDIR=$scratch run_child node "$root/docs/browser/check.js" --folder "$scratch/page" --out "$out" \
    --chromium "$chromium" --width "$width" ${expect:+--expect "$expect"} ${dark:+"$dark"} || exit 1
echo "$picture: the page, $width pixels wide"
