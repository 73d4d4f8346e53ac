#!/usr/bin/env bash
#
# Installs libtorch into .libtorch/, where .cargo/config.toml looks for it. See --help.
#
# This script looks at the machine and decides what to install. scripts/install_libtorch.py downloads and
# unpacks it.
# Written for bash 3.2 (macOS) and later.
set -euo pipefail

TORCH_VERSION=2.13.0 # what tch 0.26 wants, exactly

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
libtorch=$root/.libtorch

usage() {
    cat <<EOF_USAGE
Installs libtorch $TORCH_VERSION into .libtorch/. This takes about 1 minute on a fast line, and nothing when it
is there already.

Usage: scripts/setup.sh [--cpu | --cuda] [--no-system] [--rust]

  --cpu       install the CPU set, even where an NVIDIA GPU is found
              (Linux x86_64: 540 MB to download, 0.5 GB on disk, 1.2 GB while it works)
  --cuda      install the CUDA set, even where no NVIDIA GPU is found; Linux only
              (2.5 GB to download, 3.9 GB on disk, 5.5 GB while it works)
  --no-system install no packages of the system
  --rust      where cargo is missing, install Rust with rustup into the home folder
  -h, --help  print this text

Without an option, the script takes the CUDA set where it finds an NVIDIA GPU or where the CUDA set is in
use already, and the CPU set otherwise. Both sets can be installed side by side: the one that was asked for
last is in use, and the next 'cargo build' links it.

On Debian and Ubuntu, packages that are missing (g++, python3-pip) are installed with apt-get where the user is root or
sudo asks for no password. The script says which; --no-system refuses.

Needed: a C++ compiler, and Python 3.8 or newer with pip 20.3.4 or newer. pip downloads the files of the
'torch' wheel and Python unpacks them. Nothing is installed into Python, and it is not needed afterwards.

You can use a libtorch of your own. Then nothing is downloaded, and the script only checks it:
  LIBTORCH=DIR            DIR holds include/ and lib/ of libtorch $TORCH_VERSION
  LIBTORCH_USE_PYTORCH=1  the active Python has torch $TORCH_VERSION
Keep the variable set when you run cargo.

Other variables: PYTHON=PROGRAM chooses the Python that downloads. pip's own variables (PIP_INDEX_URL and
so on) are honoured.

Exit code: 0 if libtorch is ready, 1 if it is not, 2 on wrong usage.
EOF_USAGE
}

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
    exit 1
}
die_usage() {
    printf "setup: error: %s\nTry 'scripts/setup.sh --help'.\n" "$1" >&2
    exit 2
}

# ---- what the machine has ---------------------------------------------------------------------

# Sets platform, where torch has wheels for this system and processor, and the libraries' file extension.
find_platform() {
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64 | Linux-amd64) platform=linux-x86_64 ;;
    Linux-aarch64 | Linux-arm64) platform=linux-aarch64 ;;
    Darwin-arm64) platform=macos-arm64 ;;
    *) platform="" ;;
    esac
    case "$(uname -s)" in
    Darwin) lib_ext=dylib ;;
    MINGW* | MSYS* | CYGWIN*)
        die "this script does not serve Windows." \
            "Get libtorch $TORCH_VERSION yourself, set LIBTORCH to its folder and add its lib folder to PATH; or use WSL."
        ;;
    *) lib_ext=so ;;
    esac
}

need_platform() {
    [ -n "$platform" ] || die "there is no torch $TORCH_VERSION wheel for $(uname -s) $(uname -m)." \
        "Expected: Linux x86_64, Linux aarch64 or macOS arm64." \
        "Elsewhere, get libtorch $TORCH_VERSION yourself and set LIBTORCH to its folder."
    case "$platform" in
    linux-*)
        # The wheels are built for glibc 2.28 and later (manylinux_2_28).
        local glibc
        glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | awk '{ print $2 }') || glibc=""
        awk -v v="$glibc" 'BEGIN { split(v, p, "."); exit !(p[1] > 2 || (p[1] == 2 && p[2] >= 28)) }' ||
            die "the torch wheel needs glibc 2.28 or newer; found: ${glibc:-no glibc (musl?)}." \
                "Use a newer or another Linux (Debian 10, Ubuntu 20.04 and RHEL 8 are new enough)."
        ;;
    esac
}

