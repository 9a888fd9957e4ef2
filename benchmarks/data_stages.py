"""What do the stages between ingest and training cost: a fixed time, a time for each image, and memory?

    python -m benchmarks.data_stages [--images DIR] [--times 1 20] [--memory-mb 4 --records 100 300]

The photos of a folder, each so many times cropped anew, are ingested; then a process of its own
takes that from the cache and runs StatisticsGen, SchemaGen, ExampleValidator and Transform, as `graftline run` does.
The seconds of two numbers of images give the fixed part and the images a second above it. Then the same stages on JPEGs
of so many MB, in two numbers: the growth of the peak of memory. `--records` without numbers leaves that out.
"""

import argparse
import json
import pathlib
import re
import sys
import tempfile

from benchmarks import commands
from benchmarks.ingest import copies
from tests import assets, images

_STAGES = {
    "statistics, schema, validation": ("StatisticsGen", "SchemaGen", "ExampleValidator"),
    "Transform": ("Transform",),
}


def run(folder: str, workspace: str, last: str) -> None:
    """Runs in the measured process: as far as the node `last`; prints seconds by node, images and the peak."""
    from absl import logging as absl_logging
    from tfx.orchestration import pipeline as tfx_pipeline
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    from tfx.orchestration.metadata import sqlite_metadata_connection_config

    from graftline.pipeline import config_file, lineage, local_runner
    from graftline.pipeline.dag import create_pipeline
    from graftline.pipeline.site import Site
    from graftline.workspace import Workspace

    settings = ["backbone.weights=none", "data.near_duplicates=null"]  # copies are to stay, and to be split like others
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
    # Not getrusage: its ru_maxrss is that of the process that started this one, when that was larger.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", pathlib.Path("/proc/self/status").read_text(), re.MULTILINE)
    count = nodes["ImageExampleGen"].outputs["quarantine"].properties["examples"]
    print(json.dumps({"seconds": seconds, "images": count, "gib": int(peak) / 2**20}))


def measured(folder: pathlib.Path, workspace: pathlib.Path) -> dict:
    """What `run` says of the stages after ingest, which another process did before."""
    workspace.mkdir()
    code = "import sys; from benchmarks import data_stages; data_stages.run(*sys.argv[1:])"
    commands.timed([sys.executable, "-c", code, folder, workspace, "ImageExampleGen"])
    return commands.timed([sys.executable, "-c", code, folder, workspace, "Transform"])[1]


def write_large(folder: pathlib.Path, count: int, megabytes: float) -> None:
    """JPEGs of few pixels and many bytes, which differ: the rest follows the image's end."""
    for number in range(count):
        label = images.CLASSES[number % len(images.CLASSES)]
        (folder / label).mkdir(parents=True, exist_ok=True)
        image = images.encode(images.draw(label, number))
        (folder / label / f"{number}.jpg").write_bytes(
            image + bytes(int(megabytes * 1e6) - len(image) - 2) + image[-2:]
        )


def main() -> None:
    """Prints a line for each number of images, and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=commands.existing, default=str(assets.FLOWERS))
    parser.add_argument("--times", type=int, nargs=2, default=[1, 20], help="crops of each photo")
    parser.add_argument("--memory-mb", type=float, default=4, help="size of an image")
    parser.add_argument("--records", type=int, nargs="*", default=[100, 300], help="numbers of such images")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="graftline-benchmark-") as name:
        root = pathlib.Path(name)
        found = []
        for times in arguments.times:
            copies(arguments.images, root / f"photos-{times}", times)
            found.append(measured(root / f"photos-{times}", root / f"workspace-{times}"))
            told = ", ".join(f"{node} {seconds:.1f} s" for node, seconds in found[-1]["seconds"].items())
            print(f"{found[-1]['images']:,} photos: {told}; peak {found[-1]['gib']:.2f} GiB", flush=True)
        few, many = found
        for stage, nodes in _STAGES.items():
            first, second = (sum(each["seconds"][node] for node in nodes) for each in found)
            each_image = (second - first) / (many["images"] - few["images"])
            rate = f"{1 / each_image:,.0f} images a second" if each_image > 0 else "nothing for an image"
            print(f"{stage}: {first - few['images'] * max(each_image, 0):.1f} s and {rate}", flush=True)
        least = None
        for count in arguments.records:
            write_large(root / f"large-{count}", count, arguments.memory_mb)
            large = measured(root / f"large-{count}", root / f"workspace-large-{count}")
            least = least or large["gib"]
            print(
                f"{large['images']:,} images of {arguments.memory_mb:g} MB: peak {large['gib']:.2f} GiB, "
                f"{large['gib'] / least:.2f} times the first's",
                flush=True,
            )


if __name__ == "__main__":
    main()
