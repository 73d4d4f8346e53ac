#!/usr/bin/env python3
"""Records what the real TensorFlow computes, as a reference file that `dcgan verify` compares with.

Builds the reference DCGAN with `tf.compat.v1.layers`, for images of 32x32 pixels or of another size,
trains it for a few iterations on images that are drawn from the seed, and writes one safetensors
file. It holds the variables before and after training, every input, the first forward pass, its
losses and gradients, the losses of every iteration, Adam's moments, and samples. Tensors keep
TensorFlow's names, layouts and upright frame.
"""

import argparse
import json
import math
import os
import re
import struct
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

PYTHON_VERSIONS = ((3, 9), (3, 11))
TENSORFLOW_VERSION = "2.15.1"
REQUIREMENTS = "scripts/requirements-reference.txt"

EPILOG = f"""\
environment:
  TensorFlow {TENSORFLOW_VERSION} needs Python 3.9, 3.10 or 3.11; use an environment of its own:
    python3.11 -m venv reference-env
    reference-env/bin/pip install -r {REQUIREMENTS}
    reference-env/bin/python scripts/make_reference.py --out reference.safetensors

exit status:
  0 if the file is written, 1 if not (then nothing is left at --out), 2 on wrong usage

On one machine the same arguments give the same bytes. On another kind of CPU the inputs and the
initial variables are the same, and the results agree to rounding.
"""


class Failure(Exception):
    """Says what went wrong to the person who ran the script. The exit status is 1."""


# --------------------------------------------------------------------------------------- sizes


class Size(NamedTuple):
    """The size of an image. It is written width first: `80x48`, or `64` if both sides are equal."""

    width: int
    height: int

    def __str__(self):
        return str(self.width) if self.width == self.height else f"{self.width}x{self.height}"


def in_range(size):
    return 16 <= min(size) and max(size) <= min(256, 4 * min(size))


