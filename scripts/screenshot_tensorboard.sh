#!/usr/bin/env bash
#
# Shows a run in the real TensorBoard and takes a picture of what a person sees. See --help.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

PAGES="custom_scalars images"
WIDTH=1440
HEIGHT=760 # of a page for which no other is asked
START_S=90 # for TensorBoard to start and to load the run
PAGE_S=90  # for a page
VIRTUAL_MS=20000

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<EOF_USAGE
Starts TensorBoard for a run, on a free port of the loopback address, opens some of its pages in headless Chromium,
and writes the screenshots, one above the other, to OUT.png.

Usage: scripts/screenshot_tensorboard.sh RUN OUT.png [PAGE...]

  RUN         folder of a run, for example runs/NAME, or a folder of several runs
  OUT.png     picture to write, $WIDTH pixels wide and of at most 256 colours; an existing one is replaced
  PAGE        what TensorBoard's address has behind the #: scalars, custom_scalars, images, histograms, hparams and so on,
              with &tagFilter=REGEX to show only some tags and &regexInput=REGEX to show only some runs. HEIGHT: in front
              of it makes the screenshot so many pixels high (default: $HEIGHT). Default: $PAGES
  -h, --help  print this text

Example: scripts/screenshot_tensorboard.sh runs runs.png 300:hparams 'histograms&tagFilter=^weights/'

The first time, TensorBoard 2.21.0 (without TensorFlow) is installed with pip into target/peers/tensorboard:
25 MB to download and 0.2 GB on disk. It needs Python 3.10 to 3.13. Chromium has to be installed.

Variables:
  CHROMIUM=PROGRAM           the browser (default: chromium, chromium-browser or google-chrome)
  PEER_TENSORBOARD_VENV=DIR  use your own environment, with tensorboard and pillow
  PYTHON=PROGRAM             the Python that makes the environment

Exit code: 0 if OUT.png is written, 1 if it is not, 2 on wrong usage.
EOF_USAGE
}

die() {
    printf 'screenshot_tensorboard: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "screenshot_tensorboard: error: %s\nTry 'scripts/screenshot_tensorboard.sh --help'.\n" "$1" >&2
    exit 2
}

# shellcheck source=scripts/peers/venv.sh
. "$root/scripts/peers/venv.sh"
# shellcheck source=scripts/peers/chromium.sh
. "$root/scripts/peers/chromium.sh"

tensorboard="" scratch=""
cleanup() {
    stop_child
    if [ -n "$tensorboard" ]; then
        kill "$tensorboard" 2>/dev/null || true
        # Wait, because TensorBoard ends its data server before it ends itself.
        wait "$tensorboard" 2>/dev/null || true
    fi
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}
trap cleanup EXIT

# Waits until TensorBoard says where it listens, then until it has scalars and images of every run, and every page.
wait_for_tensorboard() {
    run_child "$venv_python" -B - "$scratch/log" "$tensorboard" "$START_S" "$run" "$@" <<'EOF_PY'
import json, os, re, sys, time, urllib.error, urllib.request

log, pid, limit_s, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
pages = {re.search("[a-z_]+", page)[0] for page in sys.argv[5:]}
runs = sum(any("tfevents" in name for name in names) for _, _, names in os.walk(folder))
if runs == 0:
    sys.exit(f"{folder} holds no events for TensorBoard")
# The loopback address is never behind a proxy.
get = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
end, url, missing = time.monotonic() + limit_s, None, []
while time.monotonic() < end:
    try:
        os.kill(pid, 0)  # sends nothing; it only fails if the process has ended
    except OSError:
        sys.exit("TensorBoard ended at once")
    if url is None:
        with open(log, errors="replace") as file:
            found = re.search(r"^TensorBoard \S+ at (http://127\.0\.0\.1:\d+/)", file.read(), re.M)
        url = found and found[1]
    else:
        try:
            missing = []
            for plugin in ["scalars", "images"]:
                tags = json.load(get(f"{url}data/plugin/{plugin}/tags", timeout=10))
                if sum(map(bool, tags.values())) < runs:
                    missing.append(f"{plugin} of all {runs} runs")
            listing = json.load(get(f"{url}data/plugins_listing", timeout=10))
            missing += [f"page {page}" for page in sorted(pages) if not listing.get(page, {}).get("enabled")]
            if not missing:
                print(url)
                sys.exit()
        except (OSError, ValueError):
            pass  # it doesn't answer yet
    time.sleep(0.3)
sys.exit(f"after {limit_s} s TensorBoard " + (f"shows no {' and no '.join(missing)}" if missing else "doesn't answer"))
EOF_PY
}

