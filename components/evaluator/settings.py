"""What a user can set about the gate: the config's section `gate`. Imports no TFX and no numpy.

`pipeline.config` puts it into the one typed config; the DAG hands it to the Evaluator as JSON.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from graftline.errors import UserError, did_you_mean
from graftline.settings import Settings

Dimension = Literal["class", "folder", "size", "brightness"]
CLASS, FOLDER, SIZE, BRIGHTNESS = DIMENSIONS = get_args(Dimension)

# The values of the dimensions that are measured, with the bound under which an image has each. They are fixed, so that
# a slice means the same in every run.
BUCKETS: dict[str, dict[str, float]] = {
    SIZE: {"tiny": 65, "small": 257, "medium": 1025, "large": float("inf")},  # pixels of the longer side
    BRIGHTNESS: {"dark": 0.25, "normal": 0.75, "bright": float("inf")},  # mean luma, 0..1
}


class Threshold(Settings):
    """Bounds of one metric that lies between 0 and 1."""

    min: float | None = Field(None, ge=0, le=1, description="the least value that is blessed")
    max: float | None = Field(None, ge=0, le=1, description="the greatest value that is blessed")
    min_change: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="how much better than the served model it must be, on the same examples; negative allows that loss",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> "Threshold":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("with a min that is not above max, or nothing is blessed")
        return self


class LossThreshold(Threshold):
    """Bounds of one metric from 0 up without end, of which less is better."""

    min: float | None = Field(None, ge=0, description="the least value that is blessed")
    max: float | None = Field(None, ge=0, description="the greatest value that is blessed")
    min_change: float | None = Field(
        None,
        description="how much less than the served model's it must be, on the same examples; negative allows that loss",
    )


def _share(about: str) -> Threshold | None:
    return Field(None, description=about)


class _Thresholds(Settings):
    """The metrics that any set of images has."""

    accuracy: Threshold | None = _share("share of the images whose best class is the right one")
    top_2_accuracy: Threshold | None = _share("share whose right class is among the best 2")
    top_3_accuracy: Threshold | None = _share("among the best 3")
    top_5_accuracy: Threshold | None = _share("among the best 5")
    top_10_accuracy: Threshold | None = _share("among the best 10")
    auc: Threshold | None = _share(
        "area under the ROC curve of each class against the rest, the mean of the classes (of one class: its own)"
    )
    expected_calibration_error: Threshold | None = _share(
        "how far confidence and accuracy lie apart, the mean over 15 bins of confidence; less is better"
    )
    cross_entropy: LossThreshold | None = Field(
        None, description="mean of -log of the right class's probability; less is better"
    )

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """The thresholds by metric, of those metrics that have one."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: threshold
            for name, threshold in found.items()
            if isinstance(threshold, Threshold) and threshold != type(threshold)()
        }


class SliceThresholds(_Thresholds):
    """What the images of one slice must reach, for example those of one class."""

    recall: Threshold | None = _share("of a class: share of its images that are found; its accuracy")
    precision: Threshold | None = _share("of a class: share of the images called so that are of it")
    f1: Threshold | None = _share("of a class: harmonic mean of precision and recall")
    min_examples: int | None = Field(None, ge=1, description="with fewer images it is not judged; 10 when null")


class DimensionThresholds(SliceThresholds):
    """What each slice of a dimension must reach, and `values` what single ones must reach beside it."""

    values: dict[str, SliceThresholds] = Field(
        {}, description="thresholds of single values, such as one class; they go before those of all"
    )


PER_CLASS = ("recall", "precision", "f1")
MIN_EXAMPLES_OF_A_SLICE = 10  # where `min_examples` says nothing