def halvings(size):
    """How often images of this size are halved; None if they are not possible. See src/architecture.rs."""
    levels = (min(size) // 8).bit_length()  # leaves a grid whose smaller side is 4 to 7
    divisible = all(side % 2**levels == 0 for side in size)
    return levels if in_range(size) and divisible else None


def nearest_possible(size):
    """The nearest possible size that is nowhere larger, and the nearest that is nowhere smaller. If there
    is neither, the nearest of all."""
    sides = range(16, 257, 2)
    # Who asks for a square is helped by squares.
    square = size.width == size.height
    possible = [
        s for h in sides for w in sides if halvings(s := Size(w, h)) and (w == h or not square)
    ]
    smaller = [s for s in possible if s.width <= size.width and s.height <= size.height]
    larger = [s for s in possible if s.width >= size.width and s.height >= size.height]

    def distance(other):
        return abs(other.width - size.width) + abs(other.height - size.height)

    groups = [group for group in (smaller, larger) if group] or [possible]
    return [min(group, key=distance) for group in groups]


def image_size(text):
    parts = re.fullmatch(r"([0-9]{1,9})(?:[x×]([0-9]{1,9}))?", text)
    if parts is None:
        raise argparse.ArgumentTypeError(
            f"expected one side or width x height, such as 64 or 80x48, found {text!r}"
        )
    size = Size(int(parts[1]), int(parts[2] or parts[1]))
    if halvings(size) is None:
        why = "sides are 16 to 256 pixels, the larger one at most 4 times the smaller"
        if in_range(size):
            why = "both sides must be divisible by 2 several times"
        raise argparse.ArgumentTypeError(
            f"images of {size.width}×{size.height} pixels are not possible ({why}); "
            f"the nearest that are: {' and '.join(map(str, nearest_possible(size)))}"
        )
    return size


# ---------------------------------------------------------------------------------- arguments


def number(kind, low, high=math.inf, *, above=False, below=False):
    """A parser of `kind` in [low, high]; `above` leaves out `low` itself, `below` `high`."""
    if high == math.inf:
        bounds = f"{'above' if above else 'at least'} {low}"
    else:
        bounds = f"in {'(' if above else '['}{low}, {high}{')' if below else ']'}"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        inside = (low < value if above else low <= value) and (
            value < high if below else value <= high
        )
        if not (inside and math.isfinite(value)):
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {noun} {bounds}, found {text!r}")
        return value

    return parse


def dtype_name(text):
    if text not in ("f32", "f64"):
        raise argparse.ArgumentTypeError(f"expected f32 or f64, found {text!r}")
    return text


# Every setting of a reference file: its name in the metadata, its parser, its default, its help.
SETTINGS = (
    ("dtype", dtype_name, "f64", "type of every tensor but labels: f32 or f64"),
    ("seed", number(int, 0), 0, "seed of kernels, images, noise and labels"),
    ("image_size", image_size, Size(32, 32), "one side, or WIDTHxHEIGHT such as 80x48"),
    ("channels", number(int, 1), 3, "channels C of an image"),
    ("batch", number(int, 1), 8, "images and noise vectors of an iteration"),
    ("iterations", number(int, 1), 1, "iterations, each of one discriminator and g-steps generator updates"),
    ("base_width", number(int, 1), 8, "width w of every layer; 64 is the full width"),
    ("max_width", number(int, 1), None, "most channels of a layer (default: 16 times --base-width)"),
    ("z_dim", number(int, 1), 100, "length of a noise vector"),
    ("classes", number(int, 0), 0, "classes K of images; if not 0, both networks are conditional"),
    ("g_steps", number(int, 1), 2, "generator updates in each iteration, all on the same noise"),
    ("smooth", number(float, 0, 1, below=True), 0.1, "label smoothing of real images"),
    ("alpha", number(float, 0, 1), 0.2, "slope of the leaky ReLU"),
    ("learning_rate", number(float, 0, above=True), 2e-4, "Adam's learning rate"),
    ("beta1", number(float, 0, 1, below=True), 0.5, "Adam's first decay"),
    ("beta2", number(float, 0, 1, below=True), 0.999, "Adam's second decay"),
    ("epsilon", number(float, 0, above=True), 1e-8, "Adam's epsilon, outside the bias correction"),
    ("bn_momentum", number(float, 0, 1), 0.9, "decay of the moving statistics"),
    ("bn_epsilon", number(float, 0, above=True), 1e-5, "batch norm's epsilon"),
)
# Settings that the metadata names only if they are not at their default.
OPTIONAL = ("max_width", "classes")


def parse_arguments():
    """The checked arguments. Settings that were not given have their defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help="take every setting, the initial variables and all inputs from this reference "
        "file, to repeat its case on another machine or with another TensorFlow",
    )
    parser.add_argument(
        "--with-float64",
        action="store_true",
        help="also record what TensorFlow computes in float64 from the same float32 values, as the "
        "truth that float32 is judged by",
    )
    parser.add_argument(
        "--last-batch",
        type=number(int, 1),
        metavar="K",
        help="images in the last iteration; it gets as much noise as the others (default: --batch)",
    )
    for name, parse, default, text in SETTINGS:
        flag = "--" + name.replace("_", "-")
        if default is not None:
            text = f"{text} (default: {default})"
        parser.add_argument(flag, type=parse, metavar=name.upper(), help=text)
    args = parser.parse_args()

    given = [name for name, *_ in SETTINGS if getattr(args, name) is not None]
    if args.last_batch is not None:
        given.append("last_batch")
    if args.inputs and given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        parser.error(f"--inputs has settings of its own; leave out {flags}")
    for name, _, default, _ in SETTINGS:
        if getattr(args, name) is None:
            setattr(args, name, default)
    if args.last_batch is None:
        args.last_batch = args.batch
    if args.last_batch > args.batch:
        parser.error(f"--last-batch {args.last_batch} is more than --batch {args.batch}")
    return args


# ------------------------------------------------------------------------------------- inputs


def images_like_photographs(np, rng, count, channels, size=Size(32, 32)):
    """`count` images [H,W,C] in [-1,1]: a shaded ground, soft blobs, a little grain, 8 bits."""
    y, x = np.mgrid[0 : size.height, 0 : size.width]
    y, x = y / (size.height - 1), x / (size.width - 1)
    images = np.empty((count, size.height, size.width, channels))
    for image in images:
        slope = rng.uniform(-0.6, 0.6, (2, channels))
        image[:] = rng.uniform(-0.7, 0.7, channels)
        image += (x - 0.5)[..., None] * slope[0] + (y - 0.5)[..., None] * slope[1]
        for _ in range(rng.integers(3, 7)):
            cx, cy = rng.uniform(0, 1, 2)
            rx, ry = rng.uniform(0.06, 0.3, 2)
            color = rng.uniform(-1, 1, channels)
            cover = np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)[..., None]
            image += cover * (color - image)
        image += rng.normal(0, 0.02, image.shape)
    # Pixels are bytes, as in a real data set.
    return np.rint((images.clip(-1, 1) + 1) * 127.5) / 127.5 - 1


def draw_inputs(np, settings, last_batch):
    """`input/…` from the seed. Each kind has a stream of its own: one more iteration moves none."""
    dtype = np_dtype(np, settings)
    tensors = {}
    for i in range(settings["iterations"]):
        last = i == settings["iterations"] - 1
        count = last_batch if last else settings["batch"]
        rng = np.random.default_rng([settings["seed"], 1, i])
        images = images_like_photographs(np, rng, count, settings["channels"], settings["image_size"])
        tensors[f"input/images/{i}"] = images.astype(dtype)
        rng = np.random.default_rng([settings["seed"], 2, i])
        # u is in [0, 1) and a multiple of the type's spacing there, so 2u - 1 is exact and never reaches 1.
        u = rng.random((settings["batch"], settings["z_dim"]), dtype=dtype)
        tensors[f"input/z/{i}"] = 2 * u - 1
        if settings["classes"]:
            for stream, name, rows in ((3, "labels", count), (4, "z_labels", settings["batch"])):
                rng = np.random.default_rng([settings["seed"], stream, i])
                tensors[f"input/{name}/{i}"] = rng.integers(settings["classes"], size=rows)
    return tensors


def draw_kernel(np, settings, name, shape):
    """N(0, 0.02), from a stream named after the variable."""
    rng = np.random.default_rng([settings["seed"], 0, *name.encode()])
    return rng.normal(0, 0.02, shape).astype(np_dtype(np, settings))


def np_dtype(np, settings):
    return np.float32 if settings["dtype"] == "f32" else np.float64


def read_reference(path):
    """The settings of a reference file, and its `init/…` and `input/…` tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            names = [n for n in file.keys() if n.startswith(("init/", "input/"))]
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise Failure(f"--inputs {path}: {error}") from error

    kind = metadata.get("format"), metadata.get("version")
    if kind != ("dcgan-reference", "1"):
        raise Failure(f"--inputs {path}: expected a dcgan-reference of version 1, found {kind}")
    settings = {}
    for name, parse, default, _ in SETTINGS:
        if name not in metadata and name not in OPTIONAL:
            raise Failure(f"--inputs {path}: its metadata lacks {name}")
        try:
            settings[name] = parse(metadata[name]) if name in metadata else default
        except argparse.ArgumentTypeError as error:
            raise Failure(f"--inputs {path}: {name}: {error}") from error
    return settings, tensors


def check_inputs(np, settings, tensors, path):
    """Every `input/…` that the settings ask for is there, in its shape and type; no other is."""
    dtype, classes = np.dtype(np_dtype(np, settings)), settings["classes"]
    batch, size = settings["batch"], settings["image_size"]
    image = (size.height, size.width, settings["channels"])
    expected = {}
    for i in range(settings["iterations"]):
        expected[f"input/z/{i}"] = (batch, settings["z_dim"])
        expected[f"input/images/{i}"] = (batch, *image)
    last = f"input/images/{settings['iterations'] - 1}"
    if last in tensors and tensors[last].ndim and 1 <= len(tensors[last]) <= batch:
        expected[last] = (len(tensors[last]), *image)
    labels = {}
    if classes:
        for i in range(settings["iterations"]):
            labels[f"input/labels/{i}"] = expected[f"input/images/{i}"][:1]
            labels[f"input/z_labels/{i}"] = (batch,)
    compare_names(path, "input/", expected | labels, tensors)
    for name, shape in expected.items():
        check_tensor(path, name, tensors[name], shape, dtype)
    for name, shape in labels.items():
        check_tensor(path, name, tensors[name], shape, np.dtype(np.int64))
        wrong = [int(label) for label in tensors[name] if not 0 <= label < classes]
        if wrong:
            raise Failure(f"--inputs {path}: {name}: expected 0 to {classes - 1}, found {wrong[0]}")


def compare_names(path, prefix, expected, tensors):
    found = {name for name in tensors if name.startswith(prefix)}
    missing, unknown = set(expected) - found, found - set(expected)
    for word, names in (("lacks", missing), ("has an unknown", unknown)):
        if names:
            raise Failure(f"--inputs {path}: {word} {', '.join(sorted(names))}")


def check_tensor(path, name, tensor, shape, dtype):
    if tensor.shape != shape or tensor.dtype != dtype:
        raise Failure(
            f"--inputs {path}: {name}: expected {dtype} {list(shape)}, "
            f"found {tensor.dtype} {list(tensor.shape)}"
        )


# -------------------------------------------------------------------------------------- graph


class Graph:
    """The reference's graph: both networks, losses, optimizers, and what is fetched from them.

    Images of other sizes have more or fewer layers by the same rule. Shapes in comments are those at 32x32.
    With K classes, the generator also gets the class that is asked of it, and the discriminator judges an
    image as one of its class, by projection (Miyato and Koyama 2018).
    """

    def __init__(self, tf1, settings):
        self.tf1, self.settings = tf1, settings
        dtype = tf1.float32 if settings["dtype"] == "f32" else tf1.float64
        size = settings["image_size"]
        self.levels = halvings(size)
        self.grid = size.height >> self.levels, size.width >> self.levels
        self.images = tf1.placeholder(dtype, [None, size.height, size.width, settings["channels"]])
        self.z = tf1.placeholder(dtype, [None, settings["z_dim"]])
        # The classes of real images, and those asked of generated ones.
        self.labels, self.z_labels = tf1.placeholder(tf1.int64, [None]), tf1.placeholder(tf1.int64, [None])

        self.generated = self.generator(training=True, reuse=False)
        self.real_logits = self.discriminator(self.images, self.labels, reuse=False)
        self.fake_logits = self.discriminator(self.generated, self.z_labels, reuse=True)
        self.sample = self.generator(training=False, reuse=True)
        self.variables = tf1.global_variables()

        def loss(logits, label):
            labels = tf1.ones_like(logits) * label
            return tf1.reduce_mean(
                tf1.nn.sigmoid_cross_entropy_with_logits(logits=logits, labels=labels)
            )

        real_label = 1.0 - settings["smooth"]
        self.d_loss = loss(self.real_logits, real_label) + loss(self.fake_logits, 0.0)
        self.g_loss = loss(self.fake_logits, 1.0)

        # The moving statistics of both networks are updated in every run of either optimizer.
        updates = tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)
        self.gradients, self.moments = {}, {}
        self.d_train = self.optimize(self.d_loss, "discriminator/", updates)
        self.g_train = self.optimize(self.g_loss, "generator/", updates)

    def width(self, doublings):
        """Channels of a layer: the base width, doubled so many times, but at most the largest width."""
        width = self.settings["base_width"]
        return min(width * 2**doublings, self.settings["max_width"] or 16 * width)

    def generator(self, training, reuse):
        """z [N,Z] -> images [N,H,W,C], from a small grid that is doubled until it is an image."""
        layers, (height, width), channels = self.tf1.layers, self.grid, self.width(self.levels)
        with self.tf1.variable_scope("generator", reuse=reuse):
            z = self.z
            if self.settings["classes"]:
                z = self.tf1.concat([z, self.one_hot(self.z_labels)], axis=1)  # [N, Z+K]
            x = layers.dense(z, height * width * channels)  # [N, 16·8w]
            x = self.tf1.reshape(x, [-1, height, width, channels])  # [N, 4, 4, 8w]
            x = self.tf1.nn.relu(self.batch_norm(x, training))
            for doublings in range(self.levels - 1, 0, -1):  # [N, 8, 8, 4w], [N, 16, 16, 2w]
                x = layers.conv2d_transpose(x, self.width(doublings), 5, strides=2, padding="same")
                x = self.tf1.nn.relu(self.batch_norm(x, training))
            channels = self.settings["channels"]
            x = layers.conv2d_transpose(x, channels, 5, strides=2, padding="same")
            return self.tf1.tanh(x)  # [N, 32, 32, C]

    def discriminator(self, x, labels, reuse):
        """Images [N,H,W,C] and labels [N] -> logits [N,1], always with the batch's own statistics."""
        layers, (height, width) = self.tf1.layers, self.grid
        with self.tf1.variable_scope("discriminator", reuse=reuse):
            # [N, 16, 16, w]
            x = self.leaky_relu(layers.conv2d(x, self.width(0), 5, strides=2, padding="same"))
            for doublings in range(1, self.levels):  # [N, 8, 8, 2w], [N, 4, 4, 4w]
                x = layers.conv2d(x, self.width(doublings), 5, strides=2, padding="same")
                x = self.leaky_relu(self.batch_norm(x, training=True))
            channels = self.width(self.levels - 1)
            x = self.tf1.reshape(x, [-1, height * width * channels])  # [N, 16·4w]
            logits = layers.dense(x, 1)  # [N, 1]
            if self.settings["classes"]:
                of_classes = layers.dense(x, self.settings["classes"], use_bias=False)  # [N, K]
                of_labels = self.one_hot(labels) * of_classes
                logits = logits + self.tf1.reduce_sum(of_labels, axis=1, keepdims=True)
            return logits

    def one_hot(self, labels):
        """Labels [N] -> [N,K]."""
        return self.tf1.one_hot(labels, self.settings["classes"], dtype=self.z.dtype)

    def batch_norm(self, x, training):
        return self.tf1.layers.batch_normalization(
            x,
            momentum=self.settings["bn_momentum"],
            epsilon=self.settings["bn_epsilon"],
            training=training,
        )

    def leaky_relu(self, x):
        # Not tf.nn.leaky_relu: its slope is a float32 attribute even when x is float64.
        return self.tf1.maximum(self.settings["alpha"] * x, x)

    def optimize(self, loss, scope, updates):
        """The run that updates the moving statistics and the trained variables under `scope`."""
        optimizer = self.tf1.train.AdamOptimizer(
            self.settings["learning_rate"],
            beta1=self.settings["beta1"],
            beta2=self.settings["beta2"],
            epsilon=self.settings["epsilon"],
        )
        trained = [v for v in self.tf1.trainable_variables() if v.op.name.startswith(scope)]
        # Outside the control dependencies, so that fetching a gradient does not update moving statistics.
        pairs = optimizer.compute_gradients(loss, var_list=trained)
        with self.tf1.control_dependencies(updates):
            run = optimizer.apply_gradients(pairs)
        for gradient, variable in pairs:
            self.gradients[variable.op.name] = gradient
            self.moments[f"{variable.op.name}/adam_m"] = optimizer.get_slot(variable, "m")
            self.moments[f"{variable.op.name}/adam_v"] = optimizer.get_slot(variable, "v")
        return run

    def feed(self, tensors, iteration):
        feed = self.feed_generator(tensors, iteration)
        feed[self.images] = tensors[f"input/images/{iteration}"]
        if self.settings["classes"]:
            feed[self.labels] = tensors[f"input/labels/{iteration}"]
        return feed

    def feed_generator(self, tensors, iteration):
        feed = {self.z: tensors[f"input/z/{iteration}"]}
        if self.settings["classes"]:
            feed[self.z_labels] = tensors[f"input/z_labels/{iteration}"]
        return feed


