"""The DAG stays readable: one screen, and one comment for each node."""

import inspect

from graftline.pipeline import dag


def test_the_dag_fits_on_one_screen() -> None:
    assert len(inspect.getsource(dag).splitlines()) <= 130
