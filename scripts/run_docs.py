#!/usr/bin/env python3
"""Runs the commands of the documentation at tiny sizes; scripts/check_docs.sh calls this.

Every command in a ```sh block of README.md, CONTRIBUTING.md and the pages in docs/ is looked at. A page's commands run
one after the other in a temporary folder of their own, in which three small runs, a run called NAME, two folders of
images, arrays and a tiny MNIST lie already. The program gets each command

  as it is written, with --help behind it, so that it only understands it (that is also done with commands in prose);
  then with widths, batches and numbers of images that make it a matter of a second. All else stays as written.

Both must succeed. What cannot run here is listed with the reason; of the repository's scripts at least --help is
asked whether they know the options. A command that this script does not know is a fault.

Usage: scripts/run_docs.py PROGRAM

Needs Python 3.8 or newer, nothing else. Exit status: 0 all succeeded, 1 some did not, 2 wrong usage
"""

import glob
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from check_docs import CODE, ROOT, pages_of_folder, pages_of_git

# Commands that are not run, by their first word, and why.
NOT_RUN = {
    "cargo": "builds",
    "mdbook": "builds the book",
    "npm": "Node.js",
    "pip": "downloads",
    "python3": "a server, which does not end",
    "scontrol": "a cluster",
    "sha256sum": "the archive is not at hand",
    "tar": "the archive is not at hand",
    "tensorboard": "a server, which does not end",
}
LAUNCHERS = {"srun": "a cluster", "torchrun": "PyTorch's launcher"}
SHELL = {"cd", "["}

# What makes a command small, by the command: options that are set, whether they were written or not.
TINY = {
    "train": {"--iterations": "2", "--base-width": "2", "--batch-size": "4", "--limit": "100"},
    "resume": {"--iterations": "4"},
    "fork": {"--iterations": "6"},
    "eval": {"--count": "8", "--limit": "100"},
    "nearest": {"--limit": "100"},
    "bench": {"--iterations": "1", "--warmup": "0", "--base-width": "2", "--batch-size": "4"},
}
# And these only where they are written.
TINY_IF_WRITTEN = {
    "train": {"--eval-every": "1"},
    "sample": {"--count": "10"},
    "bench": {"--samples": "4"},
}
# How long a command may take, in seconds. On an idle machine none takes more than 20.
LIMIT_S = 300


def png(path, value, side=40):
    """Writes a gray picture with a gradient."""

    def chunk(kind, body):
        body = kind + body
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes((value + x * y) % 256 for x in range(side)) for y in range(side))
    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def mnist(folder):
    """Writes files that are called as MNIST's are, with few images, which are noise.

    Few, because metrics train a classifier on them, which takes 600 steps however few there are.
    """
    folder.mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = bytes((i * 7919 + j * (31 + i)) % 256 for i in range(count) for j in range(784))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        labels = bytes(i % 10 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels)


def latents(path, count=4, length=100):
    """Writes a NumPy file of floats [count, length]."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count}, {length}), }}".ljust(117) + "\n"
    values = struct.pack(f"<{count * length}f", *((i % 200) / 100 - 1 for i in range(count * length)))
    path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + values)


class Program:
    """The executable, in an environment of its own: no network, no cache, one thread."""

    def __init__(self, path, place):
        self.path = path
        self.template = place / "template"
        self.environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        self.environment.update(HOME=str(place), XDG_CACHE_HOME=str(place / "cache"), DCGAN_DATA=str(place / "data"))
        self.environment.update(OMP_NUM_THREADS="1", HTTP_PROXY="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9")
        mnist(place / "data")
        for number in range(12):
            png(self.template / f"pets/{('cat', 'dog')[number % 2]}/{number}.png", 20 * number)
            png(self.template / f"photos/{number}.png", 20 * number)
        latents(self.template / "my-z.npy")
        (self.template / "tests").symlink_to(ROOT / "tests")
        tiny = [word for option in TINY["train"].items() for word in option]
        for run, settings in (
            ("0001-2026-01-31-digits", "--conditional --dataset mnist"),
            ("0002-2026-01-31-pets", "--conditional --dataset folder:pets"),
            ("0003-2026-01-31-digits", ""),
            ("NAME", "--dataset mnist"),
        ):
            self.run(self.template, ["train", "--run", f"runs/{run}", *settings.split(), *tiny], must=True)
        self.run(self.template, ["sample", "runs/NAME", "--npz", "others.npz", "--count", "16"], must=True)

    def run(self, folder, arguments, must=False):
        """None, or the last line of what the program said when it failed."""
        try:
            done = subprocess.run(
                [self.path, *arguments], cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"it does not end within {LIMIT_S} s"
        if done.returncode == 0:
            return None
        said = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["nothing"]
        message = next((line for line in said if line.startswith("error")), said[-1])
        if must:
            sys.exit(f"run_docs.py: dcgan {shlex.join(arguments)}: exit status {done.returncode}: {message}")
        return f"exit status {done.returncode}: {message}"


def commands_of(page):
    """The commands of a page: (line, words, whether in a block, the file to write before, if any)."""
    block, pending, first = None, "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r" *```(\w*)", line)
        if fence:
            block = None if block is not None else fence[1]
            continue
        if block in ("sh", "console"):
            first = first or number
            if line.endswith("\\"):
                pending += line[:-1]
                continue
            words = shlex.shlex(pending + line, posix=True, punctuation_chars="&|;()")
            words.whitespace_split = True
            command = []
            for word in [*words, ";"]:
                if re.fullmatch(r"[&|;()]+", word):
                    if command:
                        yield first, command, True
                    command = []
                elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
                    command.append(word)
            pending, first = "", 0
        elif block == "toml":
            for command in re.findall(r"^# .*for: (dcgan .*)", line):
                yield number, shlex.split(command), True
        elif block is None:
            for code in CODE.findall(line):
                if re.match(r"dcgan .*", code):
                    yield number, shlex.split(code), False


def arguments_of(words):
    """What follows the program's name in a command, or None for another command."""
    if words[0] in ("dcgan", "./dcgan"):
        return words[1:]
    if words[:3] == ["cargo", "run", "--release"] and "--example" not in words:
        return words[words.index("--") + 1 :] if "--" in words else words[3:]
    return None