def record(np, tf1, settings, tensors, inputs_path):
    """Everything a reference file holds, from `input/…` and, where given, `init/…` in `tensors`."""
    graph = Graph(tf1, settings)
    # The same sums in the same order every time: no GPU, no threads within an operation, and all
    # operations in this thread. That is what -1 means; 1 would be a pool of one thread beside this
    # one, and the updates of the discriminator's moving statistics would still race.
    config = tf1.ConfigProto(
        intra_op_parallelism_threads=1, inter_op_parallelism_threads=-1, device_count={"GPU": 0}
    )
    with tf1.Session(config=config) as session:
        session.run(tf1.global_variables_initializer())
        set_initial_variables(np, graph, session, tensors, inputs_path)
        tensors.update(fetch(session, "init/", graph.variables))

        first = {
            "forward/generated": graph.generated,
            "forward/real_logits": graph.real_logits,
            "forward/fake_logits": graph.fake_logits,
            "forward/d_loss": graph.d_loss,
            "forward/g_loss": graph.g_loss,
            **{f"grad/{name}": gradient for name, gradient in graph.gradients.items()},
        }
        tensors.update(session.run(first, graph.feed(tensors, 0)))

        d_losses, g_losses = [], []
        for i in range(settings["iterations"]):
            feed = graph.feed(tensors, i)
            d_loss, _ = session.run([graph.d_loss, graph.d_train], feed)
            for _ in range(settings["g_steps"]):
                g_loss, _ = session.run([graph.g_loss, graph.g_train], feed)
            d_losses.append(d_loss)
            g_losses.append(g_loss)  # the last generator run's, before its update
        tensors["trace/d_loss"] = np.array(d_losses)
        tensors["trace/g_loss"] = np.array(g_losses)

        tensors.update(fetch(session, "final/", graph.variables))
        moments = session.run(graph.moments)
        tensors.update({f"final/{name}": value for name, value in moments.items()})
        tensors["final/sample"] = session.run(graph.sample, graph.feed_generator(tensors, 0))
    return tensors


