"""Examples, SavedModels and runs of the Evaluator's executor for its tests."""

import json
import pathlib
from collections.abc import Mapping, Sequence

from graftline import features, signatures
from graftline.components.evaluator.settings import GateSettings
from graftline.components.evaluator.verdict import VERDICT_FILE, Verdict
from tests.images import tinted_png

CHANNELS = {"blue sky": 2, "green": 1, "rot": 0}


def save_model(root: pathlib.Path, labels: Sequence[str], sharpness: float = 20.0, tint: float = 0.0) -> str:
    """Save a model with the signatures that the Evaluator calls: a softmax of the colours; `tint` favours the first."""
    import tensorflow as tf

    root.mkdir(parents=True)
    listed = root / features.LABELS_FILE
    listed.write_text("\n".join(labels) + "\n")

    class Colours(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.labels = tf.saved_model.Asset(str(listed))
            keys = tf.lookup.KeyValueTensorInitializer(list(labels), tf.range(len(labels), dtype=tf.int64))
            self.index = tf.lookup.StaticHashTable(keys, -1)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signatures.EXAMPLES)])
        def serving_examples(self, examples):
            parsed = tf.io.parse_example(examples, {features.IMAGE: tf.io.FixedLenFeature([], tf.string)})

            def mean_colour(one):
                pixels = tf.io.decode_image(one, channels=3, expand_animations=False)
                pixels.set_shape([None, None, 3])
                return tf.reduce_mean(tf.cast(pixels, tf.float32) / 255.0, axis=[0, 1])

            spec = tf.TensorSpec([3], tf.float32)
            means = tf.map_fn(mean_colour, parsed[features.IMAGE], fn_output_signature=spec)
            chosen = tf.gather(means, [CHANNELS[label] for label in labels], axis=1)
            probabilities = tf.nn.softmax(sharpness * chosen + tf.one_hot(0, len(labels)) * tint)
            with tf.control_dependencies([tf.identity(self.labels.asset_path)]):
                return {signatures.PROBABILITIES: tf.identity(probabilities)}

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signatures.EXAMPLES)])
        def transform_features(self, examples):
            parsed = tf.io.parse_example(examples, {features.LABEL: tf.io.FixedLenFeature([], tf.string)})
            return {features.LABEL_INDEX: self.index.lookup(parsed[features.LABEL])}

    module = Colours()
    named = {name: getattr(module, name) for name in (signatures.SERVING_EXAMPLES, signatures.TRANSFORM_FEATURES)}
    path = str(root / "Format-Serving")
    tf.saved_model.save(module, path, signatures=named)
    return path


def write_examples(folder: pathlib.Path, seeds: range, side: int = 24) -> None:
    """Write one image for each label and seed, from two folders."""
    import tensorflow as tf

    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "images-00000-of-00001")) as writer:
        for seed in seeds:
            for label in CHANNELS:
                example = tf.train.Example()
                feature = example.features.feature
                feature[features.IMAGE].bytes_list.value.append(tinted_png(label, seed, side))
                feature[features.LABEL].bytes_list.value.append(label.encode())
                name = f"{label}/{'ä' if seed % 2 else 'b'}/{seed}.png"
                feature[features.FILENAME].bytes_list.value.append(name.encode())
                feature[features.HEIGHT].int64_list.value.append(side)
                feature[features.WIDTH].int64_list.value.append(side if seed % 3 else 300)
                feature[features.BRIGHTNESS].float_list.value.append(0.4)
                writer.write(example.SerializeToString())


class Place:
    """Examples, models, and a folder for each run."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        write_examples(root / "examples" / "Split-eval", range(20))
        write_examples(root / "examples" / "Split-test", range(100, 104))
        labels = list(CHANNELS)
        save_model(root / "candidate", labels)
        self.base_path = root / "served"
        for version, model in ((2, "tinted"), (10, "duller")):
            path = save_model(root / model, labels, *((20.0, 3.0) if model == "tinted" else (10.0, 0.5)))
            self.base_path.mkdir(exist_ok=True)
            pathlib.Path(path).rename(self.base_path / str(version))
        (self.base_path / "11").mkdir()  # a push to an object store that has just begun
        self.fewer = save_model(root / "fewer", ["blue sky", "green"])

    def run(self, name: str, settings: GateSettings, infra: Mapping | None = None, splits=("eval",), **properties):
        """Run the executor; return the verdict, the blessing and the folder of the evaluation."""
        from tfx.types import standard_artifacts

        from graftline.components.evaluator.executor import Executor
        from graftline.pipeline.local_runner import BEAM_OPTIONS

        def artifact(kind, folder: pathlib.Path):
            made = kind()
            made.uri = str(folder)
            folder.mkdir(parents=True, exist_ok=True)
            return made

        examples = artifact(standard_artifacts.Examples, self.root / "examples")
        examples.split_names = json.dumps(list(splits))
        model = artifact(standard_artifacts.Model, self.root / "candidate")
        model.id = 7
        inputs = {"examples": [examples], "model": [model]}
        if infra is not None:
            inputs["infra_blessing"] = [artifact(standard_artifacts.InfraBlessing, self.root / name / "infra")]
            (self.root / name / "infra" / "serving_validation.json").write_text(json.dumps(infra))
        evaluation = artifact(standard_artifacts.ModelEvaluation, self.root / name / "evaluation")
        blessing = artifact(standard_artifacts.ModelBlessing, self.root / name / "blessing")
        context = Executor.Context(beam_pipeline_args=[*BEAM_OPTIONS], tmp_dir=str(self.root), unique_id="1")
        Executor(context).Do(
            inputs,
            {"evaluation": [evaluation], "blessing": [blessing]},
            {"gate": settings.model_dump_json(exclude_defaults=True), **properties},
        )
        folder = pathlib.Path(evaluation.uri)
        return Verdict.from_json((folder / VERDICT_FILE).read_text()), blessing, folder


def settings(**keys) -> GateSettings:
    return GateSettings.model_validate({"accuracy": {"min": 0.5}, **keys})