class GateSettings(_Thresholds):
    """What a model must reach on the eval split to be pushed: thresholds of each metric; null is none."""

    macro_precision: Threshold | None = _share("precision of each class, the mean of the classes")
    macro_recall: Threshold | None = _share("recall of each class, the mean of the classes")
    macro_f1: Threshold | None = _share("F1 of each class, the mean of the classes")
    min_examples: int = Field(1, ge=1, description="with fewer images to judge by, no model is blessed")
    tie: Literal["bless", "refuse"] = Field(
        "bless",
        description="bless or refuse a model whose change is exactly its min_change; with significance also one whose "
        "change is not significant",
    )
    significance: Literal["off"] | Annotated[float, Field(ge=0.001, le=0.5)] = Field(
        "off",
        description="the level, such as 0.05, at which a change from the served model must be significant to count as "
        "a gain or as a loss; off takes each as it is",
    )
    slices: dict[Dimension, DimensionThresholds] = Field(
        {},
        description="thresholds for each class, source folder, size (tiny to 64 px of the longer side, small to 256, "
        "medium to 1024, large) or brightness (dark under 0.25, normal, bright from 0.75), such as {class: {recall: "
        "{min: 0.6}, values: {rose: {recall: {min: 0.9}}}}}",
    )

    @field_validator("slices")
    @classmethod
    def _known(cls, slices: dict[Dimension, DimensionThresholds]) -> dict[Dimension, DimensionThresholds]:
        for dimension, of_each in slices.items():
            for value, thresholds in [("", of_each), *of_each.values.items()]:
                where = f"{dimension}.values.{value}" if value else dimension
                for metric in PER_CLASS if dimension != CLASS else ():
                    if metric in thresholds.thresholds:
                        raise ValueError(f"without {where}.{metric}: only the slices of class have a {metric}")
                if value and value not in (known := list(BUCKETS.get(dimension, {value: 0}))):
                    raise ValueError(f"without {where}: its values are {', '.join(known)}{did_you_mean(value, known)}")
        return slices

    @model_validator(mode="after")
    def _can_decide(self) -> "GateSettings":
        if all(threshold.min is None and threshold.max is None for threshold in self.thresholds.values()):
            # With none nothing would be judged; with changes alone any first model would be blessed.
            raise ValueError(
                "at least one min or max, for example gate.accuracy.min=0.5: without one nothing judges a first model"
            )
        return self

    @property
    def alpha(self) -> float | None:
        """The level of significance that is asked for, None for off."""
        return None if self.significance == "off" else self.significance


def check_classes(settings: GateSettings, classes: Sequence[str]) -> None:
    """Raises UserError where `gate.slices.class.values` names a class that is not there."""
    for value in settings.slices[CLASS].values if CLASS in settings.slices else ():
        if value not in classes:
            near = did_you_mean(value, list(classes)) or f"; there are {', '.join(classes[:10])}"
            raise UserError(f"gate.slices.class.values names the class '{value}', which is not there{near}")


def check_folders(settings: GateSettings, folders: Collection[str]) -> None:
    """Raises UserError where `gate.slices.folder.values` names a folder without an image to judge by.

    Args:
      settings: the gate's.
      folders: of the images that may come to judge, as the slices are called: relative to the root of all, "." for
        that itself.
    """
    for value in settings.slices[FOLDER].values if FOLDER in settings.slices else ():
        if value not in folders:
            raise UserError(
                f"gate.slices.folder.values names the folder '{value}', but no image to judge by lies in a folder of "
                f"that name{near_folder(value, folders)}"
            )


def near_folder(name: str, folders: Collection[str]) -> str:
    """What to say behind a folder's name that is none of these: the nearest, else some that there are."""
    known = sorted(folders)
    if not known:
        return ""
    ending = [folder for folder in known if folder.endswith(f"/{name.strip('/')}")]  # its parent was left out
    if ending:
        return f"; did you mean '{ending[0]}'?"
    return did_you_mean(name, known) or f"; there are {', '.join(known[:10])}"


def always_one(settings: GateSettings, classes: int) -> Iterator[str]:
    """The keys of thresholds whose metric is 1 whatever a model of so many classes says: top_k with as great a k."""
    of_all: list[tuple[str, _Thresholds]] = [("gate", settings)]
    for dimension, of_each in settings.slices.items():
        of_all.append((f"gate.slices.{dimension}", of_each))
        of_all += [(f"gate.slices.{dimension}.values.{name}", own) for name, own in of_each.values.items()]
    for key, section in of_all:
        for metric in section.thresholds:
            if metric.startswith("top_") and int(metric.split("_")[1]) >= classes:
                yield f"{key}.{metric}"
