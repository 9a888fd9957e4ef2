"""Does the whole pipeline's memory grow with the number of photos of 12 megapixels?

    python -m benchmarks.large_photos [--counts 150 300] [--images DIR] [--weights FILE] [--alpha 1.0]

Photos are enlarged to 4,000 x 3,000 pixels, no two alike, and saved as JPEGs of some megabytes. For each count
`graftline run` goes through every stage in its own process, with an epoch in each phase. The program prints the peak
memory of that process or of its largest child process, and the seconds of each stage.
"""

import pathlib
import resource

from benchmarks import commands
from graftline.components.image_example_gen.scan import scan


def enlarge(images: pathlib.Path, to: pathlib.Path, count: int) -> None:
    """Write photos of 12 megapixels, taking the classes in turn."""
    from PIL import Image

    paths = [path for path, *_ in scan(images).files]
    step = max(1, len(paths) // count)
    for number, path in enumerate(paths[::step][:count]):
        place = to / pathlib.Path(path).parent
        place.mkdir(parents=True, exist_ok=True)
        with Image.open(images / path) as image:
            large = image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        large.save(place / f"{number}.jpg", quality=95)


def main() -> None:
    """Print a line for each count."""
    parser = commands.parser(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[150, 300], help="photos, the fewest first")
    arguments = parser.parse_args()
    settings = commands.settings(arguments.weights, arguments.alpha, 1, 1)
    first = 0.0
    with commands.temporary_folder() as root:
        for count in arguments.counts:
            images = root / f"photos-{count}"
            enlarge(arguments.images, images, count)
            size = sum(path.stat().st_size for path in images.rglob("*.jpg"))
            _, summary = commands.graftline(images, root / f"workspace-{count}", settings)
            # The largest child so far. It is the last one if memory grows; if not, the figure stays the same.
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            first = first or peak
            stages = ", ".join(f"{node} {seconds:.1f}" for node, seconds in summary["seconds"].items())
            print(
                f"{summary['examples']} photos of 12 megapixels, {size / 1e6:.0f} MB: {peak:.2f} GiB, "
                f"{peak / first:.2f} times the first's; {stages} s"
            )


if __name__ == "__main__":
    main()