# tch compiles C++17 and links with cc (and libgomp on Linux). Try that before anything is downloaded.
need_compiler() {
    local hint="Debian, Ubuntu: apt install build-essential. Fedora: dnf install gcc-c++. macOS: xcode-select --install."
    local cxx=${CXX:-c++} log libs="" program
    command -v cc >/dev/null 2>&1 || die "no C compiler: 'cc' is not in PATH (Rust links with it)." "$hint"
    command -v "${cxx%% *}" >/dev/null 2>&1 || die "no C++ compiler: '$cxx' is not in PATH." "$hint"
    [ "$lib_ext" = dylib ] || libs=-lgomp
    program=$(mktemp)
    # shellcheck disable=SC2086 # CXX may be a program and its options; libs may be nothing
    log=$(printf '#include <optional>\nint main() { return std::optional<int>(0).value(); }\n' |
        $cxx -std=c++17 -x c++ - -x none $libs -o "$program" 2>&1) || {
        rm -f "$program"
        die "the C++ compiler '$cxx' can't build a C++17 program. It said:" "${log:0:600}" "$hint"
    }
    rm -f "$program"
}

rustup_line="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"

need_cargo() {
    command -v cargo >/dev/null 2>&1 && return
    if [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        say "note: Rust is installed and not in PATH; run: . \"${CARGO_HOME:-$HOME/.cargo}/env\""
    elif [ "$rust" = yes ]; then
        say "installing Rust with rustup into ${CARGO_HOME:-$HOME/.cargo}: $rustup_line"
        bash -o pipefail -c "$rustup_line" ||
            die "rustup could not install Rust (what it said is above)." "Install Rust yourself, then run this again."
        say "Rust is installed; in this shell, run first: . \"${CARGO_HOME:-$HOME/.cargo}/env\""
    else
        say "note: Rust is missing. scripts/setup.sh --rust installs it, and so does this line:"
        say "  $rustup_line"
    fi
}

# Installs what is missing of the packages that building needs, on Debian and Ubuntu. What cannot be installed here is
# told by the checks that follow.
install_system_packages() {
    [ "$system" = yes ] && command -v apt-get >/dev/null 2>&1 || return 0
    local missing=() as_root=()
    if ! command -v cc >/dev/null 2>&1 || ! command -v c++ >/dev/null 2>&1; then missing+=(g++); fi
    # A libtorch or a Python of the user's own needs no pip.
    if [ -z "${PYTHON:-}${LIBTORCH_USE_PYTORCH+set}${LIBTORCH+set}" ] && ! in_use cpu && ! in_use cuda &&
        ! python3 -m pip --version >/dev/null 2>&1; then
        missing+=(python3-pip)
    fi
    if [ "$rust" = yes ] && ! command -v cargo >/dev/null 2>&1 && ! command -v curl >/dev/null 2>&1; then
        missing+=(curl ca-certificates)
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        sudo -n true >/dev/null 2>&1 || return 0
        as_root=(sudo -n)
    fi
    say "installing packages of the system that are missing: ${missing[*]} (--no-system refuses)"
    # Only bash 4.4 and later can expand an empty array otherwise.
    ${as_root[@]+"${as_root[@]}"} apt-get update -qq &&
        ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install ${missing[*]} (what it said is above)." "Install them yourself, then run this again."
}

gpu_found() {
    case "$platform" in linux-*) ;; *) return 1 ;; esac
    [ -e /dev/nvidia0 ] || [[ "$(nvidia-smi -L 2>/dev/null || true)" == "GPU "* ]]
}

# Finds the first Python 3.8 or newer with pip 20.3.4 or newer. (pip 20.2 accepts only one --platform, and
# 20.3.0 does not find these wheels.) Where PYTHON is set, it is the only candidate.
python_probe='
import sys
try:
    import pip
    pip_version = pip.__version__
except ImportError:
    pip_version = "none"
