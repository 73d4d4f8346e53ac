# shellcheck shell=bash
# Sourced, not run. Finds the browser for scripts that look at pages.
#
# The caller provides die MESSAGE [LINE...].
# Written for bash 3.2 (macOS) and later.

# Sets chromium to a Chromium or Chrome in PATH. Where CHROMIUM=PROGRAM is set, it is the only candidate.
# shellcheck disable=SC2034 # the caller uses it
find_chromium() {
    local candidate
    for candidate in ${CHROMIUM:+"$CHROMIUM"} chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$candidate" >/dev/null 2>&1; then
            chromium=$candidate
            return
        fi
        [ "$candidate" != "${CHROMIUM:-}" ] || die "CHROMIUM=$CHROMIUM: no such program."
    done
    die "no Chromium in PATH." "Debian: apt install chromium. Fedora: dnf install chromium." \
        "Or set CHROMIUM to a Chromium or Chrome that you have."
}
