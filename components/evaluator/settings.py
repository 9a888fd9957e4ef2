"""The config's section `gate`. Imports no TFX and no numpy.

`pipeline.config` has it as a section; the DAG passes it to the Evaluator as JSON.
"""

import math
import statistics
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from graftline import lookalikes
from graftline.errors import UserError, did_you_mean
from graftline.settings import Settings

MAJORITY = "majority"  # a value of `gate.accuracy.min`
MAJORITY_LEAST = 0.5  # with many classes, a poor model is better than the most frequent one, too
# Of its interval, whatever `gate.significance` is: a model that guesses passes about once in 40 trainings.
MAJORITY_LEVEL = 0.95

Dimension = Literal["class", "folder", "size", "brightness"]
CLASS, FOLDER, SIZE, BRIGHTNESS = DIMENSIONS = get_args(Dimension)

# The values of the measured dimensions, each with its upper bound (exclusive). They are fixed, so that a slice means
# the same in every run.
BUCKETS: dict[str, dict[str, float]] = {
    SIZE: {"tiny": 65, "small": 257, "medium": 1025, "large": float("inf")},  # pixels of the longer side
    BRIGHTNESS: {"dark": 0.25, "normal": 0.75, "bright": float("inf")},  # mean luma, 0..1
}


class Threshold(Settings):
    """Bounds of one metric that lies between 0 and 1."""

    min: float | None = Field(None, ge=0, le=1, description="the lowest value that passes")
    max: float | None = Field(None, ge=0, le=1, description="the highest value that passes")
    min_change: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="how much better than the served model it must be, on the same images; negative allows a loss",
    )

    @property
    def lowest(self) -> float | None:
        """Return the lowest value that passes."""
        return self.min

    @property
    def above_majority(self) -> bool:
        """Return whether the accuracy must be more than that of always answering the most frequent class."""
        return False

    @model_validator(mode="after")
    def _not_empty(self) -> "Threshold":
        if self.lowest is not None and self.max is not None and self.lowest > self.max:
            raise ValueError("a range whose min is not above its max, or no model passes")
        return self


class AccuracyThreshold(Threshold):
    """Bounds of the accuracy on all images."""

    min: Annotated[float, Field(ge=0, le=1)] | Literal["majority"] | None = Field(  # type: ignore[assignment]
        None,
        description="the lowest value that passes; majority: at least 0.5, and the 95 % interval of the accuracy must "
        "lie above the accuracy of always answering the most frequent class",
    )

    @property
    def lowest(self) -> float | None:
        """Return `min`; the lowest accuracy that `majority` allows."""
        return MAJORITY_LEAST if isinstance(self.min, str) else self.min

    @property
    def above_majority(self) -> bool:
        """Return whether `min` is `majority`."""
        return self.min == MAJORITY


class LossThreshold(Threshold):
    """Bounds of one metric that has no upper limit and of which less is better."""

    min: float | None = Field(None, ge=0, description="the lowest value that passes")
    max: float | None = Field(None, ge=0, description="the highest value that passes")
    min_change: float | None = Field(
        None,
        description="how much lower than the served model's it must be, on the same images; negative allows a higher "
        "one",
    )


def _threshold(description: str) -> Threshold | None:
    return Field(None, description=description)


class _Thresholds(Settings):
    """Thresholds for the metrics that are defined for any set of images."""

    accuracy: Threshold | None = _threshold("share of the images whose most likely class is the right one")
    top_2_accuracy: Threshold | None = _threshold("share whose right class is among the 2 most likely")
    top_3_accuracy: Threshold | None = _threshold("share whose right class is among the 3 most likely")
    top_5_accuracy: Threshold | None = _threshold("share whose right class is among the 5 most likely")
    top_10_accuracy: Threshold | None = _threshold("share whose right class is among the 10 most likely")
    auc: Threshold | None = _threshold(
        "area under the ROC curve of each class against the rest, the mean of the classes; of one class in its slice"
    )
    expected_calibration_error: Threshold | None = _threshold(
        "distance between confidence and accuracy, as the mean over 15 bins of confidence; less is better"
    )
    cross_entropy: LossThreshold | None = Field(
        None, description="mean of -log of the right class's probability; less is better"
    )

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Return the thresholds that are set, by metric."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value for name, value in values.items() if isinstance(value, Threshold) and value != type(value)()
        }