case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
-*) die_usage "unknown argument '$1'." ;;
esac
[ $# -ge 2 ] || die_usage "expected the folder of a run and the picture to write, found $# arguments."
case "$2" in
*.png) ;;
*) die_usage "expected a picture named *.png, found '$2'." ;;
esac
[ -d "$1" ] || die "$1: no such folder."
run=$(cd "$1" && pwd -P)
out_folder=$(cd "$(dirname "$2")" 2>/dev/null && pwd -P) || die "$2: the folder $(dirname "$2") does not exist."
out=$out_folder/$(basename "$2")
[ ! -d "$out" ] || die "$2: is a folder, expected a picture to write."
name=$2
shift 2
# shellcheck disable=SC2086 # the default is a list of words
[ $# -gt 0 ] || set -- $PAGES
for page; do
    [[ $page =~ ^([1-9][0-9]{1,3}:)?[a-z_]+(\&.+)?$ ]] ||
        die_usage "expected a page such as images, 500:images or images&tagFilter=REGEX, found '$page'."
done

find_chromium
ensure_venv tensorboard 10 13 "$root/scripts/peers/requirements-tensorboard.txt"

# ---- TensorBoard -------------------------------------------------------------------------------

scratch=$(mktemp -d)
# Start it in the folder above, because the page shows the folder's name as it is given.
cd "$run/.."
"$venv_python" -B -m tensorboard.main --logdir "$(basename "$run")" --host 127.0.0.1 --port 0 \
    >"$scratch/log" 2>&1 </dev/null &
tensorboard=$!
if ! wait_for_tensorboard "$@" >"$scratch/url" 2>"$scratch/why"; then
    die "$(tail -n 1 "$scratch/why")." "TensorBoard said:" "$(tail -n 8 "$scratch/log")"
fi
url=$(cat "$scratch/url")

# ---- Chromium ----------------------------------------------------------------------------------

limit=""
if command -v timeout >/dev/null 2>&1; then limit="timeout $PAGE_S"; fi
files=()
for page; do
    height=$HEIGHT
    case "$page" in [0-9]*) height=${page%%:*} page=${page#*:} ;; esac
    # tagFilter=. matches every tag: TensorBoard then shows all of them in one open group.
    case "$page" in *"&tagFilter="*) ;; *) page="$page&tagFilter=." ;; esac
    file=$scratch/page-${#files[@]}.png
    files+=("$file")
    # Virtual time stands still while a request is under way, so this also works on a slow machine.
    # TMPDIR lies in the scratch folder, so that what a stopped Chromium leaves behind is removed with it.
    # shellcheck disable=SC2086 # limit is a command and its argument, or nothing
    TMPDIR=$scratch run_child $limit "$chromium" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync --no-proxy-server \
        --hide-scrollbars --user-data-dir="$scratch/profile" --window-size="$WIDTH,$height" \
        --virtual-time-budget=$VIRTUAL_MS --screenshot="$file" \
        "$url#$page" >"$scratch/chromium.log" 2>&1 </dev/null ||
        die "$chromium failed on the $page page; it said:" "$(tail -n 5 "$scratch/chromium.log")"
    [ -s "$file" ] ||
        die "$chromium took no screenshot of the $page page; it said:" "$(tail -n 5 "$scratch/chromium.log")"
done

# ---- one picture -------------------------------------------------------------------------------

run_child "$venv_python" -B - "$out" "${files[@]}" <<'EOF_PY' || die "$name is not written; why is above."
import os, sys
from PIL import Image

out, pages = sys.argv[1], [Image.open(path).convert("RGB") for path in sys.argv[2:]]
for path, page in zip(sys.argv[2:], pages):
    # TensorBoard's bar is orange; a browser's own error page has none.
    red, green, blue = page.getpixel((8, 8))
    if not (red > 200 and 80 < green < 180 and blue < 60):
        sys.exit(f"{os.path.basename(path)}: expected TensorBoard's orange bar, found {(red, green, blue)}")
whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
top = 0
for page in pages:
    whole.paste(page, (0, top))
    top += page.height
beside = f"{out}.{os.getpid()}.tmp"
try:
    whole.quantize(256, dither=Image.Dither.NONE).save(beside, "PNG", optimize=True)
    os.replace(beside, out)
except OSError as error:
    sys.exit(f"{out}: {error.strerror}")
finally:
    if os.path.exists(beside):
        os.remove(beside)
EOF_PY
echo "$name: $*"
