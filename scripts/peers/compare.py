"""Measures contenders in turn and prints a table. scripts/bench_peers.sh calls it. Needs no packages.

    compare.py [--rounds N ...] :: NAME COMMAND [ARGUMENT...] :: NAME COMMAND ...

A contender is a command with its --precision. It also takes --batch-size, --threads, --warmup and
--iterations, and prints one JSON line (see measure.py). In each round every contender runs once, in a new
process, so that a machine that becomes slower or busier does so for all. Each round starts with another one.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SECONDS_A_RUN = 900
# A round counts as disturbed when other programs use more than this share of the machine.
QUIET_SHARE = 0.05
# Numbers that only some contenders measure, and their headings in the table.
OPTIONAL = (("floor_ms", "convolutions alone, ms"), ("samples_per_s", "samples/s"))
# Variables that change how fast a contender is.
TUNING = re.compile(
    r"(OMP|KMP|GOMP|MKL|DNNL|ONEDNN|MALLOC|TF_ENABLE|TF_NUM|TF_XLA|TORCH|ATEN)_|(LD_PRELOAD|GLIBC_TUNABLES)$"
)


class Failure(Exception):
    """What went wrong, for the person who ran the script. Exit status 1."""


# -------------------------------------------------------------------------------- one contender


def run_once(name, command, settings):
    """Runs a contender; returns its line, what the system saw of it, and how quiet it was."""
    flags = {flag: settings[flag] for flag in ("batch-size", "threads", "warmup", "iterations")}
    arguments = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before, start = busy_s(), time.perf_counter()
        try:
            # In a session of its own, so that processes which the contender starts are stopped with it.
            process = subprocess.Popen(
                command + arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            raise Failure(f"{name}: can't start {command[0]}: {error.strerror}") from error
        timer = threading.Timer(SECONDS_A_RUN, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # usually all of its processes have ended
        wall, after = time.perf_counter() - start, busy_s()
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(errors="replace"), err.read().decode(errors="replace")

    if process.returncode != 0:
        how = f"exit code {process.returncode}"
        if process.returncode < 0:
            how = f"{signal.Signals(-process.returncode).name} after {wall:.0f} s (the limit is {SECONDS_A_RUN} s)"
        said = "\n  ".join((stderr or stdout).strip().splitlines()[-15:])
        raise Failure(f"{name}: {how}\n  {shlex.join(command + arguments)}\n  {said or 'it printed nothing'}")
    line = read_line(name, stdout, settings, command[command.index("--precision") + 1])
    # The contender's own figure, which is that of its iterations and not of what it measures after them.
    line["peak_mb"] = line["max_rss_mb"]
    line["wall_s"] = round(wall, 2)
    if before is not None:
        others = after - before - usage.ru_utime - usage.ru_stime
        line["others_cpu_share"] = round(max(0.0, others) / (wall * os.cpu_count()), 3)
    return line


def busy_s():
    """Seconds all processors have worked (or were taken by the host) so far; None if unknown."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def read_line(name, stdout, settings, precision):
    lines = stdout.strip().splitlines()
    try:
        line = json.loads(lines[0]) if len(lines) == 1 else None
    except ValueError:
        line = None
    if not isinstance(line, dict):
        raise Failure(f"{name}: expected one JSON line on standard output, found {stdout[:300]!r}")
    for key in ("median_ms", "min_ms", "times_ms", "batch", "precision", "threads", "max_rss_mb"):
        if key not in line:
            raise Failure(f"{name}: its JSON line lacks {key}: {lines[0][:300]}")
    asked = {"batch": settings["batch-size"], "threads": settings["threads"], "precision": precision}
    for key, value in asked.items():
        if line[key] != value:
            raise Failure(f"{name}: asked for {key} {value}, its JSON line says {line[key]}")
    times = line["times_ms"]
    if not (isinstance(times, list) and all(isinstance(t, (int, float)) and t > 0 for t in times)):
        raise Failure(f"{name}: expected times_ms to be a list of numbers above 0, found {times!r}")
    if len(times) != settings["iterations"]:
        raise Failure(f"{name}: expected {settings['iterations']} times_ms, found {len(times)}")
    return line


# ----------------------------------------------------------------------------------- all of them


def measure(contenders, rounds, settings):
    """The lines of every contender, by name, one a round."""
    lines = {name: [] for name in contenders}
    names = list(contenders)
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            line = run_once(name, contenders[name], settings)
            lines[name].append(line)
            median = statistics.median(line["times_ms"])
            print(f"round {i + 1} of {rounds}: {name} {median:,.0f} ms", file=sys.stderr, flush=True)
    return lines


