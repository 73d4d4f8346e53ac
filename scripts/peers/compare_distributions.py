#!/usr/bin/env python3
"""Trains the reference in TensorFlow and with dcgan from many seeds, and tests whether what they generate differs.

scripts/compare_reference.sh calls this. Three sides are trained: TensorFlow, dcgan, and dcgan with
--plain-convolutions. Each seed of a side gives one number for each measure, and two sides are compared by an exact
permutation test of the difference of their means: its p-value is the share of all ways to deal the runs to two sides
that give a difference as large. dcgan's two sides share their seeds: initial weights, order and noise. Training drives such
runs apart soon; as far as it does not, their test finds less than it could.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import tensorflow1_train as reference  # noqa: E402, it lies beside this file

Failure = reference.make_reference.Failure
SIDES = {"tf": "TensorFlow", "fast": "dcgan", "plain": "dcgan, plain convolutions"}
PAIRS = (("tf", "fast"), ("tf", "plain"), ("fast", "plain"))
OWN_METRICS = ("frechet_distance", "kernel_distance", "precision", "recall", "coverage", "class_balance")
BORDER = 2  # pixels around MNIST's 28x28 images, which are black
PROJECTIONS = 512
# TensorFlow and dcgan sample one z with the same weights. Both round in float32, a layer at a time.
MOST_DIFFERENCE = 5e-5
SIGNIFICANT = 0.01


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dcgan", type=Path, required=True, help="the executable")
    parser.add_argument("--mnist", type=Path, required=True, help="folder of MNIST's four files")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    for name in ("seeds", "epochs", "width", "count", "jobs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    return parser.parse_args()


class Comparison:
    def __init__(self, args):
        self.args, self.out = args, args.out
        self.children = set()
        # dcgan looks for MNIST in a folder of that name.
        data = args.out / "data"
        data.mkdir(parents=True, exist_ok=True)
        link = data / "mnist"
        link.unlink(missing_ok=True)
        link.symlink_to(args.mnist.resolve())
        self.environment = dict(os.environ, DCGAN_DATA=str(data), TF_CPP_MIN_LOG_LEVEL="2")
        self.keep_settings()

    def keep_settings(self):
        """What is in the folder already is used again, so it must come from the same settings and the same build."""
        args, path = self.args, self.out / "settings.json"
        about = {name: getattr(args, name) for name in ("epochs", "width", "count")}
        about["dcgan"] = self.dcgan("--version").strip()
        if not path.exists():
            path.write_text(json.dumps(about))
        elif json.loads(path.read_text()) != about:
            raise Failure(f"{args.out}: holds runs of {path.read_text()}, not of {json.dumps(about)}; take another --out")

    def run(self, command):
        """The standard output of a command that succeeds. What it says on standard error goes there."""
        command = list(map(str, command))
        child = subprocess.Popen(command, env=self.environment, text=True, stdout=subprocess.PIPE)
        self.children.add(child)
        output, _ = child.communicate()
        self.children.discard(child)
        if child.returncode:
            raise Failure(f"{' '.join(command)}: failed with exit code {child.returncode}; what it said is above")
        return output

    def stop(self):
        for child in list(self.children):
            child.terminate()

    def dcgan(self, *words):
        return self.run([self.args.dcgan, *words])

    def tensorflow(self, *words):
        self.run([sys.executable, "-B", HERE / "tensorflow1_train.py", "--base-width", self.args.width, *words])

    # ------------------------------------------------------------------ training and sampling

    def train(self, side, seed):
        """One run of one thread. What is there already is kept, and a run that was stopped goes on."""
        run, samples, args = self.out / f"{side}-{seed}", self.samples(side, seed), self.args
        if samples.exists():
            return
        if side == "tf":
            self.tensorflow("--mnist", args.mnist, "--seed", seed, "--epochs", args.epochs, "--count", args.count,
                            "--threads", 1, "--out", run)
            return
        if (run / "config.toml").exists():
            self.dcgan("train", "--resume", run, "--threads", 1, "--quiet")
        else:
            plain = ["--plain-convolutions"] if side == "plain" else []
            self.dcgan("train", "--dataset", "mnist", "--epochs", args.epochs, "--base-width", args.width,
                       "--seed", seed, "--device", "cpu", "--threads", 1, "--quiet", "--run", run, *plain)
        self.dcgan("sample", run, "--count", args.count, "--seed", seed, "--device", "cpu", "--threads", 1,
                   "--npz", samples)

    def samples(self, side, seed):
        return self.out / (f"tf-{seed}/samples.npz" if side == "tf" else f"{side}-{seed}.npz")

    def exchange(self, side, seed):
        """The largest difference between what both programs make of the same weights and z."""
        run, place = self.out / f"{side}-{seed}", self.out / f"{side}-{seed}-exchange"
        weights, ours = place.with_suffix(".safetensors"), place.with_suffix(".npy")
        if side == "tf":
            # What TensorFlow made in the session that had trained the weights.
            z, theirs, model = run / "z.npy", run / "images.npy", weights
            self.dcgan("import", run / "weights.safetensors", "--out", weights, "--force")
        else:
            z, theirs, model = self.out / "tf-0/z.npy", place / "images.npy", run
            self.dcgan("export", run, "--format", "tf", "--out", weights, "--force")
            if not place.exists():
                self.tensorflow("--sample", weights, "--z", z, "--out", place)
        self.dcgan("sample", model, "--z", z, "--npy", ours, "--device", "cpu", "--force", "--quiet")
        return float(np.abs(np.load(ours) - np.load(theirs)).max())

    # ------------------------------------------------------------------ measures

    def own_metrics(self, side, seed):
        """What `dcgan eval` says, by the features of the program's own classifier."""
        path = self.out / f"{side}-{seed}.json"
        if not path.exists():
            printed = self.dcgan("eval", "--images", f"npz:{self.samples(side, seed)}", "--dataset", "mnist", "--count",
                                 self.args.count, "--device", "cpu", "--quiet", "--json", "--metrics",
                                 ",".join(OWN_METRICS))
            beside = path.with_suffix(".tmp")
            beside.write_text(printed)
            beside.replace(path)
        return {row["metric"]: row["value"] for row in json.loads(path.read_text())["metrics"]}

    def measure(self, names, real, classifier):
        """The measures of each run, by its name."""
        found = {}
        inner = np.zeros((32, 32), bool)
        inner[BORDER:-BORDER, BORDER:-BORDER] = True
        of_real = classifier.statistics(real)
        directions = np.random.default_rng(0).standard_normal((32 * 32, PROJECTIONS), np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        shuffled = np.random.default_rng(1).permutation(len(real))[: self.args.count]
        projected = np.sort(flat(real[shuffled]) @ directions, axis=0)
        for name in names:
            images = np.load(self.samples(*name))["arr_0"]
            mean = images.mean(axis=0)[..., 0]
            away = mean - real.mean(axis=0)[..., 0]
            found[name] = {
                **{f"`{metric}`": value for metric, value in self.own_metrics(*name).items()},
                "Fréchet distance, second classifier": classifier.distance(of_real, classifier.statistics(images)),
                "sliced Wasserstein distance of pixels": float(
                    np.abs(np.sort(flat(images) @ directions, axis=0) - projected).mean()
                ),
                "mean image, RMS from the real one": float(np.sqrt((away**2).mean())),
                "mean pixel": float(mean.mean()),
                "border's mean pixel (real: 0)": float(mean[~inner].mean()),
                "standard deviation of pixels": float(images.std()),
            }
        return found


def flat(images):
    return images.reshape(len(images), -1).astype(np.float32)


class Classifier:
    """A classifier of other layers and of another seed than the program's own. Its 64 features are what the last layer
    but one gives."""

    FEATURES, EPOCHS, BATCH, SEED = 64, 3, 128, 20_15

    def __init__(self, tf1, images, labels, path):
        self.graph = tf1.Graph()
        with self.graph.as_default():
            tf1.set_random_seed(self.SEED)
            self.images = tf1.placeholder(tf1.float32, [None, 32, 32, 1])
            self.labels = tf1.placeholder(tf1.int64, [None])
            x = self.images / 127.5 - 1
            for channels in (24, 48):
                x = tf1.layers.conv2d(x, channels, 3, padding="same", activation=tf1.nn.relu)
                x = tf1.layers.max_pooling2d(x, 2, 2)
            x = tf1.layers.dense(tf1.layers.flatten(x), self.FEATURES, activation=tf1.nn.tanh)
            self.features = x
            logits = tf1.layers.dense(x, 10)
            loss = tf1.losses.sparse_softmax_cross_entropy(self.labels, logits)
            self.correct = tf1.equal(tf1.argmax(logits, 1), self.labels)
            step = tf1.train.AdamOptimizer(1e-3).minimize(loss)
            self.session = tf1.Session()
            saver = tf1.train.Saver()
            if Path(f"{path}.index").exists():
                saver.restore(self.session, str(path))
                return
            self.session.run(tf1.global_variables_initializer())
            rng = np.random.default_rng(self.SEED)
            for _ in range(self.EPOCHS):
                order = rng.permutation(len(images))
                for first in range(0, len(order), self.BATCH):
                    some = order[first : first + self.BATCH]
                    self.session.run(step, {self.images: images[some], self.labels: labels[some]})
            saver.save(self.session, str(path))

    def of(self, tensor, images, labels=None):
        blocks = []
        for first in range(0, len(images), 1000):
            feed = {self.images: images[first : first + 1000]}
            if labels is not None:
                feed[self.labels] = labels[first : first + 1000]
            blocks.append(self.session.run(tensor, feed))
        return np.concatenate(blocks)

    def accuracy(self, images, labels):
        return float(self.of(self.correct, images, labels).mean())

    def statistics(self, images):
        features = self.of(self.features, images).astype(np.float64)
        return features.mean(axis=0), np.cov(features, rowvar=False)

    def distance(self, one, other):
        """The Fréchet distance of two Gaussians: |m1 − m2|² + tr(S1 + S2 − 2·(S1^½·S2·S1^½)^½)."""
        (mean, covariance), (other_mean, other_covariance) = one, other
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
        inner = np.linalg.eigvalsh(root @ other_covariance @ root)
        roots = np.sqrt(np.maximum(inner, 0)).sum()
        square = ((mean - other_mean) ** 2).sum()
        return float(square + np.trace(covariance) + np.trace(other_covariance) - 2 * roots)


def p_value(one, other):
    """Exact: of all ways to deal the numbers to two groups of these sizes, the share whose means differ as much."""
    values = np.array([*one, *other])
    ways = np.array(list(itertools.combinations(range(len(values)), len(one))))
    sums = values[ways].sum(axis=1)
    means = sums / len(one) - (values.sum() - sums) / len(other)
    found = abs(np.mean(one) - np.mean(other))
    return float((np.abs(means) >= found * (1 - 1e-9)).mean())


def say(text):
    print(text, file=sys.stderr, flush=True)


def main():
    args = parse_arguments()
    comparison = Comparison(args)
    # SIGTERM ends this program as Ctrl-C does: by an exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ThreadPoolExecutor(args.jobs) as pool:
        # Seeds in the outer loop: whatever is there when it is stopped can be compared.
        jobs = [pool.submit(comparison.train, side, seed) for seed in range(args.seeds) for side in SIDES]
        try:
            for done, job in enumerate(jobs, 1):
                job.result()
                say(f"{done} of {len(jobs)} runs")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            comparison.stop()
            raise
    # Not before: TensorFlow starts threads, which trainings in other processes would have to share the cores with.
    _, tf1, _ = reference.make_reference.import_tensorflow()

    say("sampling each program's weights in the other ...")
    names = [(side, seed) for side in SIDES for seed in range(args.seeds)]
    differences = {name: comparison.exchange(*name) for name in names}
    images, labels = reference.read_mnist(np, args.mnist), reference.read_labels(np, args.mnist)
    say("the second classifier ...")
    classifier = Classifier(tf1, images[:60_000], labels[:60_000], args.out / "classifier")
    accuracy = classifier.accuracy(images[60_000:], labels[60_000:])
    halves = np.random.default_rng(2).permutation(len(images))
    floor = classifier.distance(*(classifier.statistics(images[half]) for half in np.array_split(halves, 2)))
    say("measuring ...")
    measures = comparison.measure(names, images, classifier)
    return report(args, measures, differences, accuracy, floor)


def report(args, measures, differences, accuracy, floor):
    print(f"{args.seeds} seeds, width {args.width}, {args.epochs} epoch(s) of MNIST, {args.count} images each: mean ± standard "
          f"deviation. The second classifier is right for {accuracy:.1%} of the test images; two halves of the real "
          f"images are {floor:.2f} apart for it.\n")
    heads = [*SIDES.values(), *(f"p, {one}/{other}" for one, other in PAIRS)]
    print("| | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
    smallest = []
    for measure in measures["tf", 0]:
        of = {side: [measures[side, seed][measure] for seed in range(args.seeds)] for side in SIDES}
        cells = [f"{np.mean(of[side]):.4g} ± {np.std(of[side], ddof=min(1, args.seeds - 1)):.2g}" for side in SIDES]
        values = [p_value(of[one], of[other]) for one, other in PAIRS]
        smallest += values
        print(f"| {measure} | " + " | ".join([*cells, *(f"{value:.3f}" for value in values)]) + " |")
    print()
    worst = {side: max(differences[side, seed] for seed in range(args.seeds)) for side in SIDES}
    for side, text in (
        ("tf", "TensorFlow's samples and those of its weights imported into dcgan"),
        ("fast", "dcgan's samples and those of its weights in TensorFlow"),
        ("plain", "the same with plain convolutions"),
    ):
        print(f"{text}: at most {worst[side]:.1e} apart (values in [-1, 1])")
    tests = len(smallest)
    # Bonferroni: the chance that any of so many p-values is this small is at most that many times it.
    chance = min(1, min(smallest) * tests)
    print(f"smallest of {tests} p-values: {min(smallest):.2g}; by chance in at most {chance:.2g} of such tables")
    # Written so that a difference that is no number counts.
    is_equal = all(difference <= MOST_DIFFERENCE for difference in differences.values())
    return int(chance < SIGNIFICANT or not is_equal)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failure as failure:
        print(f"compare_reference: error: {failure}", file=sys.stderr)
        sys.exit(1)
