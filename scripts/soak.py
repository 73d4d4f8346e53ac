#!/usr/bin/env python3
"""Stops training runs in every way, resumes them, and compares the result with a run that was never stopped.

  kill      kill -9 at random instants, a quarter of them while a file is being written
  signals   SIGINT, SIGTERM or SIGHUP, some of them twice: the exit status, the time until the run has
            ended, and whether its state was saved
  full      a small disk (tmpfs) fills up while checkpoints, samples, metrics and events are written
  memory    20,000 iterations: resident memory must not grow after the first hundreds
  ranks     kill -9 of one of 3 ranks, or of what has started them, at random instants; run again with --continue
  all       all of these, one after the other

After each stop the run is resumed. At the end every weight and moment, every sample and every line of
metrics (except for times) must equal those of an uninterrupted run, byte for byte. Networks are tiny, so
that a stop can fall anywhere between two writes. `full` mounts a tmpfs, so run it as root or under
`unshare -rm`. Needs Linux, Python 3.9 and target/release/dcgan (scripts/setup.sh && cargo build --release).

exit status: 0 if all is as expected, 1 if something is not, 2 on wrong usage
"""

import argparse
import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 4 --log-every 3 --sample-every 17 "
    "--checkpoint-every 10"
).split()
ENDLESS = 1_000_000_000
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Failure(Exception):
    """Something is not as expected."""


class Program:
    """Starts the trainer in a folder of its own, with further flags if there are any."""

    def __init__(self, executable, folder, *flags):
        self.executable, self.folder, self.flags = executable, folder, flags
        self.environment = dict(os.environ, OMP_WAIT_POLICY="passive")

    def start(self, *arguments):
        return subprocess.Popen(
            [self.executable, "train", "--quiet", *map(str, [*arguments, *self.flags])],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def begin(self, run, seed, iterations=ENDLESS):
        return self.start(*OPTIONS, "--seed", seed, "--iterations", iterations, "--run", run)

    def resume(self, run, *arguments):
        return self.start("--resume", run, *arguments)


def end(process, expected=None, timeout=120):
    """Waits until the process has ended. Returns its exit status and its messages; a panic is a failure."""
    try:
        _, said = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failure(f"{process.args}: still runs after {timeout} s") from None
    if "panicked" in said:
        raise Failure(f"{process.args}: {said}")
    if expected is not None and process.returncode != expected:
        raise Failure(f"{process.args}: expected exit status {expected}, found {process.returncode}\n{said}")
    return process.returncode, said


def newest(run):
    """The iteration of the newest checkpoint, -1 if there is none."""
    names = (re.fullmatch(r"iteration-(\d+)\.safetensors", path.name) for path in run.glob("checkpoints/*"))
    return max((int(match.group(1)) for match in names if match), default=-1)


def lines(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "elapsed_s")} for row in rows]


def compare(program, run, seed):
    """Trains `run` a little further, to an end, and compares it with one that was never stopped."""
    total = newest(run) + 23
    end(program.resume(run.name, "--iterations", total), 0)
    end(program.begin("whole", seed, total), 0)
    whole = program.folder / "whole"
    left = [path for path in run.rglob(".unfinished-*")]
    if left:
        raise Failure(f"half a file is left: {left}")
    files = ["generator.safetensors", "discriminator.safetensors", "real_vs_generated.png"]
    files += [f"checkpoints/{path.name}" for path in (whole / "checkpoints").glob(f"*{total:06}.*")]
    files += [f"samples/{path.name}" for path in (whole / "samples").iterdir()]
    for name in files:
        if (run / name).read_bytes() != (whole / name).read_bytes():
            raise Failure(f"{name} differs from that of a run that was never stopped")
    names = [sorted(path.name for path in (folder / "samples").iterdir()) for folder in (run, whole)]
    if names[0] != names[1]:
        raise Failure("there are other samples than in a run that was never stopped")
    if lines(run) != lines(whole):
        raise Failure("metrics.jsonl differs from that of a run that was never stopped")
    shutil.rmtree(whole)
    return f"{total} iterations, {len(files)} files and {len(lines(run))} lines equal"


def wait_for_checkpoint(run, process):
    before = newest(run)
    while newest(run) <= before and process.poll() is None:
        time.sleep(0.005)


