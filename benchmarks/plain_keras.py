"""The plain transfer-learning script, as a Keras user writes it from the tutorial. Graftline is compared with it.

The script follows https://www.tensorflow.org/tutorials/images/transfer_learning: image_dataset_from_directory, cache
and prefetch; MobileNetV2 with `preprocess_input` inside the model, pooling, dropout 0.2 and one dense layer; Adam at
1e-4 on a frozen trunk, then the top 30 layers at 1e-5; a SavedModel at the end. Two things differ from the tutorial:
there is no augmentation without `--augment`, as in Graftline's defaults, and each phase has five epochs.

A fault of the tutorial is kept. In Keras 3 `base_model(x, training=False)` has no effect inside `fit()`. So in the
second phase the unfrozen BatchNormalization layers move their statistics (keras issue 20285).

The script imports nothing of Graftline:

    python benchmarks/plain_keras.py --images photos/ --weights mobilenet_v2_..._no_top.h5 --output plain-model/

With `--split FILE` it trains and evaluates on the files that FILE names, instead of on a random split.

The last line of standard output is one JSON object:
`{"seconds": {"total", "import", "data", "phase1", "phase2", "export"}, "accuracy": …}`. The accuracy is that of the
exported weights on the validation split. It is evaluated once at the end, and its time counts as `phase2`.
"""

import argparse
import json
import os
import pathlib
import sys
import time

STARTED = time.perf_counter()

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras  # noqa: E402  (the import is measured, too)
import tensorflow as tf  # noqa: E402

IMAGE_SIZE = (224, 224)
BATCH_SIZE = 32
UNFROZEN_LAYERS = 30


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="The plain Keras transfer-learning tutorial, timed by part.")
    parser.add_argument("--images", type=pathlib.Path, required=True, help="a folder with one folder a class")
    parser.add_argument("--weights", default="imagenet", help="weights file without top, `imagenet` or `none`")
    parser.add_argument("--alpha", type=float, default=1.0, help="MobileNetV2's width multiplier")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--fine-tune-epochs", type=int, default=5)
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the head, in the first phase")
    parser.add_argument("--augment", action="store_true", help="random flip, rotation, zoom and contrast in the model")
    parser.add_argument("--split", type=pathlib.Path, help='JSON {"train": [paths], "eval": [paths]} under --images')
    parser.add_argument("--seed", type=int, default=0, help="of the split, the shuffling and the head")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="where the SavedModel goes")
    return parser.parse_args()


def load_split(images: pathlib.Path, seed: int) -> tuple[tf.data.Dataset, tf.data.Dataset, int]:
    """Return train and validation batches (float32 [N, 224, 224, 3] in 0..255, int32 labels), and the class count."""
    train, validation = keras.utils.image_dataset_from_directory(
        images,
        validation_split=0.2,
        subset="both",
        seed=seed,
        image_size=IMAGE_SIZE,
        batch_size=BATCH_SIZE,
        verbose=False,
    )
    classes = len(train.class_names)
    return train.cache().prefetch(tf.data.AUTOTUNE), validation.cache().prefetch(tf.data.AUTOTUNE), classes


def load_given_split(images: pathlib.Path, split: dict[str, list[str]]) -> tuple[tf.data.Dataset, tf.data.Dataset, int]:
    """Return the same as `load_split`, for files given by name."""
    classes = sorted({path.split("/")[0] for paths in split.values() for path in paths})

    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        image.set_shape((None, None, 3))
        return tf.image.resize(image, IMAGE_SIZE), label

    def decoded(paths: list[str]) -> tf.data.Dataset:
        labels = [classes.index(path.split("/")[0]) for path in paths]
        files = tf.data.Dataset.from_tensor_slices(([str(images / path) for path in paths], labels))
        return files.map(load, num_parallel_calls=tf.data.AUTOTUNE).cache()

    train = decoded(split["train"]).shuffle(len(split["train"])).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    validation = decoded(split["eval"]).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    return train, validation, len(classes)


def build(weights: str | None, alpha: float, classes: int, augment: bool) -> tuple[keras.Model, keras.Model]:
    """Return the whole classifier, and the frozen trunk inside it."""
    base_model = keras.applications.MobileNetV2(
        input_shape=(*IMAGE_SIZE, 3), alpha=alpha, include_top=False, weights=weights
    )
    base_model.trainable = False
    inputs = keras.Input(shape=(*IMAGE_SIZE, 3))
    x = inputs
    if augment:
        random_changes = [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(0.1),
            keras.layers.RandomZoom(0.1),
            keras.layers.RandomContrast(0.1),
        ]
        x = keras.Sequential(random_changes)(x)
    x = keras.applications.mobilenet_v2.preprocess_input(x)
    x = base_model(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    outputs = keras.layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs), base_model


def compile_model(model: keras.Model, learning_rate: float) -> None:
    """Compile the model with Adam."""
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"]
    )


def main() -> None:
    """Train, export and print the JSON object."""
    options = arguments()
    marks = [("import", time.perf_counter() - STARTED)]

    def mark(part: str) -> None:
        marks.append((part, time.perf_counter() - STARTED))

    keras.utils.set_random_seed(options.seed)
    if options.split is None:
        train, validation, classes = load_split(options.images, options.seed)
    else:
        train, validation, classes = load_given_split(options.images, json.loads(options.split.read_text()))
    mark("data")

    weights = None if options.weights == "none" else options.weights
    model, base_model = build(weights, options.alpha, classes, options.augment)
    compile_model(model, options.learning_rate)
    model.fit(train, validation_data=validation, epochs=options.epochs, verbose=2)
    mark("phase1")

    base_model.trainable = True
    for layer in base_model.layers[:-UNFROZEN_LAYERS]:
        layer.trainable = False
    compile_model(model, 1e-5)
    model.fit(train, validation_data=validation, epochs=options.fine_tune_epochs, verbose=2)
    accuracy = model.evaluate(validation, verbose=0, return_dict=True)["accuracy"]
    mark("phase2")

    model.export(str(options.output), verbose=False)
    mark("export")

    ends = [end for _, end in marks]
    seconds = {part: round(end - begin, 2) for (part, end), begin in zip(marks, [0.0, *ends], strict=False)}
    sys.stdout.flush()
    print(json.dumps({"seconds": {"total": round(ends[-1], 2), **seconds}, "accuracy": round(accuracy, 4)}))


if __name__ == "__main__":
    main()
