"""The one typed config: what a YAML file, `--set` and the defaults add up to.

`pipeline.cli` loads it, the runners read it. Relative paths in it (`images`, `workspace`, `backbone.weights`) are
relative to the current directory. Imports no TFX and no TensorFlow.
"""

import difflib
import math
import pathlib
import re
import textwrap
import types
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from graftline.components.data_validation.settings import ValidationSettings
from graftline.components.evaluator.settings import GateSettings, Threshold
from graftline.components.image_example_gen.settings import IngestSettings
from graftline.components.pusher.settings import PushSettings
from graftline.components.serving_validator.settings import ServingValidationSettings
from graftline.components.transform.settings import TransformSettings
from graftline.errors import UserError, did_you_mean
from graftline.pipeline import yaml12
from graftline.settings import Settings
from graftline.trainer.settings import (
    AugmentationSettings,
    BackboneSettings,
    BoundaryCacheSettings,
    FeatureExtractionSettings,
    FineTuningSettings,
    HeadSettings,
    TrainingSettings,
)
from graftline.uri import is_uri

WORKSPACE = "./graftline-workspace"
_MODEL_NAME = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*"
)  # one part of a path, and of TF Serving's /v1/models/NAME:predict
# Where a leading ~ is the home folder.
_PATHS = ("images", "workspace", "backbone.weights", "data.manifest", "data.schema_file", "push.path")


class ModelSettings(Settings):
    """The served model."""

    name: str | None = Field(None, description="its name in TF Serving; that of the images' folder when null")

    @field_validator("name")
    @classmethod
    def _legal(cls, name: str | None) -> str | None:
        if name is not None and not _MODEL_NAME.fullmatch(name):
            raise ValueError("letters, digits, '.', '_' and '-', beginning with a letter or digit")
        return name


# An absl flag, which TFX's Beam executors parse from the pipeline's options: batches of 20 MiB, not up to 1,000 images.
BYTE_BATCHES = "--tfxio_use_byte_size_batching"


class BeamSettings(Settings):
    """Where the Beam stages (ingest, statistics, Transform, evaluation) run."""

    runner: Literal["direct", "flink", "spark", "dataflow"] = Field(
        "direct", description="direct (this machine), flink, spark or dataflow"
    )
    options: list[str] = Field([], description="Beam pipeline options, for example [--direct_num_workers=2]")


class DataSettings(IngestSettings, TransformSettings):
    """How the images are read, split, stored and validated."""

    schema_file: str | None = Field(
        None, description="a curated TFDV schema (schema.pbtxt); null infers one from the images of the run"
    )
    validation: ValidationSettings = ValidationSettings()

    @property
    def ingest(self) -> IngestSettings:
        """The part that ImageExampleGen reads."""
        return IngestSettings(**self.model_dump(include=set(IngestSettings.model_fields)))


class HousekeepingSettings(Settings):
    """What is removed of earlier runs, so that a nightly run does not fill the disk."""

    keep_runs: int | None = Field(
        10,
        ge=1,
        description="artifacts of the latest so many runs stay, and all that a kept model version descends from; null "
        "removes nothing",
    )


class ClusterSettings(Settings):
    """What `graftline compile` needs to know of the cluster."""

    image: str | None = Field(
        None, description="container image that has graftline installed; graftline:<version> when null"
    )


def _default_gate() -> GateSettings:
    return GateSettings(accuracy=Threshold(min=0.5, min_change=0.0))


