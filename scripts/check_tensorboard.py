#!/usr/bin/env python3
"""Check that TensorBoard reads from a run what the run's own files say.

Reads the run's event files with TensorBoard's own reader and compares them with the run:

  tags      exactly the scalars, images, histograms and text that a run writes, each under its plugin
  scalars   steps and values are those of metrics.jsonl (events hold float32); so are those of evaluations, and the floor
            of each metric is the same at every step
  samples   every step's image is samples/iteration-NNNNNN.png, pixel for pixel; of a conditional run the images of
            its classes, one below the other, are that image
  real      is real.png, pixel for pixel
  config    is a text of one string, not empty
  histos    every variable has histograms of its weights and gradients at the same steps; buckets hold all values
  hparams   are the settings of config.toml; losses share a chart, and probabilities do, and metrics with their floors

Steps ascend, and each occurs once. scripts/check_tensorboard.sh makes the environment for this script.

exit status: 0 if all is as expected, 1 if something is not, 2 on wrong usage
"""

import argparse
import io
import json
import logging
import sys
from pathlib import Path

# The tag of each event, and its key in metrics.jsonl.
SCALARS = {
    "discriminator_loss": "d_loss",
    "generator_loss": "g_loss",
    "mean_discriminator_output_prob_real": "mean_discriminator_output_prob_real",
    "mean_discriminator_output_prob_fake": "mean_discriminator_output_prob_fake",
    "images_per_s": "images_per_s",
}
IMAGES = ("real", "samples")
OF_CLASS = "samples/class_"
FLOOR = "_floor"
TEXTS = ("config",)
HPARAMS = ("_hparams_/session_start_info", "_hparams_/session_end_info")
LAYOUT = "custom_scalars__config__"


class Failure(Exception):
    """What was expected and what was found. Exit status 1."""


def expect(what, expected, found):
    if expected != found:
        raise Failure(f"{what}: expected {expected}, found {found}")


def expect_steps(what, expected, found):
    """Like `expect`, but names the first step that differs and not hundreds of equal ones."""
    for i, (e, f) in enumerate(zip(expected, found)):
        if e != f:
            raise Failure(f"{what}: expected step {e} at position {i}, found step {f}")
    if len(expected) != len(found):
        more = list(expected[len(found) :] or found[len(expected) :])
        verb = "lacks" if len(expected) > len(found) else "has unexpected"
        shown = ", ".join(map(str, more[:5])) + (", ..." if len(more) > 5 else "")
        raise Failure(f"{what}: expected {len(expected)} steps, found {len(found)}: {verb} {shown}")


def expect_ascending(what, steps):
    for before, after in zip(steps, steps[1:]):
        if not before < after:
            raise Failure(f"{what}: expected ascending steps, found step {after} after step {before}")


# --------------------------------------------------------------------------------------- reading


def event_folder(run):
    """The one folder of event files in the run: two would be two runs in TensorBoard."""
    folders = sorted({path.parent for path in run.rglob("*tfevents*")})
    if len(folders) != 1:
        names = ", ".join(str(folder) for folder in folders) or "none"
        raise Failure(f"{run}: expected one folder of event files, found {names}")
    return folders[0]


def read_config(run):
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        import tomli as tomllib
    return tomllib.loads((run / "config.toml").read_text())


def read_metrics(path):
    """The lines of metrics and those of evaluations."""
    rows, evaluations = [], []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path}: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            if "rolled_back_from" in row:
                continue
            if "evaluation" in row:
                evaluations.append(row)
                continue
            for key in ("iteration", *SCALARS.values()):
                if not isinstance(row[key], (int, float)):
                    raise ValueError(f"expected a number for {key}, found {row[key]!r}")
        except KeyError as error:
            raise Failure(f"{path}:{number}: lacks {error.args[0]}") from error
        except (ValueError, TypeError) as error:
            raise Failure(f"{path}:{number}: {error}") from error
        rows.append(row)
    if not rows:
        raise Failure(f"{path}: expected at least one line, found none")
    return rows, evaluations


