#!/usr/bin/env python3
"""Turns a TensorFlow 1 checkpoint of the reference into a file that `dcgan import` reads.

The networks are the variables under generator/ and discriminator/. Adam's moments and powers are converted
too, where the checkpoint has them. Names, layouts and the upright frame stay TensorFlow's.

A checkpoint does not say how many of the generator's inputs are classes, nor the size of images that are not
square. Such networks therefore need --like, with weights that dcgan exported.
"""

import argparse
import math
import os
import sys
from pathlib import Path

EPILOG = """\
example:
  pip install -r scripts/requirements-reference.txt
  scripts/tf_checkpoint_to_safetensors.py checkpoints/model.ckpt --out reference.safetensors
  dcgan import reference.safetensors --out imported.safetensors
  dcgan train --resume imported.safetensors --fork runs/imported --dataset svhn

Exit code: 0 if the file is written, 1 if it is not, 2 on wrong usage.
"""
NETWORKS = ("generator", "discriminator")
CLASSES = "discriminator/dense_1/kernel"  # only a conditional discriminator has it
BETA2 = 0.999000012874603271484375  # TensorFlow has it in float32


class Failure(Exception):
    """Something the user can put right."""


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="the checkpoint's prefix (model.ckpt-1000), or its folder")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors", help="file to write")
    parser.add_argument(
        "--like",
        type=Path,
        metavar="FILE.safetensors",
        help="weights that dcgan exported of such networks; their settings and classes are taken",
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    return parser.parse_args()


def read(tf, path):
    """The checkpoint's variables by name."""
    if Path(path).is_dir():
        newest = tf.train.latest_checkpoint(path)
        if newest is None:
            raise Failure(f"{path}: expected a folder with a TensorFlow checkpoint, found none")
        path = newest
    try:
        reader = tf.train.load_checkpoint(path)
    except Exception as error:
        raise Failure(f"{path}: expected a TensorFlow checkpoint that can be read: {error}") from error
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def convert(np, variables):
    """The tensors by dcgan's names, the file's metadata, and the names of variables that were left out."""
    tensors, left = {}, []
    for name, value in sorted(variables.items()):
        network, _, rest = name.partition("/")
        # An optimizer slot's name may repeat the scopes that it was made in; it ends with the variable's name.
        slot = next((s for s in ("/Adam_1", "/Adam") if name.endswith(s)), None)
        if slot:
            owner = name[: -len(slot)]
            start = max(owner.rfind(f"{n}/") for n in NETWORKS)
            if start >= 0:
                moment = "adam_v" if slot == "/Adam_1" else "adam_m"
                tensors[f"{owner[start:]}/{moment}"] = value
                continue
        is_power = "beta1_power" in rest or "beta2_power" in rest
        if network in NETWORKS and not is_power:
            tensors[name] = value
            continue
        left.append(name)
    if not tensors:
        known = ", ".join(sorted(variables)[:10])
        raise Failure(f"the checkpoint has no variables under generator/ or discriminator/; it has {known}")

    # The generator is stepped twice as often, so the lower of two powers is its optimizer's.
    powers = {p: sorted((float(variables[n]), n) for n in left if n.split("/")[-1].startswith(p))
              for p in ("beta1_power", "beta2_power")}
    metadata = {}
    if all(len(found) == 2 for found in powers.values()):
        for power, found in powers.items():
            for network, (value, name) in zip(NETWORKS, found):
                tensors[f"{network}/{power}"] = np.float32(value).reshape(1)
                left.remove(name)
        d_power = powers["beta2_power"][1][0]
        if 0 < d_power <= BETA2:
            # TensorFlow stores the power that the next step uses: beta2^(steps + 1).
            metadata["iteration"] = str(max(0, round(math.log(d_power) / math.log(BETA2)) - 1))
    else:
        # Without their powers, moments are of no use.
        tensors = {n: v for n, v in tensors.items() if not n.endswith(("/adam_m", "/adam_v"))}
    return tensors, metadata, left


def settings_of(safe_open, path):
    """The settings and the classes in exported weights."""
    try:
        with safe_open(path, "np") as file:
            about = file.metadata() or {}
    except Exception as error:
        raise Failure(f"--like {path}: expected weights that dcgan exported: {error}") from error
    if "config" not in about:
        raise Failure(f"--like {path}: expected weights that dcgan exported, found a file without settings")
    return {key: about[key] for key in ("config", "channels", "classes") if key in about}


def main():
    args = parse_arguments()
    try:
        if not args.out.absolute().parent.is_dir():
            raise Failure(f"{args.out}: there is no folder {args.out.parent}")
        if args.out.exists() and not args.force:
            raise Failure(f"{args.out}: exists already; --force replaces it")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        try:
            import numpy as np
            import tensorflow as tf
            from safetensors import safe_open
            from safetensors.numpy import save_file
        except ImportError as error:
            raise Failure(f"{error}; pip install -r scripts/requirements-reference.txt") from error
        tensors, metadata, left = convert(np, read(tf, args.checkpoint))
        if args.like:
            metadata.update(settings_of(safe_open, args.like))
        if CLASSES in tensors and "classes" not in metadata:
            raise Failure(
                f"{args.checkpoint}: has {CLASSES}, so its networks are conditional; name weights "
                "that dcgan exported of a generator with the same classes: --like FILE.safetensors"
            )
        metadata.update(format="dcgan-tf", version="1", framework=f"tensorflow {tf.__version__}")
        tensors = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        # Written beside its place and renamed, so that the file is there completely or not at all.
        beside = args.out.with_name(f".{args.out.name}.tmp")
        try:
            save_file(tensors, beside, metadata)
            beside.replace(args.out)
        finally:
            beside.unlink(missing_ok=True)
    except (Failure, OSError) as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    for name in left:
        print(f"left out: {name}")
    print(f"{args.out}: {len(tensors)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
