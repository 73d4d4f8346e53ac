#!/usr/bin/env bash
#
# Makes an archive that runs on any Linux that is new enough. See --help.
set -euo pipefail

oldest_glibc=2.34 # an archive that needs a newer one is refused

usage() {
    cat <<EOF_USAGE
Makes dist/dcgan-VERSION-ARCH-linux-SET.tar.gz, which runs from any folder without Rust, Python or variables:
the executable, the libraries that it needs, all licences, completions, manual pages, the documentation and the browser
page.
Beside it come its SHA-256 and, with cargo-cyclonedx, a list of what it is made of (SBOM).

Usage: scripts/package.sh [--cpu | --cuda] [--no-build] [--no-browser]

  --cpu, --cuda  the libtorch to pack (scripts/setup.sh installs it); default: --cpu
  --no-build     pack target/release/dcgan as it is; it was built with DCGAN_RPATH='\$ORIGIN/lib/torch/lib'
  --no-browser   leave the browser page out (it needs Node.js 18.18 and 40 MB of packages)

Needs readelf and strip (binutils) and Python 3. It fails if the archive would need a glibc newer than $oldest_glibc:
build it on an older system then.

Exit code: 0 if the archive is made, 1 if it is not, 2 on wrong usage.
EOF_USAGE
}

say() { printf 'package: %s\n' "$*"; }
die() { printf 'package: error: %s\n' "$*" >&2; exit 1; }

set_name="" build=yes browser=yes
for option in "$@"; do
    case $option in
    -h | --help) usage; exit 0 ;;
    --cpu | --cuda)
        [ -z "$set_name" ] || { printf 'package: error: --cpu and --cuda: choose one\n' >&2; exit 2; }
        set_name=${option#--} ;;
    --no-build) build=no ;;
    --no-browser) browser=no ;;
    *) printf "package: error: unknown option %s\nTry 'scripts/package.sh --help'.\n" "$option" >&2; exit 2 ;;
    esac
done
: "${set_name:=cpu}"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(uname -s)" = Linux ] || die "archives are made on Linux, for Linux"
for program in readelf strip python3 cargo sha256sum; do
    command -v "$program" >/dev/null || die "$program is not in PATH (Debian: apt install binutils python3)"
done
libtorch=$PWD/.libtorch/$set_name
[ -e "$libtorch/complete" ] || die "there is no .libtorch/$set_name; run scripts/setup.sh --$set_name"
[ -d "$libtorch/licences" ] ||
    die "the licences of libtorch are not in .libtorch/$set_name, which is older than this script." \
        "Run: rm -r .libtorch/$set_name && scripts/setup.sh --$set_name"

# ---- build --------------------------------------------------------------------------------------

if [ "$build" = yes ]; then
    LIBTORCH=$libtorch/torch DCGAN_RPATH="\$ORIGIN/lib/torch/lib" cargo build --release --locked --bin dcgan
fi
executable=${CARGO_TARGET_DIR:-target}/release/dcgan
[ -x "$executable" ] || die "there is no $executable"
# grep reads to its end, because readelf would be stopped by a closed pipe.
readelf -d "$executable" | grep -F "[\$ORIGIN/lib/torch/lib]" >/dev/null ||
    die "$executable was built without DCGAN_RPATH='\$ORIGIN/lib/torch/lib'"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name=dcgan-$version-$(uname -m)-linux-$set_name
mkdir -p dist
scratch=$(mktemp -d dist/.new-XXXXXX)
trap 'rm -rf "$scratch"' EXIT
package=$scratch/$name
mkdir -p "$package"/{lib/torch/lib,licences,completions,man,docs}
strip -o "$package/dcgan" "$executable"

# ---- libraries: lib/ has the layout of .libtorch/SET, in which they find each other ------------------

