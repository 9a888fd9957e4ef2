"""What `feature_extraction.solver_options` takes. Imports no Keras and no scikit-learn."""

from typing import Annotated, Any

from pydantic import Field

from graftline.errors import did_you_mean
from graftline.settings import check_value

_Positive = Annotated[float, Field(gt=0)]
# The keys of `solver_options`, in scikit-learn's names, and the types of their values.
_TYPES: dict[str, Any] = {"C": _Positive, "tol": _Positive, "max_iter": Annotated[int, Field(ge=1)]}
# Their values for each solver, where the user gives none: stricter, or with more iterations, than scikit-learn's own.
DEFAULTS: dict[str, dict[str, Any]] = {
    "logistic_regression": {"C": 1.0, "tol": 1e-6, "max_iter": 2000},
    "linear_svm": {"C": 1.0, "tol": 1e-4, "max_iter": 20000},
}


def check_options(options: dict[str, Any], solver: str) -> dict[str, Any]:
    """Return the options with their types; raise ValueError, whose message says what they must be."""
    if options and solver == "gradient":
        raise ValueError("empty, because solver is gradient, which takes optimizer_options")
    checked = {}
    for key, value in options.items():
        if key not in _TYPES:
            raise ValueError(f"made of {', '.join(_TYPES)}{did_you_mean(str(key), list(_TYPES))}")
        checked[key] = check_value(key, value, _TYPES[key])
    return checked
