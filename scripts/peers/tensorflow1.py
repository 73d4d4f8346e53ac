#!/usr/bin/env python3
"""The reference itself: TensorFlow 1 in graph mode, timed on random images in memory.

The graph is that of scripts/make_reference.py, at full width. Not called tensorflow.py, because
`import tensorflow` would then find this very file.
"""

import sys
from pathlib import Path

import measure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import make_reference  # noqa: E402, it is one folder up


def main():
    args = measure.argument_parser(__doc__, ("f32",)).parse_args()
    try:
        np, tf1, version = make_reference.import_tensorflow()
    except make_reference.Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1

    settings = {name: default for name, _, default, _ in make_reference.SETTINGS}
    settings.update(
        dtype=args.precision,
        channels=measure.CHANNELS,
        base_width=args.base_width,
        z_dim=measure.Z_DIM,
        smooth=1 - measure.REAL_LABEL,
        alpha=measure.LEAK,
        learning_rate=measure.LEARNING_RATE,
        beta1=measure.BETA1,
        beta2=measure.BETA2,
    )
    graph = make_reference.Graph(tf1, settings)
    rng = np.random.default_rng(0)
    image = (measure.IMAGE_SIZE, measure.IMAGE_SIZE, measure.CHANNELS)
    images = rng.random((measure.BATCHES_IN_MEMORY, args.batch_size, *image), dtype=np.float32) * 2 - 1

    config = tf1.ConfigProto(
        intra_op_parallelism_threads=args.threads,
        inter_op_parallelism_threads=args.threads,
        device_count={"GPU": 0},
    )
    with tf1.Session(config=config) as session:
        session.run(tf1.global_variables_initializer())
        make_reference.set_initial_variables(np, graph, session, {}, None)

        def iterate(i):
            z = rng.random((args.batch_size, measure.Z_DIM), dtype=np.float32) * 2 - 1
            feed = {graph.images: images[i % len(images)], graph.z: z}
            if i % measure.LOG_EVERY == 0:
                d_loss, _ = session.run([graph.d_loss, graph.d_train], feed)
                session.run(graph.g_train, feed)
                g_loss, _ = session.run([graph.g_loss, graph.g_train], feed)
                print(f"{i}: d_loss {d_loss:.4f} g_loss {g_loss:.4f}", file=sys.stderr)
            else:
                session.run(graph.d_train, feed)
                session.run(graph.g_train, feed)
                session.run(graph.g_train, feed)

        measure.run(args, f"tensorflow {version} graph mode", iterate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