# Copies what the ELF file $1 needs, what that needs, and so on; the rest is the system's.
copy_needed() {
    local needed found relative
    for needed in $(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p'); do
        found=$(find "$libtorch/torch/lib" "$libtorch/nvidia" -name "$needed" -print -quit)
        relative=${found#"$libtorch"/}
        if [ -n "$found" ] && ! [ -e "$package/lib/$relative" ]; then
            copy_library "$relative"
        fi
    done
}
copy_library() {
    local target=$package/lib/$1
    mkdir -p "$(dirname "$target")"
    if [ -L "$libtorch/$1" ]; then
        # The CPU set's libtorch.so is a link to libtorch_cpu.so; a copy would have its 440 MB twice.
        cp -P "$libtorch/$1" "$target"
        copy_library "$(dirname "$1")/$(readlink "$libtorch/$1")"
    elif ! [ -e "$target" ]; then
        cp "$libtorch/$1" "$target"
        copy_needed "$target"
    fi
}
copy_needed "$executable"
# These are loaded by name at run time, when a GPU is used.
if [ "$set_name" = cuda ]; then
    while read -r library; do
        copy_library "${library#"$libtorch"/}"
    done < <(find "$libtorch/torch/lib" "$libtorch/nvidia" -name '*.so*' | sort)
fi
cp "$libtorch/torch/build-version" "$package/lib/torch/"
if [ "$set_name" = cuda ]; then
    "$package/dcgan" doctor | grep -E '^ +graphs +yes$' >/dev/null ||
        die "the executable was built without CUDA graphs, because CUDA's headers were missing." \
            "Run: rm -r .libtorch/cuda && scripts/setup.sh --cuda"
fi

# ---- what else belongs to it --------------------------------------------------------------------

page=()
if [ "$browser" = yes ]; then
    # What it prints names the scratch folder.
    DCGAN_BIN=$package/dcgan scripts/build_browser.sh --out "$package/browser" >/dev/null
    page=(docs/browser)
fi
cp docs/*.md docs/*.png docs/*.gif "$package/docs/"

cp LICENSE-MIT LICENSE-APACHE "$package/licences/"
cp -R "$libtorch/licences/." "$package/licences/"
cp assets/README.md "$package/licences/built-in-data.md"
cargo metadata --locked --format-version 1 --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" |
    python3 -B scripts/collect_licences.py "$package/licences" ${page[@]+"${page[@]}"}

for shell in bash zsh fish elvish; do
    "$package/dcgan" completions "$shell" >"$package/completions/dcgan.$shell"
done
"$package/dcgan" man >"$package/man/dcgan.1"
sed -n 's/^dcgan\\-\(.*\)(1)$/\1/p' "$package/man/dcgan.1" | while read -r command; do
    [ "$command" = help ] || "$package/dcgan" man "$command" >"$package/man/dcgan-$command.1"
done

# ---- the oldest system that it runs on ------------------------------------------------------------

newest() { # newest PREFIX: the newest version of the system's symbols that any file needs
    find "$package" -type f \( -name dcgan -o -name '*.so*' \) -exec readelf -V {} + 2>/dev/null |
        grep -oE "Name: $1_[0-9.]+" | sed 's/.*_//' | sort -uV | tail -n 1
}
glibc=$(newest GLIBC) glibcxx=$(newest GLIBCXX)
{ [ -n "$glibc" ] && [ -n "$glibcxx" ]; } || die "readelf found no versions of glibc and libstdc++"
[ "$(printf '%s\n' "$glibc" "$oldest_glibc" | sort -V | tail -n 1)" = "$oldest_glibc" ] ||
    die "expected to need glibc $oldest_glibc or older, found $glibc; build on an older system"

cat >"$package/README" <<EOF_README
dcgan $version for Linux $(uname -m), with libtorch $(cat "$libtorch/torch/build-version") ($set_name): trains a network (DCGAN) that
makes images like those that it is shown.

1. Digits at once, from the generator inside the program. Look at samples.png:
    ./dcgan sample

2. Your own images, a few hundred or more of one kind, in a folder: PNG, JPEG, WebP, TIFF and others. The first line says
   what is found, and sheet.png shows what training would see. The second is a first look: about ten minutes on two cores
   of an AMD EPYC.
    ./dcgan data show folder:my-photos --sheet sheet.png
    ./dcgan train --dataset folder:my-photos --base-width 32 --batch-size 64 --ema 0.99 --iterations 3000
   Then take --image-size 64, which takes five times as long. Without --iterations it trains for 10 epochs, too few for
   some hundred images. Ctrl-C saves and ends; ./dcgan train --resume 1 goes on. docs/photos.md says how long other sizes
   take, and what else helps.

3. In a second terminal, watch run 1: losses, newest samples, time left. All its pictures are in runs/0001-.../samples:
    ./dcgan runs watch 1

4. Make images with the trained generator, or take it to PyTorch, onnxruntime or a browser:
    ./dcgan sample 1 --out mine.png
    ./dcgan export 1 --format onnx

./dcgan doctor says what works on this machine, ./dcgan --help names all commands and settings. ./dcgan alone trains on
the built-in digits. All files are written into the folder where you are.

Keep dcgan and lib/ side by side; the folder may lie anywhere and be read-only. To call it from everywhere, make a link:
    mkdir -p ~/.local/bin && ln -s "\$PWD/dcgan" ~/.local/bin/dcgan
It needs glibc $glibc and a libstdc++ with GLIBCXX_$glibcxx, or newer (Debian 12, Ubuntu 22.04, RHEL 9).
Where libstdc++.so.6 is missing:
    Debian, Ubuntu: apt install libstdc++6        Fedora: dnf install libstdc++

docs/         the documentation; begin with docs/start.md. Its links to the sources lead nowhere here
completions/  for bash, zsh, fish and elvish, such as: source completions/dcgan.bash
man/          manual pages, such as: man ./man/dcgan-train.1
licences/     of the program and of everything in it
EOF_README
if [ "$browser" = yes ]; then
    cat >>"$package/README" <<'EOF_README'
browser/      a walk through latent space, at http://127.0.0.1:8000 after this line:
              python3 -m http.server --bind 127.0.0.1 --directory browser
EOF_README
fi

# ---- archive, sum, SBOM -------------------------------------------------------------------------

# Equal files give an equal archive: no owner, one date, one order.
date=$(git log -1 --format=%cI 2>/dev/null || echo 2000-01-01T00:00:00Z)
tar --sort=name --owner=0 --group=0 --numeric-owner --mode='u+rw,go+r,go-w,a+X' --mtime="$date" -C "$scratch" -cf - "$name" |
    gzip -n -9 >"$scratch/$name.tar.gz"
(cd "$scratch" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
if cargo cyclonedx --version >/dev/null 2>&1; then
    # It writes beside Cargo.toml. With a date that is given, it names no random number.
    SOURCE_DATE_EPOCH=$(date -d "$date" +%s) \
        cargo cyclonedx -q --format json --no-build-deps --override-filename "$name.cdx"
    mv "$name.cdx.json" "$scratch/"
    python3 -B scripts/complete_sbom.py "$scratch/$name.cdx.json" "$libtorch/licences" ${page[@]+"${page[@]}"}
    mv "$scratch/$name.cdx.json" dist/
else
    say "no SBOM: cargo-cyclonedx is not installed (cargo install --locked cargo-cyclonedx)"
fi
mv "$scratch/$name.tar.gz" "$scratch/$name.tar.gz.sha256" dist/
say "dist/$name.tar.gz: $(du -m "dist/$name.tar.gz" | cut -f1) MB, unpacked $(du -sm "$package" | cut -f1) MB;" \
    "needs glibc $glibc, GLIBCXX_$glibcxx"
