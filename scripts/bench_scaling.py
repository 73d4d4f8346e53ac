#!/usr/bin/env python3
"""Measures how the time of an iteration grows with the batch and the width, for dcgan and for PyTorch.

    scripts/bench_scaling.py [--out FILE] [--iterations N] [--threads 1,2]

Batches of 16 to 512 images at width 64, and widths of 16 to 128 at batch 128. Needs the release build and
PyTorch's environment (scripts/bench_peers.sh --prepare). Takes 10 to 15 minutes on 2 cores; nothing else
should run meanwhile. Prints a table in Markdown. --out also saves every number as JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [(batch, 64) for batch in (16, 32, 64, 128, 256, 512)] + [(128, width) for width in (16, 32, 128)]


def contenders():
    ours = [os.environ.get("DCGAN_BIN", str(ROOT / "target/release/dcgan")), "bench", "--json", "--device", "cpu"]
    python = Path(os.environ.get("PEER_PYTORCH_VENV", ROOT / "target/peers/pytorch")) / "bin/python"
    for program, remedy in ((ours[0], "cargo build --release"), (python, "scripts/bench_peers.sh --prepare")):
        if not Path(program).exists():
            sys.exit(f"error: there is no {program}; run {remedy}")
    return {
        "dcgan": [*ours, "--precision", "f32"],
        "dcgan bf16": [*ours, "--precision", "bf16"],
        "PyTorch eager": [str(python), "-B", str(ROOT / "scripts/peers/pytorch.py"), "--precision", "f32"],
    }


def measure(command, batch, width, threads, iterations):
    words = [*command, "--batch-size", batch, "--base-width", width, "--threads", threads]
    words += ["--warmup", 1, "--iterations", iterations]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="save every number as JSON")
    parser.add_argument("--iterations", type=int, default=3, help="measured iterations of each case (default: 3)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (default: 1,2)")
    args = parser.parse_args()
    programs = contenders()
    rows = []
    print("| threads | batch | width | " + " | ".join(f"{name}, ms" for name in programs) + " | dcgan / PyTorch |")
    print("|" + "---|" * (4 + len(programs)))
    for threads in map(int, args.threads.split(",")):
        for batch, width in SHAPES:
            row = {"threads": threads, "batch": batch, "width": width}
            for name, command in programs.items():
                row[name] = measure(command, batch, width, threads, args.iterations)["median_ms"]
            rows.append(row)
            times = " | ".join(f"{row[name]:,.0f}" for name in programs)
            ratio = row["dcgan"] / row["PyTorch eager"]
            print(f"| {threads} | {batch} | {width} | {times} | {ratio:.2f} |", flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
