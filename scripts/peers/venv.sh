# shellcheck shell=bash
# Sourced, not run. Makes environments for the Python programs that we measure against or check with.
#
# The caller sets `root` (the checkout) and provides die MESSAGE [LINE...]. Environments lie under
# target/peers/, so that `cargo clean` removes them and git does not see them.
# Written for bash 3.2 (macOS) and later.

: "${root:?the caller sets it}"

child=""
stop_child() {
    # It is no error if the child has just ended by itself.
    if [ -n "$child" ]; then kill "$child" 2>/dev/null || true; fi
}
trap stop_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run_child COMMAND...: runs a command as in the foreground, but a signal ends the command and then this
# script. bash would otherwise leave the command running.
run_child() {
    local code=0
    # <&0 keeps the standard input, which a background command would otherwise not get.
    "$@" <&0 &
    child=$!
    wait "$child" || code=$?
    child=""
    return "$code"
}

# find_python_between LOW HIGH: sets found_python to a Python 3.LOW to 3.HIGH that has venv.
# PYTHON=PROGRAM is tried first, then the versions from new to old.
find_python_between() {
    local low=$1 high=$2 minor candidates="" candidate
    for ((minor = high; minor >= low; minor--)); do candidates+=" python3.$minor"; done
    for candidate in ${PYTHON:+"$PYTHON"} python3 python $candidates; do
        # A version manager puts stand-ins into PATH even for versions that it lacks, so each is run.
        if "$candidate" -c "import ensurepip, sys, venv
sys.exit(not (3, $low) <= sys.version_info[:2] <= (3, $high))" >/dev/null 2>&1; then
            found_python=$candidate
            return
        fi
    done
    die "Python 3.$low to 3.$high with venv is needed; none of these is one:${PYTHON:+ $PYTHON} python3 python$candidates." \
        "Debian, Ubuntu: apt install python3-venv. Or set PYTHON to a Python that fits."
}

# ensure_venv NAME LOW HIGH REQUIREMENTS [PIP OPTION...]: sets venv_python to the Python of the
# environment NAME. It is made in target/peers/NAME unless a complete one is there already.
# Where PEER_NAME_VENV=DIR (NAME in capitals) is set, the environment in DIR is used as it is.
ensure_venv() {
    local name=$1 low=$2 high=$3 requirements=$4 variable dir stamp
    shift 4
    variable=PEER_$(printf %s "$name" | tr '[:lower:]' '[:upper:]')_VENV
    dir=${!variable:-}
    if [ -n "$dir" ]; then
        [ -x "$dir/bin/python" ] || die "$variable=$dir is no Python environment: there is no $dir/bin/python."
        venv_python=$(cd "$dir" && pwd -P)/bin/python # the caller may change the folder
        return
    fi

    dir=$root/target/peers/$name
    venv_python=$dir/bin/python
    # The stamp is written last and holds the requirements, so an unfinished or outdated environment has
    # none, or another one.
    stamp=$dir/complete
    if cmp -s "$requirements" "$stamp" && "$venv_python" -c "" 2>/dev/null; then return; fi

    find_python_between "$low" "$high"
    printf 'making the environment target/peers/%s with %s (pip, %s) ...\n' \
        "$name" "$found_python" "${requirements#"$root"/}" >&2
    rm -rf "$dir"
    mkdir -p "$root/target/peers"
    run_child "$found_python" -m venv "$dir" || die "$found_python could not make an environment in $dir."
    # Only binary wheels are accepted, because a source package would run a build of its own.
    run_child "$venv_python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$@" \
        -r "$requirements" >&2 ||
        die "pip could not install ${requirements#"$root"/} into target/peers/$name; what it said is above." \
            "Run it again when that is fixed, or set $variable to an environment that has these packages."
    cp "$requirements" "$stamp"
}