class SliceThresholds(_Thresholds):
    """Thresholds for the images of one slice, for example of one class."""

    recall: Threshold | None = _threshold("of a class: share of its images that are classified as it; its accuracy")
    precision: Threshold | None = _threshold("of a class: share of the images classified as it that belong to it")
    f1: Threshold | None = _threshold("of a class: harmonic mean of precision and recall")
    min_examples: int | None = Field(None, ge=1, description="a slice with fewer images is not judged; null: 10")


class DimensionThresholds(SliceThresholds):
    """Thresholds for every slice of a dimension, and in `values` those of single slices."""

    values: dict[str, SliceThresholds] = Field(
        {}, description="thresholds of single values, such as one class; they replace those of all values"
    )


PER_CLASS = ("recall", "precision", "f1")
MIN_EXAMPLES_OF_A_SLICE = 10  # where `min_examples` is null


class GateSettings(_Thresholds):
    """The thresholds that a model must meet on the eval split to be pushed; a metric that is null has none."""

    accuracy: AccuracyThreshold | None = Field(
        None,
        description="share of the images whose most likely class is the right one; {min: majority, min_change: 0} if "
        "the config does not name it",
    )
    macro_precision: Threshold | None = _threshold("mean of the classes' precision")
    macro_recall: Threshold | None = _threshold("mean of the classes' recall")
    macro_f1: Threshold | None = _threshold("mean of the classes' F1")
    min_examples: int = Field(1, ge=1, description="with fewer images to judge on, no model is blessed")
    tie: Literal["bless", "refuse"] = Field(
        "bless",
        description="bless or refuse a model whose change is exactly min_change or, with significance, not significant",
    )
    significance: Literal["off"] | Annotated[float, Field(ge=0.001, le=0.5)] = Field(
        "off",
        description="the level, such as 0.05, at which a change from the served model must be significant to count; "
        "off: every change counts",
    )
    slices: dict[Dimension, DimensionThresholds] = Field(
        {},
        description="thresholds for each class, source folder, size (tiny: longer side up to 64 px, small: to 256, "
        "medium: to 1024, large) or brightness (dark: under 0.25, normal, bright: from 0.75), such as {class: {recall: "
        "{min: 0.6}, values: {rose: {recall: {min: 0.9}}}}}",
    )

    @field_validator("slices")
    @classmethod
    def _require_known_names(cls, slices: dict[Dimension, DimensionThresholds]) -> dict[Dimension, DimensionThresholds]:
        for dimension, common in slices.items():
            for value, thresholds in [("", common), *common.values.items()]:
                where = f"{dimension}.values.{value}" if value else dimension
                for metric in PER_CLASS if dimension != CLASS else ():
                    if metric in thresholds.thresholds:
                        raise ValueError(f"without {where}.{metric}: only the slices of class have a {metric}")
                if value and value not in (names := list(BUCKETS.get(dimension, {value: 0}))):
                    raise ValueError(f"without {where}: its values are {', '.join(names)}{did_you_mean(value, names)}")
        return slices

    @model_validator(mode="after")
    def _require_value_threshold(self) -> "GateSettings":
        if all(threshold.min is None and threshold.max is None for threshold in self.thresholds.values()):
            raise ValueError(
                "at least one min or max, for example gate.accuracy.min=majority: without one every first model is "
                "blessed"
            )
        return self

    @property
    def alpha(self) -> float | None:
        """Return the level of significance; None for off."""
        return None if self.significance == "off" else self.significance


def images_needed(accuracy: float, share: float) -> int:
    """Return the smallest number of images on which `accuracy` is shown to be more than a `share` below it.

    The lower end of Wilson's interval lies above a share s exactly when the score test rejects s, that is when
    n > z² s (1 - s) / (accuracy - s)² for n images. A model without a mistake needs 4 images where two classes have the
    same share, and 35 where one class has 90 % of the images.
    """
    z = statistics.NormalDist().inv_cdf((1 + MAJORITY_LEVEL) / 2)
    return math.floor(z * z * share * (1 - share) / (accuracy - share) ** 2) + 1


