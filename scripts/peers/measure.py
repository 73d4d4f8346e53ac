"""What all peers have in common: their arguments, their clock and the one JSON line that they print.

A peer is a program that takes these arguments and calls `run` with a function that trains one
iteration (one discriminator update, two generator updates). `dcgan bench --json` takes the same
arguments and prints the same line, so that scripts/bench_peers.sh treats all contenders alike.
"""

import argparse
import json
import resource
import statistics
import sys
import time

# The reference reads its losses every 10 iterations; a peer reads them no more often.
LOG_EVERY = 10

# The reference's shapes and settings on MNIST.
CHANNELS, IMAGE_SIZE, Z_DIM, WIDTH = 1, 32, 100, 64
LEARNING_RATE, BETA1, BETA2 = 2e-4, 0.5, 0.999
REAL_LABEL, LEAK = 0.9, 0.2

# Real images come from this many batches in memory, which are used in turn.
BATCHES_IN_MEMORY = 8


def whole_number(low):
    def parse(text):
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, found {text!r}")
        return int(text)

    return parse


def argument_parser(description, precisions):
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--batch-size", type=whole_number(1), default=128, metavar="N", help="images in a batch (default: 128)")
    add("--precision", choices=precisions, default="f32", help="type of the convolutions (default: f32)")
    add("--threads", type=whole_number(1), default=2, metavar="N", help="threads of an operation (default: 2)")
    add("--warmup", type=whole_number(0), default=2, metavar="N", help="iterations that don't count (default: 2)")
    add("--base-width", type=whole_number(1), default=WIDTH, metavar="N", help=f"scales every layer (default: {WIDTH})")
    add("--iterations", type=whole_number(1), default=6, metavar="N", help="iterations that count (default: 6)")
    return parser


def run(args, framework, iterate, sample=None):
    """Times `iterate(i)` for every iteration and prints the line. `iterate` returns when its work is done.

    `sample(n)` makes n images; it is timed after the iterations where --samples asks for it.
    """
    times_ms = []
    for i in range(args.warmup + args.iterations):
        start = time.perf_counter()
        iterate(i)
        if i >= args.warmup:
            times_ms.append((time.perf_counter() - start) * 1e3)
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    rss_unit = 1 if sys.platform == "darwin" else 1024
    line = {
        "framework": framework,
        "batch": args.batch_size,
        "precision": args.precision,
        "threads": args.threads,
        "warmup": args.warmup,
        "iterations": args.iterations,
        "median_ms": round(statistics.median(times_ms), 3),
        "min_ms": round(min(times_ms), 3),
        "times_ms": [round(t, 3) for t in times_ms],
        "max_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * rss_unit / 1e6, 1),
    }
    if sample is not None and args.samples > 0:
        sample(args.batch_size)
        start = time.perf_counter()
        sample(args.samples)
        line["samples_per_s"] = round(args.samples / (time.perf_counter() - start), 1)
    print(json.dumps(line), flush=True)