def decode(what, data):
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except UnidentifiedImageError as error:
        raise Failure(f"{what}: expected an image, found {data[:16]!r}...") from error
    except (OSError, SyntaxError) as error:
        raise Failure(f"{what}: can't decode it: {error}") from error
    return image


# ---------------------------------------------------------------------------------------- checks


def check_tags(events, folder, run):
    """The tags that the reader finds, and those that TensorBoard's dashboards list."""
    from tensorboard.backend.event_processing import plugin_event_multiplexer

    tags = events.Tags()
    _, evaluations = read_metrics(run / "metrics.jsonl")
    metrics = {f"eval/{name}" for row in evaluations for name in row["evaluation"]}
    scalars = {*SCALARS, *metrics, *(f"{name}{FLOOR}" for name in metrics)}
    config = read_config(run)
    images = {*IMAGES, *(tag for tag in tags["images"] if config.get("conditional") and tag.startswith(OF_CLASS))}
    histograms = tags["histograms"]
    expect("scalar tags", sorted(scalars), sorted(tags["scalars"]))
    expect("image tags", sorted(images), sorted(tags["images"]))
    expect("tensor tags", sorted((*TEXTS, *HPARAMS, LAYOUT)), sorted(tags["tensors"]))
    expect("audio tags", [], sorted(tags["audio"]))
    expect("whether there are samples of classes", bool(config.get("conditional")), len(images) > len(IMAGES))
    expect("whether there are histograms", "histograms" in config, bool(histograms))

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRun(str(folder), "run")
    multiplexer.Reload()
    pages = (
        ("scalars", scalars),
        ("images", images),
        ("histograms", histograms),
        ("text", TEXTS),
        ("hparams", HPARAMS),
        ("custom_scalars", (LAYOUT,)),
    )
    for plugin, expected in pages:
        try:
            found = multiplexer.PluginRunToTagToContent(plugin)
        except KeyError:
            found = {}
        expect(f"tags of TensorBoard's {plugin} page", sorted(expected), sorted(found.get("run", {})))
    return f"{len(scalars)} scalars, {len(images)} images, {len(histograms)} histograms, {len(TEXTS)} text, each on its page"


def check_scalars(events, run):
    import numpy as np

    path = run / "metrics.jsonl"
    rows, evaluations = read_metrics(path)
    check_evaluations(events, evaluations)
    steps = [row["iteration"] for row in rows]
    expect_ascending(str(path), steps)
    for tag, key in SCALARS.items():
        found = events.Scalars(tag)
        expect_ascending(tag, [event.step for event in found])
        expect_steps(tag, steps, [event.step for event in found])
        for row, event in zip(rows, found):
            # The event's value is a float32, widened; any other float64 near it is wrong.
            expected = float(np.float32(row[key]))
            if not event.value == expected:
                raise Failure(
                    f"{tag} at step {event.step}: expected {expected!r} "
                    f"(float32 of {key} {row[key]!r}), found {event.value!r}"
                )
    told = f"{len(SCALARS)} x {len(steps)} values, steps {steps[0]} to {steps[-1]}"
    return f"{told}, and {len(evaluations)} evaluations equal metrics.jsonl"


def check_evaluations(events, evaluations):
    import numpy as np

    for name in sorted({name for row in evaluations for name in row["evaluation"]}):
        rows = [row for row in evaluations if name in row["evaluation"]]
        expected = [(row["iteration"], float(np.float32(row["evaluation"][name]))) for row in rows]
        expect(f"eval/{name}", expected, [(event.step, event.value) for event in events.Scalars(f"eval/{name}")])
        floors = events.Scalars(f"eval/{name}{FLOOR}")
        expect_steps(f"eval/{name}{FLOOR}", [step for step, _ in expected], [event.step for event in floors])
        expect(f"eval/{name}{FLOOR}: number of values", 1, len({event.value for event in floors}))