def terminate(run, process):
    """Ends the run by a signal, once it has written a checkpoint. Before that, a signal ends it like any program."""
    wait_for_checkpoint(run, process)
    process.send_signal(signal.SIGTERM)
    end(process, SIGNALS[signal.SIGTERM])


def wait_for_write(run, process, deadline):
    """Waits until a file is being written."""
    while time.monotonic() < deadline and process.poll() is None:
        for folder in (run, run / "checkpoints", run / "samples"):
            try:
                if any(name.startswith(".unfinished-") for name in os.listdir(folder)):
                    return True
            except FileNotFoundError:
                pass
    return False


def in_rounds(count, per_round, work):
    """Calls `work(seed, number)` for one run after the other, until `count` stops are done."""
    seed = 0
    while count > 0:
        number = min(count, per_round)
        work(seed, number)
        count -= number
        seed += 1


def kill(program, count, chance):
    while_writing, anew = 0, 0

    def one_run(seed, number):
        nonlocal while_writing, anew
        run = program.folder / f"killed-{seed}"
        process = program.begin(run.name, seed)
        for i in range(number):
            if i % 4 == 0:
                while_writing += wait_for_write(run, process, time.monotonic() + 5)
            else:
                time.sleep(chance.uniform(0, 0.6))
            process.kill()
            _, said = end(process, -signal.SIGKILL)
            if newest(run) >= 0:
                process = program.resume(run.name)
            else:
                anew += 1
                process = program.begin(run.name, seed)
        terminate(run, process)
        print(f"  seed {seed}: {number} kills; {compare(program, run, seed)}", flush=True)
        shutil.rmtree(run)

    in_rounds(count, 40, one_run)
    print(f"kill: {count} kills, {while_writing} of them while a file was being written, {anew} before the run had begun")


def signals(program, count, chance):
    waits = []

    def one_run(seed, number):
        run = program.folder / f"signalled-{seed}"
        process = program.begin(run.name, seed)
        for _ in range(number):
            wait_for_checkpoint(run, process)
            time.sleep(chance.uniform(0, 0.1))
            chosen = chance.choice(list(SIGNALS))
            start = time.monotonic()
            process.send_signal(chosen)
            second = chance.random() < 0.25
            if second:
                time.sleep(chance.uniform(0, 0.003))
                process.send_signal(chosen)
            _, said = end(process, SIGNALS[chosen])
            waits.append(time.monotonic() - start)
            told = re.search(r"after iteration (\d+) of", said)
            if not second and (told is None or int(told.group(1)) != newest(run)):
                raise Failure(f"expected the iteration of checkpoint {newest(run)}, found: {said}")
            process = program.resume(run.name)
        terminate(run, process)
        print(f"  seed {seed}: {number} signals; {compare(program, run, seed)}", flush=True)
        shutil.rmtree(run)

    in_rounds(count, 25, one_run)
    waits.sort()
    median, longest = waits[len(waits) // 2] * 1e3, waits[-1] * 1e3
    print(f"signals: {count} runs ended by one or two; until the process had ended {median:.0f} ms in the median, {longest:.0f} at most")


def full(program, count, chance):
    """Fills the disk up to a random rest, lets the run fail, makes room, and resumes it."""
    disk = program.folder / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"no tmpfs can be mounted ({error}); run it as root or under `unshare -rm`") from error
    try:
        failed = collections.Counter()
        on_disk = Program(program.executable, disk)

        def one_run(seed, number):
            run = disk / f"full-{seed}"
            terminate(run, on_disk.begin(run.name, seed))
            for _ in range(number):
                free = shutil.disk_usage(disk).free
                # Fill the disk except for a random rest, in which some of the run's next writes fit.
                rest = chance.randrange(0, 150_000)
                (disk / "filler").write_bytes(b"x" * max(0, free - rest))
                _, said = end(on_disk.resume(run.name), 1)
                part = re.search(r"error: \S*?(checkpoints|samples|metrics|config|real|\.lock)", said)
                if "No space left on device" not in said or part is None:
                    raise Failure(f"expected an error that says that the disk is full, found {said}")
                failed[part.group(1)] += 1
                if "TensorBoard" in said:
                    failed["events, with a warning"] += said.count("TensorBoard")
                (disk / "filler").unlink()
                for old in sorted(run.glob("events.out.*"))[:-1]:
                    old.unlink()
            print(f"  seed {seed}: full {number} times; {compare(on_disk, run, seed)}", flush=True)
            shutil.rmtree(run)

        in_rounds(count, 10, one_run)
    finally:
        subprocess.run(["umount", disk], check=True)
    parts = ", ".join(f"{part} {times}" for part, times in failed.most_common())
    print(f"full: {count} times; what could not be written: {parts}")


