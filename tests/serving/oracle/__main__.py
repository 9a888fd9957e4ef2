"""Try to make the server pay too much, for as long as asked.

    python -m tests.serving.oracle [--seconds 300] [--seed N] [--first N] [--count N] [--most BYTES] [--kinds json …]

Prints each case that fails, with its seed and number, and keeps its bytes in `--keep`. To repeat one, give the same
`--seed`, `--most` and `--kinds`, `--first` its number, and `--count 1`. `tests.serving.oracle.judge` has the limits.
"""

import argparse
import itertools
import pathlib
import random
import sys
import tempfile
import time

from tests.saved_models import save_colour_model, save_float_model
from tests.serving.oracle.judge import KINDS, Oracle, keep, make_case


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run; the status is 1 when a case has failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--most", type=int, default=60 << 20, help="bytes of a case, after decompression")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("fuzz-failures"))
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.seconds
    _print(f"seed {arguments.seed}")
    failed = done = 0
    with tempfile.TemporaryDirectory() as name:
        save_colour_model(f"{name}/models/colours/3")
        save_float_model(f"{name}/models/numbers/1")
        with Oracle(name) as oracle:
            for number in itertools.count(arguments.first):
                if time.monotonic() > until or done == arguments.count:
                    break
                case = make_case(arguments.seed, number, arguments.most, tuple(arguments.kinds))
                done += 1
                if faults := oracle.judge(case):
                    failed += 1
                    path = keep(arguments.keep, case, arguments.seed, number, faults)
                    _print(f"FAILED --seed {arguments.seed} --first {number}: {case.name}, kept as {path}")
                    _print("".join(f"    {fault}\n" for fault in faults).rstrip())
            share = "memory {memory:.2f}, processor seconds {seconds:.2f}".format(**oracle.most)
            _print(f"{done} cases, {failed} failed; at most used of their limits: {share}; answers {oracle.answers}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
