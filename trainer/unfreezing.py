"""The rules about `fine_tuning.unfreeze_from`, the key that says which layers of the trunk phase 2 trains.

-30 means the last 30 layers, 149 all from index 149, a layer's name all from that layer. "all" and "none" are words.
"auto" is the backbone's landmark: the layer where its last stage begins.
`pipeline.preflight` calls `check`, and `trainer.models` calls `first_layer`. Imports no Keras.
"""

import difflib
from collections.abc import Sequence

from graftline.errors import UserError
from graftline.trainer.settings import FeatureExtractionSettings, FineTuningSettings

KEY = "fine_tuning.unfreeze_from"


def check(feature_extraction: FeatureExtractionSettings, fine_tuning: FineTuningSettings) -> None:
    """Raise UserError if the phases train nothing, or the value cannot mean a layer of any trunk."""
    if feature_extraction.epochs == fine_tuning.epochs == 0:
        raise UserError("feature_extraction.epochs and fine_tuning.epochs are both 0: nothing would be trained")
    unfreeze_from = fine_tuning.unfreeze_from
    if feature_extraction.epochs == 0 and unfreeze_from == "none":
        raise UserError(f"feature_extraction.epochs is 0 and {KEY} is none: nothing would be trained")
    if isinstance(unfreeze_from, str):
        if not unfreeze_from.strip():
            raise UserError(f"{KEY} is empty; give auto, a layer's name, an index such as -30, all, or none")
        if unfreeze_from.lstrip("+-").isdigit():
            raise UserError(f"{KEY} is the text '{unfreeze_from}'; write an index without quotes: {unfreeze_from}")


def warn(fine_tuning: FineTuningSettings) -> list[str]:
    """Return a sentence when the value is allowed but rarely intended."""
    skipped = fine_tuning.epochs > 0 and fine_tuning.unfreeze_from == "none"
    return [f"{KEY} is none: the second phase is skipped"] if skipped else []


def name_near_layers(name: str, names: Sequence[str]) -> str:
    """Return a hint for a layer that a trunk does not have: the layers of the nearest names, and its last ones."""
    by_lower_case = {known.lower(): known for known in names}
    near = [by_lower_case[key] for key in difflib.get_close_matches(name.lower(), list(by_lower_case), n=3)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{hint} (its last: {', '.join(names[-3:])})"


def first_layer(unfreeze_from: int | str, names: Sequence[str], trunk: str, landmark: str | None = None) -> int:
    """Return the index of the lowest layer to unfreeze among the trunk's layers; their number for none.

    `landmark` is what "auto" means. A trunk that `head.cut_at` ends below it is unfrozen from its last 30 layers on.
    Raise UserError if there is no such layer; the message names the trunk and the nearest layer.
    """
    count = len(names)
    if unfreeze_from == "auto":
        if landmark is None:
            raise ValueError("auto means the landmark of a backbone, and none is given")
        unfreeze_from = landmark if landmark in names else -30
    if unfreeze_from in ("all", "none"):
        return 0 if unfreeze_from == "all" else count
    if isinstance(unfreeze_from, int):
        if unfreeze_from >= count:
            raise UserError(
                f"{KEY}: {unfreeze_from} is out of range: {trunk} has {count} layers, "
                f"so give at most {count - 1}, a layer's name, all or none"
            )
        return max(unfreeze_from + count, 0) if unfreeze_from < 0 else unfreeze_from  # the last 30 of 19 are all 19
    if unfreeze_from not in names:
        raise UserError(f"{KEY}: {trunk} has no layer '{unfreeze_from}'{name_near_layers(unfreeze_from, names)}")
    return names.index(unfreeze_from)
