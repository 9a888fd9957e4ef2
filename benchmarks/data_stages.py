"""What do the stages between ingest and training cost? A fixed time, a time for each image, and memory.

    python -m benchmarks.data_stages [--images DIR] [--times 1 20] [--memory-mb 4 --records 100 300]

Crops of the photos of a folder, `--times` of each photo, are ingested. Then a new process takes the result from the
cache and runs StatisticsGen, SchemaGen, ExampleValidator and Transform, as `graftline run` does. The seconds of two
numbers of images give the fixed time and the images a second above it. The same stages then run on JPEGs of
`--memory-mb` MB, for two numbers of images: this shows how the peak of memory grows. `--records` without numbers leaves
this part out.
"""

import json
import pathlib

from benchmarks import commands
from benchmarks.ingest import copies
from tests import images

_STAGES = {
    "statistics, schema, validation": ("StatisticsGen", "SchemaGen", "ExampleValidator"),
    "Transform": ("Transform",),
}


def run(folder: str, workspace: str, last: str) -> None:
    """Run the pipeline up to the node `last`, in the measured process; print its seconds, images and peak memory."""
    from absl import logging as absl_logging
    from tfx.orchestration import pipeline as tfx_pipeline
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    from tfx.orchestration.metadata import sqlite_metadata_connection_config

    from graftline.pipeline import config_file, lineage, local_runner
    from graftline.pipeline.dag import create_pipeline
    from graftline.pipeline.site import Site
    from graftline.workspace import Workspace

    settings = ["backbone.weights=none", "data.near_duplicates=null"]  # near copies are split like other images
    pipeline = create_pipeline(
        config_file.load(None, settings, {"images": folder, "workspace": workspace}),
        Site(Workspace(workspace), fingerprint=folder, readable=True),
        beam_pipeline_args=[*local_runner.BEAM_OPTIONS],
        metadata_connection_config=sqlite_metadata_connection_config(f"{workspace}/metadata.db"),
    )
    absl_logging.set_verbosity(absl_logging.INFO)
    with local_runner.watched(absl_logging.get_absl_logger(), lambda event: None) as seconds:
        LocalDagRunner().run(pipeline, run_options=tfx_pipeline.RunOptions(to_nodes=[last]))
    _, nodes = lineage.latest_run(lineage.connect(f"{workspace}/metadata.db"))
    count = nodes["ImageExampleGen"].outputs["quarantine"].properties["examples"]
    print(json.dumps({"seconds": seconds, "images": count, "gib": commands.peak_gib()}))


def measured(folder: pathlib.Path, workspace: pathlib.Path) -> dict:
    """Ingest in one process; return what `run` prints of the later stages in another process."""
    workspace.mkdir()
    commands.in_process(run, folder, workspace, "ImageExampleGen")
    return commands.in_process(run, folder, workspace, "Transform")


def write_large(folder: pathlib.Path, count: int, megabytes: float) -> None:
    """Write different JPEGs of few pixels and many bytes: padding stands before the end marker."""
    for number in range(count):
        label = images.CLASSES[number % len(images.CLASSES)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        image = images.encode(images.draw(label, number))
        padding = bytes(int(megabytes * 1e6) - len(image) - 2)
        (folder / label / f"{number}.jpg").write_bytes(image + padding + image[-2:])


def main() -> None:
    """Print a line for each number of images, then the fixed time and the rate."""
    parser = commands.parser(__doc__, trunk=False)
    parser.add_argument("--times", type=int, nargs=2, default=[1, 20], help="crops of each photo")
    parser.add_argument("--memory-mb", type=float, default=4, help="size of an image")
    parser.add_argument("--records", type=int, nargs="*", default=[100, 300], help="numbers of such images")
    arguments = parser.parse_args()
    with commands.temporary_folder() as root:
        results = []
        for times in arguments.times:
            copies(arguments.images, root / f"photos-{times}", times)
            results.append(measured(root / f"photos-{times}", root / f"workspace-{times}"))
            stages = ", ".join(f"{node} {seconds:.1f} s" for node, seconds in results[-1]["seconds"].items())
            print(f"{results[-1]['images']:,} photos: {stages}; peak {results[-1]['gib']:.2f} GiB")
        few, many = results
        for stage, nodes in _STAGES.items():
            first, second = (sum(each["seconds"][node] for node in nodes) for each in results)
            each_image = (second - first) / (many["images"] - few["images"])
            rate = f"{1 / each_image:,.0f} images a second" if each_image > 0 else "nothing for an image"
            print(f"{stage}: {first - few['images'] * max(each_image, 0):.1f} s and {rate}")
        least = None
        for count in arguments.records:
            write_large(root / f"large-{count}", count, arguments.memory_mb)
            large = measured(root / f"large-{count}", root / f"workspace-large-{count}")
            least = least or large["gib"]
            print(
                f"{large['images']:,} images of {arguments.memory_mb:g} MB: peak {large['gib']:.2f} GiB, "
                f"{large['gib'] / least:.2f} times the first's"
            )


if __name__ == "__main__":
    main()