def record_truth(np, tf1, settings, tensors):
    """`float64/…`: the same case from the same values, computed in float64."""
    start = {
        name: tensor.astype(np.float64) if tensor.dtype == np.float32 else tensor
        for name, tensor in tensors.items()
        if name.startswith(("init/", "input/"))
    }
    tf1.reset_default_graph()
    exact = record(np, tf1, {**settings, "dtype": "f64"}, dict(start), "float64")
    return {f"float64/{name}": tensor for name, tensor in exact.items() if name not in start}


def set_initial_variables(np, graph, session, tensors, inputs_path):
    """Kernels from the seed, the rest as TensorFlow sets it; or all of them from `inputs_path`."""
    initial = {f"init/{v.op.name}": v for v in graph.variables}
    if inputs_path:
        compare_names(inputs_path, "init/", initial, tensors)
    for name, variable in initial.items():
        shape = tuple(variable.shape.as_list())
        if inputs_path:
            value = tensors[name]
            check_tensor(inputs_path, name, value, shape, np.dtype(np_dtype(np, graph.settings)))
        elif name.endswith("/kernel"):
            value = draw_kernel(np, graph.settings, name, shape)
        else:
            continue
        # Assigned through a placeholder, so that no large constant becomes part of the graph.
        holder = graph.tf1.placeholder(variable.dtype.base_dtype, shape)
        session.run(graph.tf1.assign(variable, holder), {holder: value})