def memory(program, count, chance):
    process = program.begin("long", 0, count)
    run, resident = program.folder / "long", {}
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            last = (run / "metrics.jsonl").read_text().rstrip().rsplit("\n", 1)[-1]
            resident[json.loads(last)["iteration"]] = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024
        except (OSError, ValueError, KeyError, AttributeError):
            pass
        time.sleep(0.02)
    end(process, 0)
    early = [mb for iteration, mb in resident.items() if 500 <= iteration <= 1500]
    late = [mb for iteration, mb in resident.items() if iteration > count - 1000]
    if not early or not late:
        raise Failure("too few readings")
    grown = max(late) - max(early)
    print(f"memory: {max(early):.1f} MB after about 1,000 iterations, {max(late):.1f} after {count:,}")
    if grown > 8:
        raise Failure(f"resident memory has grown by {grown:.1f} MB")


def children(process):
    try:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        found = ""
    return [int(number) for number in found.split()]


def wait_until_gone(numbers):
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        if time.monotonic() > deadline:
            raise Failure(f"of the processes {numbers} some still run")
        time.sleep(0.005)


def ranks(program, count, chance):
    among = Program(program.executable, program.folder, "--ranks", RANKS)
    victims, waits = collections.Counter(), []

    def one_run(seed, number):
        run = program.folder / f"ranks-{seed}"

        def go_on():
            return among.start(*OPTIONS, "--seed", seed, "--iterations", ENDLESS, "--run", run.name, "--continue")

        process = go_on()
        for _ in range(number):
            time.sleep(chance.uniform(0, 4))
            numbers = children(process)
            victim = chance.choice([process.pid, *numbers])
            start = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            status, said = end(process)
            wait_until_gone(numbers)
            waits.append(time.monotonic() - start)
            if victim != process.pid and "error: " not in said:
                raise Failure(f"nobody says that a rank was killed\n{said}")
            if status == 0:
                raise Failure(f"the exit status is 0 though a rank was killed\n{said}")
            name = "the launcher" if victim == process.pid else f"rank {numbers.index(victim)}"
            victims[name if newest(run) > 0 else f"{name} before the first iterations"] += 1
            process = go_on()
        terminate(run, process)
        print(f"  seed {seed}: {number} kills; {compare(among, run, seed)}", flush=True)
        shutil.rmtree(run)

    in_rounds(count, 20, one_run)
    killed = ", ".join(f"{name} {times}" for name, times in sorted(victims.items()))
    waits.sort()
    print(f"ranks: {count} kills ({killed}); all had ended {waits[-1]:.1f} s later at most, {waits[len(waits) // 2]:.1f} s in the median")


RANKS = 3
TASKS = {"kill": (kill, 200), "signals": (signals, 50), "full": (full, 30), "memory": (memory, 20_000), "ranks": (ranks, 60)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*TASKS, "all"], help="what to do to the runs")
    parser.add_argument("--count", type=int, metavar="N", help="number of stops; for `memory`, of iterations [default: 200, 50, 30, 20000, 60]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides when runs are stopped [default: 0]")
    arguments = parser.parse_args()
    executable = ROOT / "target" / "release" / "dcgan"
    if arguments.count is not None and arguments.count < 1:
        parser.error("--count: expected 1 or more")
    if not executable.exists():
        parser.error(f"there is no {executable}; build it: cargo build --release")
    for what in TASKS if arguments.what == "all" else [arguments.what]:
        work, count = TASKS[what]
        with tempfile.TemporaryDirectory(prefix="dcgan-soak-") as folder:
            try:
                start = time.monotonic()
                work(Program(executable, Path(folder)), arguments.count or count, random.Random(arguments.seed))
                print(f"  {time.monotonic() - start:.0f} s", flush=True)
            except Failure as failure:
                print(f"error: {what}: {failure}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