def warn_of_few_images(settings: GateSettings, images: float, share: float) -> Iterator[str]:
    """Yield a note if even a model without a mistake cannot pass on about so many images to judge on.

    `share` is that of the most frequent class.
    """
    if settings.accuracy is None or not settings.accuracy.above_majority or share >= 1:
        return
    if images < (needed := images_needed(1.0, share)):
        yield (
            f"about {images:,.0f} images are held back to judge the model: by gate.accuracy.min={MAJORITY} no model "
            f"can pass on fewer than {needed:,}, because {share:.0%} of them are of one class: add images, or set "
            "gate.accuracy.min to a number"
        )


def explain_other_classes(classes: Sequence[str], served_classes: Sequence[str]) -> str:
    """Return why a model cannot take the place of the served one: they share no class; "" if they do."""
    if set(classes) & set(served_classes):
        return ""
    return (
        f"it knows none of the classes {_listed(classes)}: its classes are {_listed(served_classes)}"
        f"{describe_lookalikes(classes, served_classes)}"
    )


def describe_lookalikes(classes: Sequence[str], served_classes: Sequence[str]) -> str:
    """Return a clause on new classes that look like classes of the served model and are others; "" for none."""
    pairs = [
        f"{lookalikes.show(ours)} and {lookalikes.show(theirs)}"
        for ours, theirs in lookalikes.match(classes, served_classes)
    ]
    if not pairs:
        return ""
    return f"; these names look alike and are not the same: {', '.join(pairs[:5])}: give the folders their old names"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def check_classes(settings: GateSettings, classes: Sequence[str]) -> None:
    """Raise UserError if a class in `gate.slices.class.values` does not exist."""
    for value in settings.slices[CLASS].values if CLASS in settings.slices else ():
        if value not in classes:
            if pairs := lookalikes.match([value], classes):
                raise UserError(
                    f"gate.slices.class.values names the class {lookalikes.show(value)}, which does not exist; "
                    f"{lookalikes.show(pairs[0][1])} looks alike: copy the name of that class"
                )
            near = did_you_mean(value, list(classes)) or f"; the classes are {', '.join(classes[:10])}"
            raise UserError(f"gate.slices.class.values names the class '{value}', which does not exist{near}")


def check_folders(settings: GateSettings, folders: Collection[str]) -> None:
    """Raise UserError if a folder in `gate.slices.folder.values` is none of `folders`, which hold images to judge on.

    Folders are named as the slices are: relative to the common root, which is ".".
    """
    for value in settings.slices[FOLDER].values if FOLDER in settings.slices else ():
        if value not in folders:
            raise UserError(
                f"gate.slices.folder.values names the folder '{value}', but no image to judge on lies in a folder of "
                f"that name{near_folder(value, folders)}"
            )


def near_folder(name: str, folders: Collection[str]) -> str:
    """Return a hint for a folder's name that is none of `folders`: the nearest one, or some of them."""
    names = sorted(folders)
    if not names:
        return ""
    without_parent = [folder for folder in names if folder.endswith(f"/{name.strip('/')}")]
    if without_parent:
        return f"; did you mean '{without_parent[0]}'?"
    return did_you_mean(name, names) or f"; the folders are {', '.join(names[:10])}"


def always_one(settings: GateSettings, classes: int) -> Iterator[str]:
    """Yield the keys of thresholds whose metric is 1 for every model with so many classes: top_k with k >= classes."""
    sections: list[tuple[str, _Thresholds]] = [("gate", settings)]
    for dimension, common in settings.slices.items():
        sections.append((f"gate.slices.{dimension}", common))
        sections += [(f"gate.slices.{dimension}.values.{name}", own) for name, own in common.values.items()]
    for key, section in sections:
        for metric in section.thresholds:
            if metric.startswith("top_") and int(metric.split("_")[1]) >= classes:
                yield f"{key}.{metric}"