def check_image(what, event, path):
    """The event's image is that of the file: declared size, real size, every pixel."""
    try:
        wanted = decode(str(path), path.read_bytes())
    except OSError as error:
        raise Failure(f"{what}: expected the image of {path}: {error.strerror}") from error
    image = decode(what, event.encoded_image_string)
    expect(f"{what}: (width, height) of {path.name}", wanted.size, image.size)
    expect(f"{what}: width and height fields", image.size, (event.width, event.height))
    # RGBA can hold any 8-bit picture, so gray and RGB files of the same picture become equal.
    expected, found = wanted.convert("RGBA").tobytes(), image.convert("RGBA").tobytes()
    if expected != found:
        pixels = [i for i in range(0, len(expected), 4) if expected[i : i + 4] != found[i : i + 4]]
        y, x = divmod(pixels[0] // 4, image.width)
        at = pixels[0]
        raise Failure(
            f"{what}: {len(pixels)} of {image.width * image.height} pixels differ from {path.name}, "
            f"first at x {x} y {y}: expected RGBA {tuple(expected[at : at + 4])}, found {tuple(found[at : at + 4])}"
        )
    return image


def check_samples(events, run):
    found = events.Images("samples")
    steps = [event.step for event in found]
    expect_ascending("samples", steps)
    files = {path.name for path in (run / "samples").glob("iteration-*.png")}
    named = {f"iteration-{step:06d}.png" for step in steps}
    expect("samples: files without an event", [], sorted(files - named))
    expect("samples: events without a file", [], sorted(named - files))
    for event in found:
        path = run / "samples" / f"iteration-{event.step:06d}.png"
        image = check_image(f"samples at step {event.step}", event, path)
    check_classes(events, steps, run)
    size = f"{image.width}x{image.height}"
    return f"{len(steps)} images, steps {steps[0]} to {steps[-1]}, the last {size}, equal samples/*.png"


def check_classes(events, steps, run):
    """The images of the classes are the parts of the grid: below each other, with a gap of two pixels."""
    tags = [tag for tag in events.Tags()["images"] if tag.startswith(OF_CLASS)]
    parts = {}
    for tag in tags:
        found = events.Images(tag)
        expect_steps(tag, steps, [event.step for event in found])
        for event in found:
            parts.setdefault(event.step, {})[tag] = decode(tag, event.encoded_image_string)
    for step, of_step in parts.items():
        whole = decode("samples", (run / "samples" / f"iteration-{step:06d}.png").read_bytes())
        expect(f"classes at step {step}: height", whole.height + 2, sum(part.height + 2 for part in of_step.values()))
        top, by_position = 0, []
        for part in of_step.values():
            rows = whole.crop((0, top, whole.width, top + part.height))
            by_position.append(rows.tobytes() == part.tobytes())
            top += part.height + 2
        expect(f"classes at step {step}: whether each is its part of the grid", {True}, set(by_position))


def check_histograms(events, run):
    tags = events.Tags()["histograms"]
    if not tags:
        return "none, as the settings say"
    every = read_config(run)["histograms"]
    names = {kind: {tag.split("/", 1)[1] for tag in tags if tag.startswith(f"{kind}/")} for kind in ("weights", "gradients")}
    expect("histograms: variables", sorted(names["weights"]), sorted(names["gradients"]))
    steps = [event.step for event in events.Histograms(tags[0])]
    expect_ascending(tags[0], steps)
    expect("histograms: steps that are no multiples", [], [step for step in steps if step % every])
    for tag in tags:
        found = events.Histograms(tag)
        expect_steps(tag, steps, [event.step for event in found])
        for event in found:
            value = event.histogram_value
            expect(f"{tag} at step {event.step}: values in buckets", value.num, sum(value.bucket))
            limits = list(value.bucket_limit)
            expect(f"{tag} at step {event.step}: ascending limits", sorted(set(limits)), limits)
            inside = limits[0] <= value.min <= value.max < limits[-1]
            expect(f"{tag} at step {event.step}: whether all values lie within the limits", True, inside)
    return f"{len(tags)} x {len(steps)}, of {len(names['weights'])} variables"


def check_real(events, run):
    found = events.Images("real")
    expect_ascending("real", [event.step for event in found])
    for event in found:
        image = check_image(f"real at step {event.step}", event, run / "real.png")
    return f"{len(found)} image, {image.width}x{image.height}, equals real.png"


def check_config(run, events):
    from tensorboard.compat.proto import types_pb2
    from tensorboard.util import tensor_util

    expect("config: plugin", "text", events.SummaryMetadata("config").plugin_data.plugin_name)
    found = events.Tensors("config")
    expect_ascending("config", [event.step for event in found])
    # A run that was resumed with more iterations has one text for each time; config.toml is the last.
    for event in found[-1:]:
        what = f"config at step {event.step}"
        dtype = types_pb2.DataType.Name(event.tensor_proto.dtype)
        expect(f"{what}: type", "DT_STRING", dtype)
        strings = tensor_util.make_ndarray(event.tensor_proto).ravel().tolist()
        expect(f"{what}: number of strings", 1, len(strings))
        try:
            text = strings[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise Failure(f"{what}: expected UTF-8: {error}") from error
        expect(f"{what}: text", "```toml\n" + (run / "config.toml").read_text() + "```", text)
    return f"{len(found)} text, {len(text)} characters"


def check_hparams(run, events):
    from tensorboard.plugins.custom_scalar import layout_pb2
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.util import tensor_util

    settings = {key: value for key, value in read_config(run).items() if not isinstance(value, dict)}
    content = events.SummaryMetadata(HPARAMS[0]).plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    expect("hyperparameters", sorted(settings), sorted(start.hparams))
    for key, value in settings.items():
        found = start.hparams[key]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            expect(f"hyperparameter {key}", float(value), found.number_value)
        elif isinstance(value, str):
            expect(f"hyperparameter {key}", value, found.string_value)
    strings = tensor_util.make_ndarray(events.Tensors(LAYOUT)[-1].tensor_proto).ravel().tolist()
    charts = [chart for category in layout_pb2.Layout.FromString(strings[0]).category for chart in category.chart]
    tags = [tag.strip("^$") for chart in charts for tag in chart.multiline.tag]
    expect("tags of charts", sorted(set(events.Tags()["scalars"]) - {"images_per_s"}), sorted(tags))
    return f"{len(settings)} settings, {len(charts)} charts of {len(tags)} scalars"


# ------------------------------------------------------------------------------------------ main


def check(run):
    try:
        from PIL import Image  # noqa: F401, so that its absence shows before the work
        from tensorboard.backend.event_processing import event_accumulator
    except ImportError as error:
        raise Failure(f"{error}; run scripts/check_tensorboard.sh, which makes the environment") from error

    folder = event_folder(run)
    guidance = event_accumulator.STORE_EVERYTHING_SIZE_GUIDANCE
    events = event_accumulator.EventAccumulator(str(folder), size_guidance=guidance).Reload()
    failures = 0
    groups = (
        ("tags", lambda: check_tags(events, folder, run)),
        ("scalars", lambda: check_scalars(events, run)),
        ("samples", lambda: check_samples(events, run)),
        ("real", lambda: check_real(events, run)),
        ("histos", lambda: check_histograms(events, run)),
        ("config", lambda: check_config(run, events)),
        ("hparams", lambda: check_hparams(run, events)),
    )
    for name, group in groups:
        try:
            print(f"{name:8} ok: {group()}")
        except (Failure, KeyError) as failure:
            # The reader's KeyError names the tag that is missing.
            print(f"{name:8} FAILED: {failure.args[0]}")
            failures += 1
    if failures:
        raise Failure(f"{run}: {failures} of {len(groups)} groups are not as expected")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, with its event files")
    args = parser.parse_args()
    # Keep the warnings of TensorBoard's reader about damaged files, and drop its other messages.
    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    try:
        if not args.run.is_dir():
            raise Failure(f"{args.run}: no such folder")
        check(args.run)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
