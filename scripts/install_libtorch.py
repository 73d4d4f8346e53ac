"""Downloads libtorch as the files of the `torch` wheel. setup.sh calls it. Python 3.8, stdlib only.

    install_libtorch.py .libtorch VERSION cpu|cuda PLATFORM

The wheels are downloaded with pip for one fixed Python version. They are unpacked and never imported.

Each set has the layout of a site-packages folder, because the libraries find each other by
`$ORIGIN/../../nvidia/cu13/lib`:

    .libtorch/cpu/{torch,nvidia,licences,complete}     the CPU set
    .libtorch/cuda/{torch,nvidia,licences,complete}    the CUDA set
    .libtorch/torch -> cpu/torch              the set in use
    .libtorch/.lock                           held by the one process that works here
    .libtorch/.new-*                          scratch of a run; the next run removes what a killed one left

A set is made in the scratch folder and renamed when it is complete. Then the link is replaced in one step.
So whenever a run is interrupted, the set that was in use before it is still in use and complete.
"""

import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

# pip does not derive the older manylinux tags from the newer ones, so all of them are named.
WHEEL_TAGS = {
    "linux-x86_64": ["manylinux_2_%d_x86_64" % n for n in range(28, 11, -1)] + ["manylinux2014_x86_64"],
    "linux-aarch64": ["manylinux_2_%d_aarch64" % n for n in range(28, 16, -1)] + ["manylinux2014_aarch64"],
    "macos-arm64": ["macosx_%d_0_arm64" % n for n in range(14, 10, -1)],
}

# MB to download, and MB of disk that the run needs at its peak, with some room. All were measured. At the
# peak pip holds a wheel twice.
SIZES_MB = {
    ("linux-x86_64", "cpu"): (540, 1200),
    ("linux-x86_64", "cuda"): (2530, 5500),
    ("linux-aarch64", "cpu"): (440, 900),
    ("linux-aarch64", "cuda"): (2670, 5700),
    ("macos-arm64", "cpu"): (111, 600),
}

# Parts of torch/lib that only Python needs.
PYTHON_ONLY = re.compile(r"torch_python|libshm|global_deps")
# Parts that need CUDA packages. libtorch.so is one of them: it is an empty library that needs both
# libtorch_cpu.so and libtorch_cuda.so. The CPU set has a link to libtorch_cpu.so in its place.
CUDA_ONLY = re.compile(r"cuda|nvrtc|nvshmem|^libtorch\.so$")
# CUDA's headers that libtorch's own headers include: build.rs compiles src/torch/graph.cpp with them. Of cccl they
# include only `nv`; the rest of it, 17 MB, is for CUDA's own compiler.
HEADERS = re.compile(
    r"nvidia_(cuda_runtime|cuda_crt|cublas|cusolver|cusparse|nccl_cu\d+)-.*:nvidia/\w+/include/"
    r"|nvidia_cuda_cccl-.*:nvidia/\w+/include/nv/"
)
# Who passes the libraries on passes these on (scripts/package.sh).
LICENCE = re.compile(r"([^/]+)\.dist-info/(?:.*/)?(?:LICEN[CS]E|NOTICE|COPYING|License)[^/]*$")


class SetupError(Exception):
    """A failure to be told to the user as it is."""


def say(text):
    print("setup: " + text, flush=True)


def library(name, platform):
    return "lib%s.%s" % (name, "dylib" if platform.startswith("macos") else "so")


def required_files(which, platform):
    names, headers = ["torch", "torch_cpu", "c10"], ["torch/include/torch/csrc/api/include/torch/torch.h"]
    if which == "cuda":
        names += ["torch_cuda", "c10_cuda"]
        headers += ["nvidia/cu13/include/cuda_runtime_api.h", "nvidia/cu13/include/crt/host_defines.h"]
    return headers + ["torch/build-version"] + ["torch/lib/" + library(name, platform) for name in names]