def fetch(session, prefix, variables):
    return session.run({prefix + v.op.name: v for v in variables})


# ------------------------------------------------------------------------------------- output


def check_finite(np, tensors):
    bad = sorted(name for name, tensor in tensors.items() if not np.isfinite(tensor).all())
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise Failure(f"not finite, so nothing was written: {', '.join(bad[:3])}{more}")


def encode(np, tensors, metadata):
    """A safetensors file. The package's own writer orders metadata differently in every run."""
    header, body, offset = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    for name in sorted(tensors):
        tensor = np.asarray(tensors[name])
        data = tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
        header[name] = {
            "dtype": {"float32": "F32", "float64": "F64", "int64": "I64"}[tensor.dtype.name],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        offset += len(data)
        body.append(data)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join((struct.pack("<Q", len(head)), head, *body))


def write_whole(path, data):
    """The file appears whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise Failure(f"--out {path}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------- main


def check_out(path, force):
    if path.is_dir() or not path.name:
        raise Failure(f"--out {path}: is a folder, expected a file to write")
    if not path.parent.is_dir():
        raise Failure(f"--out {path}: the folder {path.parent} does not exist")
    if path.exists() and not force:
        raise Failure(f"--out {path}: exists already; add --force to replace it")


def import_tensorflow():
    low, high = PYTHON_VERSIONS
    if not low <= sys.version_info[:2] <= high:
        raise Failure(
            f"TensorFlow {TENSORFLOW_VERSION} needs Python 3.9, 3.10 or 3.11, "
            f"this is {sys.version.split()[0]}; see --help"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import numpy as np
        import safetensors  # noqa: F401, so that its absence is noticed before the work
        import tensorflow as tf
    except ImportError as error:
        raise Failure(f"{error}; pip install -r {REQUIREMENTS}") from error
    if tf.__version__ != TENSORFLOW_VERSION:
        print(
            f"warning: this is TensorFlow {tf.__version__}; "
            f"the reference was recorded with {TENSORFLOW_VERSION}",
            file=sys.stderr,
        )
    tf1 = tf.compat.v1
    tf1.logging.set_verbosity(tf1.logging.ERROR)
    tf1.disable_v2_behavior()
    warnings.filterwarnings("ignore", message=".*tf.layers.*")
    return np, tf1, tf.__version__


def run(args):
    check_out(args.out, args.force)
    np, tf1, version = import_tensorflow()
    if args.inputs:
        settings, tensors = read_reference(args.inputs)
        check_inputs(np, settings, tensors, args.inputs)
    else:
        settings = {name: getattr(args, name) for name, *_ in SETTINGS}
        tensors = draw_inputs(np, settings, args.last_batch)

    if args.with_float64 and settings["dtype"] != "f32":
        raise Failure("--with-float64 is for a reference in float32; add --dtype f32")
    tensors = record(np, tf1, settings, tensors, args.inputs)
    if args.with_float64:
        tensors.update(record_truth(np, tf1, settings, tensors))
    check_finite(np, tensors)

    metadata = {
        name: str(settings[name])
        for name, _, default, _ in SETTINGS
        if name not in OPTIONAL or settings[name] != default
    }
    metadata["format"] = "dcgan-reference"
    metadata["version"] = "1"
    metadata["framework"] = f"tensorflow {version}"
    if args.with_float64:
        metadata["truth"] = "f64"
    data = encode(np, tensors, metadata)
    write_whole(args.out, data)
    print(f"{args.out}: {len(tensors)} tensors, {len(data):,} bytes")


def main():
    args = parse_arguments()
    try:
        run(args)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