def summarize(contenders, lines, ours):
    """One dict a contender: its numbers over all rounds, ratios to each of ours, and the raw lines."""
    rows = []
    for name, command in contenders.items():
        times = [t for line in lines[name] for t in line["times_ms"]]
        q1, median, q3 = quartiles(times)
        ratios = {}
        for one in ours:
            rounds = [median_of(a) / median_of(b) for a, b in zip(lines[one], lines[name])]
            ratios[one] = {
                "of_medians": round(statistics.median(t for a in lines[one] for t in a["times_ms"]) / median, 4),
                "lowest_round": round(min(rounds), 4),
                "highest_round": round(max(rounds), 4),
            }
        rows.append(
            {
                "name": name,
                # The program's name without its folder, which has nothing to do with its speed.
                "command": shlex.join([Path(command[0]).name, *command[1:]]),
                "version": lines[name][0].get("framework") or version_of(command[0]),
                "precision": lines[name][0]["precision"],
                "median_ms": round(median, 2),
                "min_ms": round(min(times), 2),
                "q1_ms": round(q1, 2),
                "q3_ms": round(q3, 2),
                "peak_mb": max(line["peak_mb"] for line in lines[name]),
                **extras(lines[name]),
                "ratio": ratios,
                "rounds": lines[name],
            }
        )
    return rows


def extras(lines):
    """What only some contenders measure."""
    found = {}
    for key, _ in OPTIONAL:
        values = [line[key] for line in lines if key in line]
        if values:
            found[key] = round(statistics.median(values), 1)
    return found


def median_of(line):
    return statistics.median(line["times_ms"])


def quartiles(times):
    if len(times) == 1:
        return times * 3
    return statistics.quantiles(times, n=4, method="inclusive")


def version_of(program):
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def machine():
    cpu, memory = platform.processor(), None
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
        cpu = found.group(1) if found else cpu
    except OSError:
        if sys.platform == "darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            cpu = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or cpu
    try:
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        pass
    return {
        "cpu": cpu or "unknown",
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


# ---------------------------------------------------------------------------------------- output


def print_table(rows, ours, report):
    m, s = report["machine"], report["settings"]
    print(
        f"\n{m['cpu']}, {m['cores']} cores, {s['threads']} threads; batch {s['batch-size']}, 32x32x1; "
        f"{report['rounds']} rounds of {s['iterations']} iterations after {s['warmup']} of warm-up\n"
    )
    heads = ["", "precision", "median ms", "min ms", "IQR ms", "peak MB"]
    heads += [f"{one}/this (by round)" for one in ours]
    optional = [(key, head) for key, head in OPTIONAL if any(key in row for row in rows)]
    heads += [head for _, head in optional]
    table = [heads]
    for row in rows:
        cells = [row["name"], row["precision"], f"{row['median_ms']:,.1f}", f"{row['min_ms']:,.1f}"]
        cells += [f"{row['q3_ms'] - row['q1_ms']:,.1f}", f"{row['peak_mb']:,.0f}"]
        for one in ours:
            r = row["ratio"][one]
            same = row["name"] == one
            cells.append(
                "1" if same else f"{r['of_medians']:.3f} ({r['lowest_round']:.3f}-{r['highest_round']:.3f})"
            )
        cells += [f"{row[key]:,.1f}" if key in row else "" for key, _ in optional]
        table.append(cells)
    widths = [max(len(cells[i]) for cells in table) for i in range(len(heads))]
    for cells in table:
        text = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        print("  ".join(text).rstrip())
    print()
    for row in rows:
        print(f"{row['name']}: {row['version']}")


def warn_if_disturbed(rows):
    shares = [line.get("others_cpu_share") for row in rows for line in row["rounds"]]
    disturbed = [share for share in shares if share is not None and share > QUIET_SHARE]
    if disturbed:
        print(
            f"\nwarning: in {len(disturbed)} of {len(shares)} runs other programs took more than "
            f"{QUIET_SHARE:.0%} of the processors (at most {max(disturbed):.0%}): "
            "measure again on a quiet machine",
            file=sys.stderr,
        )


def write_whole(path, text):
    """The file appears whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise Failure(f"--out {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------ main


def parse_arguments():
    words = sys.argv[1:]
    groups, group = [], []
    for word in words:
        if word == "::":
            group = []
            groups.append(group)
        else:
            group.append(word)
    options = words[: words.index("::")] if groups else words
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--rounds", "--batch-size", "--threads", "--warmup", "--iterations"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--ours", required=True, help="names of our contenders, separated by commas")
    parser.add_argument("--command", required=True, help="the command to record")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(options)
    return args, {name: command for name, *command in groups}


def run():
    args, contenders = parse_arguments()
    ours = args.ours.split(",")
    settings = {
        "batch-size": args.batch_size,
        "threads": args.threads,
        "warmup": args.warmup,
        "iterations": args.iterations,
    }
    date = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    lines = measure(contenders, args.rounds, settings)
    rows = summarize(contenders, lines, ours)
    report = {
        "date": date,
        "command": args.command,
        "machine": machine(),
        "settings": settings,
        "rounds": args.rounds,
        "environment": {name: value for name, value in sorted(os.environ.items()) if TUNING.match(name)},
        "contenders": rows,
    }
    print_table(rows, ours, report)
    warn_if_disturbed(rows)
    if args.out:
        text = json.dumps(report, indent=1) + "\n"
        # Keep a list of numbers on one line.
        text = re.sub(r"\[[\s\d.,]+\]", lambda found: "[" + " ".join(found[0][1:-1].split()) + "]", text)
        write_whole(args.out, text)
        print(f"\n{args.out}: all numbers")


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, interrupted)
    try:
        run()
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