def tiny(arguments):
    """A command of the documentation at a size that takes a second."""
    name = "train" if not arguments or arguments[0].startswith("-") else arguments[0]
    if "--dry-run" in arguments or "--help" in arguments:
        return arguments
    kind = next((kind for kind in ("fork", "resume") if f"--{kind}" in arguments), name)
    wanted = dict(TINY.get(kind, {}))
    wanted.update({option: value for option, value in TINY_IF_WRITTEN.get(name, {}).items() if option in arguments})
    if "--images" in arguments:
        wanted.pop("--count", None)
    without = {*wanted, "--epochs"} if name == "train" else set(wanted)
    before = ["", *arguments]
    kept = [word for word, previous in zip(arguments, before) if word not in without and previous not in without]
    return kept + [word for option in wanted.items() for word in option]


def why_not(arguments):
    """Why a command cannot run here, or None."""
    if arguments[:2] == ["data", "fetch"]:
        return "downloads"
    if any(word.startswith("cuda") for word in arguments):
        return "a GPU"
    return None


def check_script(words):
    """What is wrong with a call of a script of the repository, or None: its --help must name the options."""
    script = ROOT / words[0]
    if not script.exists():
        return f"there is no {words[0]}"
    shown = subprocess.run([script, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if shown.returncode:
        return f"--help: exit status {shown.returncode}"
    unknown = [word for word in words[1:] if word.startswith("--") and word not in shown.stdout.decode("utf-8")]
    return f"its --help does not name {unknown[0]}" if unknown else None


def expanded(folder, word):
    """The files that a pattern stands for, as a shell would put them in its place; one is enough."""
    if "*" not in word:
        return [word]
    return sorted(os.path.relpath(path, folder) for path in glob.glob(str(folder / word)))[:1] or [word]


def judged(program, folder, words, is_block):
    """What became of a command: "run", "understood", "not run" or "fault", and why.

    Those in prose (`is_block` false) are not run, and may name an option without a value.
    """
    launcher = LAUNCHERS.get(words[0])
    words = [word for word in (words[words.index("dcgan") :] if launcher else words) if word != "…"]
    arguments = arguments_of(words)
    if arguments is None:
        first = words[0][2:] if words[0].startswith("./") else words[0]
        if first.startswith("scripts/"):
            fault = check_script([first, *words[1:]])
            return ("fault", fault) if fault else ("not run", "a script of its own, which was asked for --help")
        if first in NOT_RUN:
            return "not run", NOT_RUN[first]
        return ("not run", "") if first in SHELL else ("fault", "scripts/run_docs.py does not know this command")
    arguments = [path for word in arguments for path in expanded(folder, word)]
    fault = program.run(folder, [*arguments, "--help"])
    if fault and (is_block or "a value is required" not in fault):
        return "fault", fault
    if not is_block:
        return "understood", ""
    reason = launcher or why_not(arguments)
    if reason:
        return "understood", reason
    fault = program.run(folder, tiny(arguments))
    return ("fault", fault) if fault else ("run", "")


def check_page(program, page):
    """What became of each of a page's commands: (the command and its place, what `judged` says)."""
    outcomes = []
    with tempfile.TemporaryDirectory() as place:

        def fresh(name):
            return Path(shutil.copytree(program.template, Path(place) / name, symlinks=True))

        home, elsewhere = fresh("home"), {}
        for text, name in re.findall(r"(?ms)^```toml\n(# ([\w.]+\.toml), .*?)^```", page.read_text(encoding="utf-8")):
            (home / name).write_text(text, encoding="utf-8")
        for line, words, is_block in commands_of(page):
            if words[0] == "cd":
                # The rest of the line is for another folder.
                elsewhere[line] = fresh(f"elsewhere-{line}")
            here = f"{page.relative_to(ROOT)}:{line}: {' '.join(words)}"
            outcomes.append((here, *judged(program, elsewhere.get(line, home), words, is_block)))
    return outcomes


def main():
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    chosen = (ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    pages = [p for p in sorted(pages_of_git() or pages_of_folder()) if p in chosen or ROOT / "docs" in p.parents]
    with tempfile.TemporaryDirectory() as place:
        program = Program(str(Path(sys.argv[1]).resolve()), Path(place))
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            outcomes = [o for page in workers.map(lambda page: check_page(program, page), pages) for o in page]
    for here, kind, why in outcomes:
        if kind == "fault":
            print(f"fault: {here}\n    {why}")
        elif why:
            print(f"{'understood, ' * (kind == 'understood')}not run: {here} ({why})")
    kinds = [kind for _, kind, _ in outcomes]
    print(f"{kinds.count('run')} commands ran, {kinds.count('understood')} more were understood as they are written, "
          f"{kinds.count('fault')} are at fault")  # fmt: skip
    sys.exit(1 if "fault" in kinds else 0)


if __name__ == "__main__":
    main()