def is_complete(set_dir, version, which, platform):
    try:
        stamp = (set_dir / "complete").read_text().strip()
    except OSError:
        return False
    files = required_files(which, platform)
    return stamp == "%s %s %s" % (version, which, platform) and all((set_dir / f).exists() for f in files)


@contextlib.contextmanager
def only_one(libtorch):
    """Waits for its turn; the lock goes with the process, however that ends."""
    with open(libtorch / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup.sh works on %s: waiting for it." % libtorch)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pip_download(requirements, wheels, scratch, platform, deps):
    """Downloads into `wheels`. Temporary files stay in `scratch`, whose disk was looked at."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
    for tag in WHEEL_TAGS[platform]:
        command += ["--platform", tag]
    command += [] if deps else ["--no-deps"]
    command += ["--dest", str(wheels)] + requirements
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = dict(os.environ, TMPDIR=str(temporary), PIP_REQUIRE_VIRTUALENV="0")
    status = subprocess.run(command, env=environment).returncode
    if status != 0:
        raise SetupError(
            "pip could not download %s (exit code %d; what it said is above).\n"
            "  Look at the network, the proxy and pip's configuration ('pip config list'), then run\n"
            "  scripts/setup.sh again; or set LIBTORCH to a libtorch that you have (--help)."
            % (" ".join(requirements), status)
        )


def unpack(wheel, into, wanted):
    """Unpacks the members whose names `wanted` accepts, then removes the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            licence = LICENCE.match(name)
            if name.endswith("/") or not (licence or wanted(name)):
                continue
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise SetupError("%s: refusing the member '%s', it leads outside." % (wheel.name, name))
            target = into / ("licences/" + name.replace(".dist-info/", "/", 1) if licence else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    wheel.unlink()


def cuda_requirements(metadata, which):
    """The CUDA packages that torch's own METADATA asks for, and two of headers alone; for the CPU set only the two
    that libtorch_cpu.so is linked to. All in the same versions."""
    found = []
    for line in metadata.splitlines():
        match = re.match(r'Requires-Dist: ((?:cuda-toolkit|nvidia-)[^;]*); *platform_system == "Linux"', line)
        if match and which == "cuda":
            found.append(match.group(1).strip().replace("cuda-toolkit[", "cuda-toolkit[crt,cccl,"))
        elif match and match.group(1).startswith("cuda-toolkit["):
            found.append(re.sub(r"\[.*\]", "[cudart,cupti]", match.group(1).strip()))
    if not found:
        raise SetupError("the torch wheel names no CUDA packages; is it another build than the public one?")
    return found


def build_set(scratch, version, which, platform):
    """Makes the whole set in `scratch`/set and returns that path."""
    wheels, new = scratch / "wheels", scratch / "set"
    wheels.mkdir()
    new.mkdir()

    def in_torch(name):
        if name.startswith("torch/include/"):
            return True
        if not name.startswith("torch/lib/") or name.endswith(".h"):
            return False
        base = name.rsplit("/", 1)[1]
        on_mac = platform.startswith("macos")
        return not PYTHON_ONLY.search(base) and (which == "cuda" or on_mac or not CUDA_ONLY.search(base))

    def in_nvidia(wheel, name):
        if which == "cuda" and HEADERS.match(wheel.name + ":" + name):
            return True
        if not name.startswith("nvidia/") or "/lib/" not in name or name.endswith(".a"):
            return False
        return which == "cuda" or bool(re.search(r"/lib(cudart|cupti)\.so", name))

    # 1. torch itself.
    pip_download(["torch==" + version], wheels, scratch, platform, deps=False)
    (torch_wheel,) = wheels.glob("torch-*.whl")
    downloaded = torch_wheel.stat().st_size
    with zipfile.ZipFile(torch_wheel) as archive:
        # Its folder's name holds the version, which an index of the user's own may extend (+cpu).
        (name,) = [n for n in archive.namelist() if re.match(r"torch-[^/]*\.dist-info/METADATA$", n)]
        metadata = archive.read(name).decode()
    say("unpacking %s" % torch_wheel.name)
    unpack(torch_wheel, new, in_torch)

    # 2. What its libraries need of CUDA. Even the CPU library of the Linux wheels needs two of them.
    if platform.startswith("linux"):
        pip_download(cuda_requirements(metadata, which), wheels, scratch, platform, deps=True)
        for wheel in sorted(wheels.glob("*.whl")):
            downloaded += wheel.stat().st_size
            say("unpacking %s" % wheel.name)
            unpack(wheel, new, functools.partial(in_nvidia, wheel))
        if which == "cpu":
            (new / "torch/lib/libtorch.so").symlink_to("libtorch_cpu.so")

    # 3. Is it what was asked for?
    header = (new / "torch/include/torch/headeronly/version.h").read_text()
    found = ".".join(re.findall(r"#define TORCH_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header))
    if found != version:
        raise SetupError("expected the headers of torch %s, found %s." % (version, found or "no version"))
    (new / "torch/build-version").write_text(version + "\n")  # torch-sys checks it; wheels have none
    missing = [name for name in required_files(which, platform) if not (new / name).exists()]
    if missing:
        raise SetupError("the torch wheel lacks %s; its layout is not the known one." % ", ".join(missing))
    os.sync()
    (new / "complete").write_text("%s %s %s\n" % (version, which, platform))  # last
    say("downloaded %d MB" % round(downloaded / 1e6))
    return new


def use(libtorch, scratch, which):
    """Points .libtorch/torch at the set, in one step."""
    link = libtorch / "torch"
    if link.is_symlink() and os.readlink(link) == which + "/torch":
        return
    # Cargo compares times: a set that is older than the last build must look new to it (build.rs).
    os.utime(libtorch / which / "torch/lib")
    if link.is_dir() and not link.is_symlink():  # laid by hand, or by an older script
        for name in ("torch", "nvidia"):
            if (libtorch / name).exists():
                (libtorch / name).rename(scratch / ("old-" + name))
    (scratch / "torch").symlink_to(which + "/torch")
    os.replace(scratch / "torch", link)


def install(libtorch, version, which, platform):
    for stale in libtorch.glob(".new-*"):
        say("removing what an interrupted run left")
        shutil.rmtree(stale, ignore_errors=True)
    # mkdtemp's folder is private to the user, so the set is made one level below.
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=libtorch))
    try:
        if not is_complete(libtorch / which, version, which, platform):
            download_mb, needed_mb = SIZES_MB[(platform, which)]
            free_mb = shutil.disk_usage(libtorch).free // 1000000
            if free_mb < needed_mb:
                raise SetupError(
                    "not enough disk space: expected %d MB free in %s, found %d MB.\n"
                    "  Free some, or make .libtorch a link to a folder on a larger disk."
                    % (needed_mb, libtorch, free_mb)
                )
            say("libtorch %s (%s) for %s: downloading about %d MB" % (version, which, platform, download_mb))
            new = build_set(scratch, version, which, platform)
            if (libtorch / which).exists():
                (libtorch / which).rename(scratch / "old")
            new.rename(libtorch / which)
        use(libtorch, scratch, which)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def main():
    libtorch, version, which, platform = sys.argv[1:]
    libtorch = Path(libtorch)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    started = time.monotonic()
    try:
        libtorch.mkdir(exist_ok=True)
        with only_one(libtorch):
            install(libtorch, version, which, platform)
    except SetupError as error:
        sys.exit("setup: error: %s" % error)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        sys.exit("setup: error: %s\n  Run scripts/setup.sh again once that is mended." % error)
    except KeyboardInterrupt:
        sys.exit("setup: interrupted; run scripts/setup.sh again to start over.")
    other = "cuda" if which == "cpu" else "cpu"
    say("libtorch %s (%s) is ready in .libtorch/ after %d s." % (version, which, time.monotonic() - started))
    if (libtorch / other).exists():
        say("the %s set is kept beside it; to free its disk space: rm -r .libtorch/%s" % (other, other))


if __name__ == "__main__":
    main()
