"""Does a server stay as it is? Send 200,000 requests during 20 hot swaps, and print what it holds after each swap.

    python -m benchmarks.soak [--requests 200000] [--swaps 20]

Three processes send Predict over REST and gRPC in turn, and one malformed request in fifty. The server has a process
of its own and serves a small model, whose versions are published while requests arrive. After each swap the clients
pause, and the program prints the resident memory (with child processes), the threads and the descriptors of the server.
From the second quarter on a straight line is laid through each: memory is flat when the line rises by at most 5 %,
threads and descriptors when it rises by less than one. A good request must not fail.
"""

import sys

from benchmarks import commands
from tests.serving.oracle.gauge import load
from tests.serving.oracle.soak import growth, soak

_MIB = 1 << 20
_MEMORY_GROWTH = 0.05


def main() -> None:
    """Print the curve and the verdict; the status is 1 when something grew, or when a good request failed."""
    parser = commands.parser(__doc__, images=False, trunk=False)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--swaps", type=int, default=20)
    arguments = parser.parse_args()
    samples = []
    print("requests  version  memory MiB  threads  descriptors  failed  requests/s")
    with commands.temporary_folder() as folder:
        for sample in soak(folder, arguments.requests, arguments.swaps):
            rate = (sample.requests - (samples[-1].requests if samples else 0)) / sample.seconds
            samples.append(sample)
            print(
                f"{sample.requests:8,} {sample.version:8} {sample.memory / _MIB:11.1f} {sample.threads:8} "
                f"{sample.descriptors:12} {sample.failed:7} {rate:11.0f} {sample.fault}"
            )
    memory = growth([sample.memory for sample in samples])
    share = memory / samples[len(samples) // 4].memory
    threads = growth([sample.threads for sample in samples])
    descriptors = growth([sample.descriptors for sample in samples])
    failed = sum(sample.failed for sample in samples)
    flat = share <= _MEMORY_GROWTH and threads < 1 and descriptors < 1
    print(f"from the second quarter on: memory {memory / _MIB:+.1f} MiB ({100 * share:+.1f} %), ", end="")
    print(f"threads {threads:+.1f}, descriptors {descriptors:+.1f}: {'flat' if flat else 'NOT FLAT'}; ", end="")
    print(f"{failed} good requests failed; load {load()}")
    sys.exit(not flat or failed > 0)


if __name__ == "__main__":
    main()