numbers = [int("".join(c for c in n if c.isdigit()) or 0) for n in pip_version.split(".")[:3]]
ok = sys.version_info >= (3, 8) and pip_version != "none" and numbers >= [20, 3, 4]
print("%sPython %s, pip %s" % ("ok, " if ok else "", sys.version.split()[0], pip_version))
'
find_python() {
    local candidate found="" candidates=(python3 python /usr/bin/python3)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        found="$found${found:+; }$candidate: $("$candidate" -c "$python_probe" 2>&1 || true)"
        case "$found" in
        *": ok, Python "*)
            python=$candidate
            return
            ;;
        esac
    done
    die "Python 3.8 or newer with pip 20.3.4 or newer is needed to download libtorch." \
        "Found: ${found:-no program ${PYTHON:-python3 or python}}." \
        "Debian, Ubuntu: apt install python3-pip. Elsewhere: python3 -m ensurepip." \
        "Where pip is too old: python3 -m venv V; V/bin/pip install -U pip; PYTHON=V/bin/python scripts/setup.sh" \
        "Or set LIBTORCH to a libtorch $TORCH_VERSION that you have (see --help)."
}

# ---- a libtorch of the user's own ---------------------------------------------------------------

# check_own WHAT INCLUDE_DIR LIB_DIR VERSION_FILE
check_own() {
    local what=$1 include=$2 lib=$3 version_file=$4 file version=""
    for file in "$include/torch/csrc/api/include/torch/torch.h" \
        "$lib/libtorch.$lib_ext" "$lib/libtorch_cpu.$lib_ext" "$lib/libc10.$lib_ext"; do
        [ -e "$file" ] || die "$what is not a libtorch with headers and libraries: there is no $file." \
            "Correct the variable, or unset it and run scripts/setup.sh again."
    done
    # tch is compiled against the headers, and torch-sys checks build-version, so both must be right.
    for file in "$include/torch/headeronly/version.h" "$include/torch/csrc/api/include/torch/version.h"; do
        [ -n "$version" ] || [ ! -e "$file" ] || version=$(awk '
            $1 == "#define" && $2 ~ /^TORCH_VERSION_(MAJOR|MINOR|PATCH)$/ { v = v (v == "" ? "" : ".") $3 }
            END { print v }' "$file")
    done
    if [ -e "$version_file" ] && [ "$version" = "$TORCH_VERSION" ]; then
        version=$(head -n 1 "$version_file")
        version=${version%%[+[:space:]]*}
    fi
    [ "$version" = "$TORCH_VERSION" ] ||
        die "$what: expected libtorch $TORCH_VERSION, found ${version:-no version}." \
            "tch needs exactly that one. Unset the variable and run scripts/setup.sh again to get it."
    if [ "$want" = cuda ] && [ ! -e "$lib/libtorch_cuda.$lib_ext" ]; then
        die "--cuda: $what has no libtorch_cuda.$lib_ext, it is a CPU build." \
            "Choose a CUDA build, or unset the variable and run scripts/setup.sh --cuda again."
    fi
    if [ "$want" = cpu ] && [ -e "$lib/libtorch_cuda.$lib_ext" ]; then
        say "note: --cpu changes nothing here: $what is a CUDA build, and is used as it is."
    fi
    say "libtorch $TORCH_VERSION is ready: $what. Nothing to download."
}

check_own_pytorch() {
    # torch-sys' build script asks the same Python the same question.
    local py=python3 answer
    [ -z "${VIRTUAL_ENV+set}" ] || py=python
    command -v "$py" >/dev/null 2>&1 || die "LIBTORCH_USE_PYTORCH is set and '$py' is not in PATH."
    answer=$("$py" -c '
import torch
from torch.utils import cpp_extension
print(cpp_extension.include_paths()[0])
print(cpp_extension.library_paths()[-1])' 2>&1) ||
        die "LIBTORCH_USE_PYTORCH is set (any value counts, 0 too), but $py can't import torch and torch.utils.cpp_extension:" \
            "$(printf '%s\n' "$answer" | tail -n 1)" \
            "Expected: torch $TORCH_VERSION (and setuptools) in $(command -v "$py"). Install it, or unset LIBTORCH_USE_PYTORCH."
    local lib include
    lib=$(printf '%s\n' "$answer" | tail -n 1)
    include=$(printf '%s\n' "$answer" | tail -n 2 | head -n 1)
    check_own "the torch of $(command -v "$py")" "$include" "$lib" "$lib/../build-version"
}

check_own_libtorch() {
    [ -n "$LIBTORCH" ] || die "LIBTORCH is set, and empty." "Unset it (unset LIBTORCH), or set it to a libtorch folder."
    # torch-sys resolves the path from a folder of its own, so it has to be absolute.
    case $LIBTORCH in
        /*) ;;
        *) die "LIBTORCH=$LIBTORCH is a relative path." "Set it to the whole path: $(cd "$LIBTORCH" 2>/dev/null && pwd || echo /path/to/libtorch)" ;;
    esac
    check_own "LIBTORCH=$LIBTORCH" "${LIBTORCH_INCLUDE:-$LIBTORCH}/include" "${LIBTORCH_LIB:-$LIBTORCH}/lib" \
        "$LIBTORCH/build-version"
}

# ---- ours -----------------------------------------------------------------------------------------

# The layout that install_libtorch.py makes: .libtorch/cpu and .libtorch/cuda are complete sets, each with
# torch/ and nvidia/ side by side. .libtorch/torch is a link to the torch/ of the set in use.
in_use() { # in_use SET
    local lib=$libtorch/$1/torch/lib
    [ "$(readlink "$libtorch/torch" 2>/dev/null)" = "$1/torch" ] &&
        [ "$(cat "$libtorch/$1/complete" 2>/dev/null)" = "$TORCH_VERSION $1 $platform" ] &&
        [ -e "$libtorch/$1/torch/include/torch/csrc/api/include/torch/torch.h" ] &&
        [ -e "$lib/libtorch.$lib_ext" ] && [ -e "$lib/libtorch_cpu.$lib_ext" ] && [ -e "$lib/libc10.$lib_ext" ] &&
        { [ "$1" = cpu ] || { [ -e "$lib/libtorch_cuda.$lib_ext" ] &&
            [ -e "$libtorch/cuda/nvidia/cu13/include/crt/host_defines.h" ]; }; }
}

# True if a killed run left its scratch folder, or if a run is at work. install_libtorch.py and its lock
# deal with both.
scratch_is_there() { ls -d "$libtorch"/.new-* >/dev/null 2>&1; }

want="" system=yes rust=no
for arg in "$@"; do
    case "$arg" in
    -h | --help)
        usage
        exit 0
        ;;
    --cpu | --cuda)
        [ -z "$want" ] || [ "--$want" = "$arg" ] || die_usage "--cpu and --cuda: choose one."
        want=${arg#--}
        ;;
    --no-system) system=no ;;
    --rust) rust=yes ;;
    *) die_usage "unknown argument '$arg'." ;;
    esac
done

find_platform
install_system_packages
need_compiler
need_cargo

# Like torch-sys, this script looks at LIBTORCH_USE_PYTORCH first and then at LIBTORCH.
if [ -n "${LIBTORCH_USE_PYTORCH+set}" ]; then
    check_own_pytorch
    exit 0
fi
if [ -n "${LIBTORCH+set}" ] && ! [ "$LIBTORCH" -ef "$libtorch/torch" ] && [ "$LIBTORCH" != "$libtorch/torch" ]; then
    check_own_libtorch
    exit 0
fi

need_platform
case "$platform-$want" in
macos-*-cuda) die "--cuda: there is no CUDA on macOS." "Run scripts/setup.sh without it." ;;
esac
if [ -z "$want" ]; then
    want=cpu
    if in_use cuda; then
        want=cuda
    elif gpu_found; then
        want=cuda
        say "found an NVIDIA GPU, so the CUDA set will be installed (--cpu installs the smaller CPU set)."
    fi
fi

if in_use "$want" && ! scratch_is_there; then
    say "libtorch $TORCH_VERSION ($want) is ready in .libtorch/. Nothing to do."
    exit 0
fi
find_python
exec "$python" -B "$root/scripts/install_libtorch.py" "$libtorch" "$TORCH_VERSION" "$want" "$platform"
