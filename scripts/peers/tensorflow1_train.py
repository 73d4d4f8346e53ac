#!/usr/bin/env python3
"""Trains the reference itself, TensorFlow 1 in graph mode, on MNIST, and writes what it generates.

The graph is that of scripts/make_reference.py. Initial weights, the order of images and noise come from
--seed. Samples are made with moving statistics, as in the reference, and are written as one array
[N, 32, 32, 1] of bytes. scripts/compare_reference.sh calls this.
"""

import argparse
import gzip
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_reference  # noqa: E402, it is one folder up

BLOCK = 500  # images that are generated together


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="folder of MNIST's four files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--iterations", type=int, help="stop after this many (default: whole epochs)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--count", type=int, default=10000, help="images to generate (default: 10000)")
    parser.add_argument("--threads", type=int, default=0, help="0: TensorFlow's own choice")
    return parser.parse_args()


def read_mnist(np, folder):
    """Training and test images together, padded to 32x32: [70000, 32, 32, 1], bytes."""
    parts = []
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise make_reference.Failure(f"{folder}: expected {name} or {name}.gz")
        content = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
        parts.append(np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28, 1))
    return np.pad(np.concatenate(parts), ((0, 0), (2, 2), (2, 2), (0, 0)))


def train(args):
    np, tf1, version = make_reference.import_tensorflow()
    images = read_mnist(np, args.mnist)
    settings = {name: default for name, _, default, _ in make_reference.SETTINGS}
    settings.update(dtype="f32", channels=1, base_width=args.base_width, seed=args.seed)
    graph = make_reference.Graph(tf1, settings)
    rng = np.random.default_rng(args.seed)
    total = args.iterations or args.epochs * -(-len(images) // args.batch)
    config = tf1.ConfigProto(
        intra_op_parallelism_threads=args.threads, inter_op_parallelism_threads=args.threads
    )

    def noise(rows):
        return rng.uniform(-1, 1, (rows, settings["z_dim"])).astype(np.float32)

    with tf1.Session(config=config) as session:
        session.run(tf1.global_variables_initializer())
        make_reference.set_initial_variables(np, graph, session, {}, None)
        started, iteration = time.monotonic(), 0
        while iteration < total:
            order = rng.permutation(len(images))
            for first in range(0, len(order), args.batch):
                if iteration == total:
                    break
                real = images[order[first : first + args.batch]] / np.float32(127.5) - 1
                feed = {graph.images: real, graph.z: noise(args.batch)}
                d_loss, _ = session.run([graph.d_loss, graph.d_train], feed)
                session.run(graph.g_train, feed)
                g_loss, _ = session.run([graph.g_loss, graph.g_train], feed)
                iteration += 1
                if iteration % 50 == 0 or iteration == total:
                    elapsed_s = time.monotonic() - started
                    print(
                        f"seed {args.seed}: {iteration}/{total}, d_loss {d_loss:.3f}, "
                        f"g_loss {g_loss:.3f}, {elapsed_s:.0f} s",
                        flush=True,
                    )
        blocks = []
        for first in range(0, args.count, BLOCK):
            z = noise(min(BLOCK, args.count - first))
            blocks.append(session.run(graph.sample, {graph.z: z}))
    generated = np.concatenate(blocks)
    pixels = np.clip(np.round((generated + 1) * 127.5), 0, 255).astype(np.uint8)
    # Written beside its place and renamed, so that the file is there completely or not at all.
    beside = args.out.with_name(f".{args.out.name}.tmp.npz")
    np.savez(beside, pixels)
    beside.replace(args.out)
    print(f"{args.out}: {len(pixels)} images of TensorFlow {version}")


def main():
    try:
        train(parse_arguments())
    except make_reference.Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
