"""Let coverage guide malformed bytes into the parsers that are written in Python, by atheris.

    python -m tests.serving.oracle.coverage SECONDS [PARSER]

Without a PARSER each gets its share of the seconds, in a process of its own. libFuzzer keeps an input that raises what
it should not, or takes over 5 s, in `fuzz-failures/`. atheris is not among the pinned packages: version 3 has no wheel
for Python 3.10, so `uv pip install 'atheris<3'`. Without it nothing is run.
"""

import importlib.util
import pathlib
import subprocess
import sys
from collections.abc import Callable

_FOLDER = "fuzz-failures"
_LARGEST = 1 << 16  # bytes of an input
_PARSERS = ("image", "json", "examples", "gzip")


def _parser(name: str) -> Callable[[bytes], object]:
    """Return a function that raises only when a parser is at fault."""
    import atheris

    with atheris.instrument_imports(include=["graftline.serving.images", "graftline.serving.server.http"]):
        from graftline.serving.images import trust
        from graftline.serving.server.errors import ServingError
        from graftline.serving.server.http import json_documents, json_examples, rest

    def parse(data: bytes) -> object:
        try:
            if name == "gzip":
                return rest.gunzip(data, 1 << 20)
            document = json_documents.parse(data)
            return json_examples.read_examples(document) if name == "examples" else document
        except ServingError:
            return None

    return trust.judge if name == "image" else parse


def _seeds(name: str) -> list[bytes]:
    import gzip

    from tests.serving.oracle import image_cases

    document = b'{"signature_name": "", "examples": [{"x": [1, 2.5], "y": {"b64": "AAAA"}, "z": "text"}]}'
    if name == "image":
        return [image_cases.encoded(each) for each in ("JPEG progressive", "PNG", "GIF animated", "BMP", "TIFF")]
    return [gzip.compress(document)] if name == "gzip" else [document]


def _fuzz(name: str, seconds: int) -> None:
    import atheris

    parse = _parser(name)
    corpus = pathlib.Path(_FOLDER, "corpus", name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(_seeds(name)):
        (corpus / str(number)).write_bytes(seed)
    limits = [f"-max_total_time={seconds}", f"-max_len={_LARGEST}", "-timeout=5", "-print_final_stats=1"]
    atheris.Setup(["fuzz", *limits, f"-artifact_prefix={_FOLDER}/{name}-", str(corpus)], parse)
    atheris.Fuzz()


def main() -> None:
    """Run one parser, or all of them in turn; the status is 1 when one is at fault."""
    seconds, *names = sys.argv[1:]
    if importlib.util.find_spec("atheris") is None:
        sys.stderr.write("atheris is not installed, so the parsers are not fuzzed: uv pip install 'atheris<3'\n")
        return
    if names:
        _fuzz(names[0], int(seconds))
        return
    command = [sys.executable, "-m", "tests.serving.oracle.coverage", str(int(seconds) // len(_PARSERS))]
    statuses = [subprocess.run([*command, name], check=False).returncode for name in _PARSERS]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main()