class Config(Settings):
    """All that decides what a run does."""

    images: str | list[str] | None = Field(
        None,
        description="folder of images, one folder for each class; a list of several; a URI such as gs://bucket/dir",
    )
    workspace: str = Field(
        WORKSPACE, description="folder of everything that runs keep: metadata, artifacts, models, logs"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of the weights and of the order of training")
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    head: HeadSettings = HeadSettings()
    training: TrainingSettings = TrainingSettings()
    feature_extraction: FeatureExtractionSettings = FeatureExtractionSettings()
    fine_tuning: FineTuningSettings = FineTuningSettings()
    gate: GateSettings = Field(default_factory=_default_gate)
    serving_validation: ServingValidationSettings = ServingValidationSettings()
    push: PushSettings = PushSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    boundary_cache: BoundaryCacheSettings = BoundaryCacheSettings()
    beam: BeamSettings = BeamSettings()
    housekeeping: HousekeepingSettings = HousekeepingSettings()
    cluster: ClusterSettings = ClusterSettings()

    @property
    def model_name(self) -> str:
        """The name that the model is served under: `model.name`, or what the images' folder is called."""
        return self.model.name or name_from_folder(self.image_folders[0] if self.image_folders else None)

    @property
    def image_folders(self) -> tuple[str, ...]:
        """The folders or URIs of `images`."""
        return (self.images,) if isinstance(self.images, str) else tuple(self.images or ())


def name_from_folder(images: str | None) -> str:
    """A legal model name from a folder's path or URI: `~/My photos/` gives `My-photos`; else `model`."""
    if images is None:
        return "model"
    named = images if is_uri(images) else str(pathlib.Path(images).resolve())
    last = next((part for part in reversed(named.split("/")) if part and "{" not in part), "")  # skips span-{SPAN}
    plain = unicodedata.normalize("NFKD", last).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._") or "model"


def load(path: str | None, overrides: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Config:
    """The config of a YAML file (or only the defaults), changed by `key=value` overrides, then by `given` dotted keys.

    The keys of `gate` are laid over its defaults, so `gate.accuracy.min=0.9` keeps `gate.accuracy.min_change`; a metric
    that is null has no threshold.

    Args:
      path: YAML file, or None.
      overrides: as `--set` takes them, `fine_tuning.epochs=5`; the value is a YAML scalar (or a flow list or mapping).
      given: values that need no parsing, by dotted key: the command's own options.

    Raises:
      UserError: a file that cannot be read, an unknown key, a value of the wrong kind; all wrong values in one message.
    """
    raw: dict[str, Any] = {"gate": _default_gate().model_dump(exclude_defaults=True)}
    if path is not None:
        from_file = yaml12.read_file(path)
        _refuse_unknown(from_file, path)
        # A section whose keys are all commented out is null in YAML.
        sections = {key for key in Config.model_fields if _children(_annotation((key,)))}
        _merge(raw, {key: value for key, value in from_file.items() if value is not None or key not in sections})
    overridden = []
    for text in overrides:
        key, value = _override(text)
        tree = _nested(key, value)
        _refuse_unknown(tree, "--set")
        _merge(raw, tree)
        overridden.append(key)
    for key, value in (given or {}).items():
        _merge(raw, _nested(key, value))
    for key in _PATHS:
        _expand_home(raw, key.split("."))

    def source(key: str) -> str:
        key = key.partition("[")[0]
        by_set = any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in overridden)
        return "--set: " if by_set else f"{path}: " if path else ""

    infinite = [f"{source(key)}{key} is {value}, but must be a finite number" for key, value in _non_finite(raw)]
    if infinite:
        raise UserError("\n".join(infinite))
    try:
        return Config.model_validate(raw, strict=True)
    except ValidationError as error:
        raise UserError("\n".join(f"{source(key)}{message}" for key, message in _explain(error))) from None
    except UserError as error:  # from a registry that names its own key, as backbone.name's does
        raise UserError(f"{source(str(error).split(':')[0])}{error}") from None


def defaults_as_yaml() -> str:
    """The full default config, every key with its description as a comment; `load` reads it back as `Config()`."""
    return as_yaml(Config())


def as_yaml(config: Config) -> str:
    """The config as a commented YAML file that `load` reads back as the same value."""
    head = (
        "# Graftline's config. A key that is left out has its default; `--set key=value` overrides one.\n"
        "# Relative paths are relative to the current directory.\n"
    )
    return head + "".join(_section(config, ""))


# --- keys -------------------------------------------------------------------------------------------------------------


def _children(annotation: Any) -> dict[str, Any]:
    """The keys known under a value of that type, with their own types; empty for a leaf and for free keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):  # a section that may be null
        return next((found for found in map(_children, arguments) if found), {})
    if get_origin(annotation) is dict and get_origin(arguments[0]) is Literal:
        return dict.fromkeys(get_args(arguments[0]), arguments[1])
    return {}


def _under_free_keys(annotation: Any) -> Any:
    """The type of a section that stands under keys which the user chooses; None where there is none."""
    arguments = get_args(annotation)
    return arguments[1] if get_origin(annotation) is dict and arguments[0] is str and _children(arguments[1]) else None


def _annotation(parts: Sequence[str]) -> Any:
    """The type of the key, None when it is unknown or lies under free keys."""
    annotation: Any = Config
    for part in parts:
        annotation = _children(annotation).get(part)
    return annotation


def _all_keys(annotation: Any = Config, prefix: str = "") -> Iterator[str]:
    for name, child in _children(annotation).items():
        yield f"{prefix}{name}"
        yield from _all_keys(child, f"{prefix}{name}.")


def _refuse_unknown(raw: Any, source: str, annotation: Any = Config, prefix: str = "", free: bool = False) -> None:
    """Raises UserError for the first key, at any depth, that the schema does not have.

    `free` says that a key above is of the user's choice: what is under it is meant to be there, and nowhere else.
    """
    children = _children(annotation)
    if isinstance(raw, dict) and (section := _under_free_keys(annotation)):
        children, free = dict.fromkeys(raw, section), True
    if not isinstance(raw, dict) or not children:
        return
    for key, value in raw.items():
        if key not in children:
            siblings = did_you_mean(str(key), list(children))
            if siblings:
                hint = siblings.replace("'", f"'{prefix}", 1)
            else:  # perhaps the right key in the wrong place
                others = {} if free else {key.rpartition(".")[2]: key for key in reversed(list(_all_keys()))}
                near = difflib.get_close_matches(str(key), list(others), n=1, cutoff=0.75)
                hint = f"; did you mean '{others[near[0]]}'?" if near else f"; known here: {', '.join(children)}"
            raise UserError(f"{source}: unknown key '{prefix}{key}'{hint}")
        _refuse_unknown(value, source, children[key], f"{prefix}{key}.", free)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Lays `over` onto `base` key by key; an empty mapping replaces, so `options: {}` clears them."""
    for key, value in over.items():
        if isinstance(value, dict) and value and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _expand_home(raw: Any, parts: list[str]) -> None:
    for part in parts[:-1]:
        raw = raw.get(part) if isinstance(raw, dict) else None
    value = raw.get(parts[-1]) if isinstance(raw, dict) else None
    if isinstance(value, str):
        raw[parts[-1]] = _without_tilde(value)
    elif isinstance(value, list):
        raw[parts[-1]] = [_without_tilde(item) if isinstance(item, str) else item for item in value]


def _without_tilde(path: str) -> str:
    return str(pathlib.Path(path).expanduser()) if path.startswith("~") else path


def _override(text: str) -> tuple[str, Any]:
    """`key=value` as key and value. Where the key needs text, the value stays as it stands: paths may hold `#`."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set: '{text}' is not key=value, for example --set fine_tuning.epochs=5")
    annotation = _annotation(key.split("."))
    quoted = "'\"[" if annotation == str | list[str] | None else "'\""
    takes_text = annotation in (str, str | None, str | list[str] | None)
    if takes_text and value not in ("", "~", "null") and value[0] not in quoted:
        return key, value
    try:
        return key, yaml12.parse(value)
    except ValueError as error:
        raise UserError(f"--set: the value of {key} is no YAML: {error}") from None


# --- values -----------------------------------------------------------------------------------------------------------

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text (a number as a name goes in quotes)",
    "list_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "literal_error": "{expected}",
    "value_error": "{error}",
}


def _explain(error: ValidationError) -> Iterator[tuple[str, str]]:
    """The key and the sentence of each wrong value; the members of a union in one sentence."""
    found: dict[str, tuple[Any, list[str]]] = {}
    lists = [problem["loc"][0] for problem in error.errors() if "list[str]" in problem["loc"]]
    for problem in error.errors():
        loc = [str(part) for part in problem["loc"] if part != "list[str]"]
        if loc[-1] == "str" and loc[0] in lists and isinstance(problem["input"], list):
            continue  # what is wrong is in the list
        # pydantic names the member of a union that refused
        if loc[-1] in ("int", "str", "float") or loc[-1].startswith(("literal[", "constrained-")):
            loc.pop()
        expected = _EXPECTED.get(problem["type"])
        text = expected.format(**problem.get("ctx", {})) if expected else problem["msg"]
        key = re.sub(r"\.(\d+)", r"[\1]", ".".join(loc))
        found.setdefault(key, (problem["input"], []))[1].append(text)
    for key, (value, expected_texts) in found.items():
        shown = f"'{value}'" if isinstance(value, str) else "empty" if value == {} else yaml12.flow(value)
        yield key, f"{key} is {shown}, but must be {' or '.join(dict.fromkeys(expected_texts))}"


def _non_finite(raw: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Keys that hold inf or nan: they pass every bound, and a nan threshold neither blesses nor rejects."""
    if isinstance(raw, float) and not math.isfinite(raw):
        yield prefix, raw
    elif isinstance(raw, dict | list):
        items = raw.items() if isinstance(raw, dict) else enumerate(raw)
        for key, value in items:
            yield from _non_finite(value, f"{prefix}.{key}" if prefix else str(key))


# --- the config as a file ---------------------------------------------------------------------------------------------


def _comment(text: str, indent: str) -> str:
    return textwrap.fill(text, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ") + "\n"


def _section(model: BaseModel, indent: str) -> Iterator[str]:
    """The lines of one section: a comment and a value for each key, sections set apart by an empty line."""
    for name, field in type(model).model_fields.items():
        yield from _entry(name, field, getattr(model, name), indent)


def _entry(name: str, field: FieldInfo, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, BaseModel):
        about = field.description or (type(value).__doc__ or "").split("\n")[0]
        yield f"\n{_comment(about, indent)}{indent}{name}:\n"
        yield from _section(value, indent + "  ")
    else:
        blank = "" if indent or name in ("images", "workspace", "seed") else "\n"
        yield f"{blank}{_comment(field.description or '', indent)}{indent}{name}: {yaml12.flow(_plain(value))}\n"


def _plain(value: Any) -> Any:
    """A value without the models in it, as YAML has it."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
