"""Where does each second of a small run go? 180 drawn images of three classes.

    python -m benchmarks.fixed_cost [--weights FILE] [--epochs 2] [--repeats 1]

There are two trunks: MobileNetV2 0.35 at 32 px with random weights, and the default, MobileNetV2 1.0 at 224 px, with
real weights. The second is left out if there is no weights file. The program prints a Markdown table of seconds.
"start" is the time for imports and checks before the first node. "around it" is the rest of the process, before "start"
and after the last node. Each repeat has a new workspace. All figures are printed, and the table holds the medians.
"""

import statistics

from benchmarks import commands
from tests import assets, images

_A_CLASS = 60


def main() -> None:
    """Print every run, then the table."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    default = str(assets.MOBILENET_V2_100) if assets.MOBILENET_V2_100.is_file() else None
    parser.add_argument("--weights", type=commands.existing, default=default, help="of MobileNetV2 1.0, no top")
    parser.add_argument("--epochs", type=int, default=2, help="of each phase")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    epochs = (arguments.epochs, arguments.epochs)
    ways = {"0.35 at 32 px": {**commands.settings("none", 0.35, *epochs), "backbone.input_size": 32}}
    if arguments.weights is not None:
        ways["1.0 at 224 px"] = commands.settings(arguments.weights, 1.0, *epochs)
    columns: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with commands.temporary_folder() as root:
        folder = images.write_folder(root / "images", _A_CLASS)
        for repeat in range(arguments.repeats):
            for number, (way, settings) in enumerate(ways.items()):
                workspace = root / f"workspace-{number}-{repeat}"
                seconds, summary = commands.graftline(folder, workspace, settings)
                stages = {"start": summary["startup_seconds"], **summary["seconds"]}
                stages |= {"around it": seconds - sum(stages.values()), "whole": seconds}
                columns[way].append(stages)
                print(f"{way}: " + ", ".join(f"{stage} {value:.1f}" for stage, value in stages.items()))
    print(f"\n| stage | {' | '.join(ways)} |")
    print("|---" * (len(ways) + 1) + "|")
    for stage in stages:
        medians = (statistics.median(run[stage] for run in runs) for runs in columns.values())
        print(f"| {stage} | {' | '.join(f'{median:.1f}' for median in medians)} |")
    apart = [statistics.median(run["whole"] - run["start"] for run in runs) for runs in columns.values()]
    print(f"| whole after start | {' | '.join(f'{seconds:.1f}' for seconds in apart)} |")
    if len(apart) == 2:
        print(f"\nratio, whole after start, of the second trunk to the first: {apart[1] / apart[0]:.2f}")


if __name__ == "__main__":
    main()
