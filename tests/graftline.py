"""`python -m tests.graftline`: the command `graftline` of these sources, also where none is installed."""

from graftline.pipeline.cli import main

if __name__ == "__main__":
    main(prog_name="graftline")
