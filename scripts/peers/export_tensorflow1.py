#!/usr/bin/env python3
"""Runs a `tf` export in TensorFlow 1's layers, trains it a little, and saves it as a TensorFlow checkpoint.

Usage: export_tensorflow1.py FOLDER

Reads z.npy, for a conditional generator class.npy, and generator-tf.safetensors from FOLDER and writes

  tensorflow.npy             the export's images [N, C, height, width], in float32
  tf1/model.ckpt             a checkpoint of both networks and their optimizers after one iteration, as the
                             reference saves it
  tensorflow-checkpoint.npy  the images of that checkpoint
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_reference  # noqa: E402, it is one folder up


def main():
    folder = Path(sys.argv[1])
    np, tf1, version = make_reference.import_tensorflow()
    from safetensors import safe_open

    with safe_open(folder / "generator-tf.safetensors", "np") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    settings = {name: default for name, _, default, _ in make_reference.SETTINGS}
    settings.update(
        dtype="f32",
        image_size=make_reference.image_size(about["image_size"]),
        channels=int(about["channels"]),
        base_width=int(about["base_width"]),
        # No layer has more channels than the generator's first one.
        max_width=tensors["generator/conv2d_transpose/kernel"].shape[-1],
        z_dim=int(about["z_dim"]),
        classes=len(json.loads(about["classes"])["names"]) if "classes" in about else 0,
    )
    graph = make_reference.Graph(tf1, settings)
    feed = {graph.z: np.load(folder / "z.npy")}
    if settings["classes"]:
        feed[graph.labels] = feed[graph.z_labels] = np.load(folder / "class.npy")
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        make_reference.set_initial_variables(np, graph, session, {}, None)
        left = dict(tensors)
        for variable in graph.variables:
            if variable.op.name.startswith("generator/"):
                variable.load(left.pop(variable.op.name), session)
        assert not left, f"not variables of the generator: {sorted(left)}"
        images = session.run(graph.sample, feed)
        np.save(folder / "tensorflow.npy", np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        # Train one iteration, so that the checkpoint's moments and powers are not the initial ones.
        real = np.clip(images, -1, 1)
        for run in (graph.d_train, graph.g_train, graph.g_train):
            session.run(run, {graph.images: real, **feed})
        saver = tf1.train.Saver(tf1.global_variables())
        (folder / "tf1").mkdir(exist_ok=True)
        saver.save(session, str(folder / "tf1" / "model.ckpt"))
        after = session.run(graph.sample, feed)
        np.save(folder / "tensorflow-checkpoint.npy", np.ascontiguousarray(after.transpose(0, 3, 1, 2)))
    print(f"tensorflow {version}")


if __name__ == "__main__":
    main()
