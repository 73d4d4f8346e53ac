#!/usr/bin/env python3
"""Trains the reference itself, TensorFlow 1 in graph mode, on MNIST, and writes what it generates.

The graph is that of scripts/make_reference.py. Initial weights, the order of images and noise come from
--seed. Samples are made with moving statistics, as in the reference. scripts/compare_reference.sh calls this.

The folder --out gets
  samples.npz          bytes [N, 32, 32, 1]
  weights.safetensors  the trained variables, which `dcgan import` reads
  z.npy, images.npy    the z of the first 64 samples [64, 100], and what the generator made of them, float32
                       [64, 1, 32, 32] in [-1, 1] as `dcgan sample --npy` writes it
With --sample, nothing is trained: FILE is what `dcgan export --format tf` wrote, and --out gets images.npy, which
the generator makes of --z.
"""

import argparse
import gzip
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_reference  # noqa: E402, it is one folder up

BLOCK = 500  # images that are generated together
CHECKED = 64  # samples that are kept with their z, to compare programs


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="folder of MNIST's four files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, not there yet")
    parser.add_argument("--sample", type=Path, metavar="FILE", help="exported weights to sample, not to train")
    parser.add_argument("--z", type=Path, metavar="FILE.npy", help="with --sample: float32 [N, 100]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--iterations", type=int, help="stop after this many (default: whole epochs)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--base-width", type=int, default=64)
    parser.add_argument("--count", type=int, default=10000, help="images to generate (default: 10000)")
    parser.add_argument("--threads", type=int, default=0, help="0: TensorFlow's own choice")
    args = parser.parse_args()
    if args.sample:
        if not args.z:
            parser.error("--sample needs --z")
    elif not args.mnist:
        parser.error("--mnist is missing")
    return args


def graph_of(tf1, args):
    settings = {name: default for name, _, default, _ in make_reference.SETTINGS}
    settings.update(dtype="f32", channels=1, base_width=args.base_width, seed=args.seed)
    return make_reference.Graph(tf1, settings)


def as_dcgan(np, images):
    """Images [N, H, W, C] in dcgan's order, [N, C, H, W]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def write(out, files):
    """Writes the folder beside its place and renames it, so that it is there completely or not at all."""
    beside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, writer in files.items():
        writer(beside / name)
    beside.rename(out)


def sample(args):
    from safetensors.numpy import load_file

    np, tf1, _ = make_reference.import_tensorflow()
    graph, values = graph_of(tf1, args), load_file(args.sample)
    with tf1.Session() as session:
        for variable in graph.variables:
            if variable.op.name.startswith("generator/"):
                variable.load(values[variable.op.name], session)
        images = session.run(graph.sample, {graph.z: np.load(args.z)})
    write(args.out, {"images.npy": lambda path: np.save(path, as_dcgan(np, images))})


def read_idx(np, folder, kind, header):
    """The bytes after the headers of MNIST's training and test files of this kind, one after the other."""
    parts = []
    for name in (f"train-{kind}-ubyte", f"t10k-{kind}-ubyte"):
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise make_reference.Failure(f"{folder}: expected {name} or {name}.gz")
        content = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
        parts.append(np.frombuffer(content, np.uint8, offset=header))
    return np.concatenate(parts)


def read_mnist(np, folder):
    """Training and test images together, padded to 32x32: [70000, 32, 32, 1], bytes."""
    images = read_idx(np, folder, "images-idx3", 16).reshape(-1, 28, 28, 1)
    return np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))


def read_labels(np, folder):
    """Their labels: [70000]."""
    return read_idx(np, folder, "labels-idx1", 8)


def train(args):
    np, tf1, version = make_reference.import_tensorflow()
    images = read_mnist(np, args.mnist)
    graph = graph_of(tf1, args)
    rng = np.random.default_rng(args.seed)
    total = args.iterations or args.epochs * -(-len(images) // args.batch)
    config = tf1.ConfigProto(
        intra_op_parallelism_threads=args.threads, inter_op_parallelism_threads=args.threads
    )

    def noise(rows):
        return rng.uniform(-1, 1, (rows, graph.settings["z_dim"])).astype(np.float32)

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
                        file=sys.stderr,
                        flush=True,
                    )
        blocks, first_z = [], None
        for first in range(0, args.count, BLOCK):
            z = noise(min(BLOCK, args.count - first))
            first_z = z[:CHECKED] if first_z is None else first_z
            blocks.append(session.run(graph.sample, {graph.z: z}))
        weights = make_reference.fetch(session, "", graph.variables)
    generated = np.concatenate(blocks)
    pixels = np.clip(np.round((generated + 1) * 127.5), 0, 255).astype(np.uint8)
    make_reference.check_finite(np, weights)
    about = {"format": "dcgan-tf", "version": "1", "framework": f"tensorflow {version}"}
    write(
        args.out,
        {
            "samples.npz": lambda path: np.savez(path, pixels),
            "weights.safetensors": lambda path: path.write_bytes(make_reference.encode(np, weights, about)),
            "z.npy": lambda path: np.save(path, first_z),
            "images.npy": lambda path: np.save(path, as_dcgan(np, generated[:CHECKED])),
        },
    )
    print(f"{args.out}: {len(pixels)} images of TensorFlow {version}", file=sys.stderr)


def main():
    try:
        args = parse_arguments()
        (sample if args.sample else train)(args)
    except make_reference.Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
