"""Which versions are served: loads what each model's policy chooses, polls for new ones, and swaps them under traffic.

Availability first, as TF Serving's default policy: a version goes only when another one of its model is loaded and
warm, and its memory when the last request on it is answered. Readers take no lock: what they look at is replaced as a
whole.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.model.loaded_model import LoadedModel, LoadError
from graftline.serving.versions.locate import SAVED_MODEL, Model
from graftline.serving.versions.model_config import ModelConfig

_logger = logging.getLogger(__name__)

Load = Callable[[str, str, int], LoadedModel]  # (directory, model's name, version) → the model, not yet warmed up


@dataclass(frozen=True)
class VersionState:
    """The state of one version, in the words of TF Serving's ModelVersionStatus."""

    version: int
    state: str  # START, LOADING, AVAILABLE, UNLOADING or END
    code: Code = Code.OK
    message: str = ""


@dataclass
class _Served:
    """One model: its config and the versions that answer, each with the directory that it came from."""

    config: ModelConfig
    loaded: Mapping[int, tuple[str, LoadedModel]] = field(default_factory=dict)
    refused: dict[str, tuple[int, int]] = field(default_factory=dict)  # directory that failed → what it held then

    def has(self, version: int, path: str) -> bool:
        return version in self.loaded and self.loaded[version][0] == path


def _mark(path: str) -> tuple[int, int]:
    """What tells one upload of a version from another: a version that failed is tried again when this changes."""
    found = os.stat(os.path.join(path, SAVED_MODEL))
    return found.st_mtime_ns, found.st_size


def _load(path: str, name: str, version: int) -> LoadedModel:
    return LoadedModel(path)


class ModelManager:
    """The models being served, by name. `load` first; `poll` at will or `start_polling`; `close` in the end.

    `allow_version_labels_for_unavailable_models` is TF Serving's flag: a label that is new may name a version that is
    not loaded yet. A label in use moves to loaded versions only.
    """

    def __init__(
        self,
        models: Sequence[Model | ModelConfig],
        load: Load = _load,
        allow_version_labels_for_unavailable_models: bool = True,
    ) -> None:
        configs = [model if isinstance(model, ModelConfig) else ModelConfig.of(model) for model in models]
        self._served = {config.name: _Served(config) for config in configs}
        self._states: dict[str, dict[int, VersionState]] = {}  # also of models that are served no more
        self._load = load
        self._labels_ahead = allow_version_labels_for_unavailable_models
        self._swap = threading.RLock()  # one change at a time
        self._stopped = threading.Event()
        self._pollers: list[threading.Thread] = []

    # What changes what is served

    def load(self) -> None:
        """Load what every model's policy chooses.

        A version that fails is passed over when another can take its place; its state tells why. Raises UserError for a
        model of which none can be served, or whose labels name versions that are not.
        """
        with self._swap:
            for served in self._served.values():
                failed = self._refresh(served)
                if not served.loaded:
                    raise UserError(_nothing_to_serve(served.config, failed))
                if not self._labels_ahead:
                    for label, version in served.config.labels.items():
                        if version not in served.loaded:
                            raise UserError(
                                f"model '{served.config.name}': label '{label}' names version {version}, which is not "
                                f"served; served are {_list(served.loaded)}"
                            )

    def poll(self) -> None:
        """Look at every base path once, and take up what its policy now chooses.

        A version that fails to load is reported in its state and left alone until its file changes. When nothing
        that can be loaded is left, what is loaded goes on answering.
        """
        with self._swap:
            for served in self._served.values():
                if served.config.fixed is not None:
                    continue
                try:
                    self._refresh(served)
                except OSError as error:  # removed between the look and the load, or a file system that is away
                    _logger.warning("cannot look for versions of %s: %s", served.config.name, error)
                except Exception:  # the other models, and the next look, must not suffer for it
                    _logger.exception("unexpected fault while taking up versions of %s", served.config.name)

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Serve these models and no others, from when every one of them can answer. When one can't, nothing changes.

        Raises ServingError, as TF Serving's HandleReloadConfigRequest: INVALID_ARGUMENT (a model listed twice, a base
        path that is not there), NOT_FOUND (no versions in it), FAILED_PRECONDITION (a label in use moved to a version
        that is not available), UNKNOWN (a model of which no version can be loaded).
        """
        with self._swap:
            for config in configs:
                self._check_config(config, configs)
            for config in configs:
                _choose(config)  # before anything is loaded in vain
            after: dict[str, _Served] = {}
            before = dict(self._served)
            states = {name: dict(known) for name, known in self._states.items()}
            try:
                for config in configs:
                    after[config.name] = _Served(config)
                    self._prepare(after[config.name], before.get(config.name))
            except BaseException:
                kept = {id(model) for served in before.values() for _, model in served.loaded.values()}
                for served in after.values():
                    self._retire(model for _, model in served.loaded.values() if id(model) not in kept)
                self._states = self._with_failures(states)
                raise
            self._served = after
            for name, served in before.items():
                wanted = after[name].loaded if name in after else {}
                gone = [version for version, entry in served.loaded.items() if wanted.get(version) != entry]
                self._unload(name, {version: served.loaded[version][1] for version in gone}, still=wanted)

    def _with_failures(self, states: dict[str, dict[int, VersionState]]) -> dict[str, dict[int, VersionState]]:
        """`states`, and the versions that just failed of models that are not served: GetModelStatus tells why."""
        found = dict(states)
        for name in self._states.keys() - self._served.keys():
            failed = {version: state for version, state in self._states[name].items() if state.code is not Code.OK}
            if failed:
                found[name] = {**states.get(name, {}), **failed}
        return found

    def _check_config(self, config: ModelConfig, configs: Sequence[ModelConfig]) -> None:
        if sum(other.name == config.name for other in configs) > 1:
            raise invalid(f"Illegal to list model {config.name} multiple times in config list")
        if config.fixed is None and not os.path.isdir(config.base_path):
            raise invalid(f"Could not find base path {config.base_path} for servable {config.name}")
        served = self._served.get(config.name)
        for label, version in config.labels.items():
            in_use = served.config.labels.get(label, version) != version if served else False
            if (in_use or not self._labels_ahead) and (served is None or version not in served.loaded):
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Request to assign label to version {version} of model {config.name}, which is not currently "
                    "available for inference",
                )

    def _prepare(self, served: _Served, before: _Served | None) -> None:
        """Load what a config wants that no request sees yet, but for what of it is loaded already."""
        config = served.config
        chosen = _choose(config)
        if before:
            served.refused = dict(before.refused)
            served.loaded = {
                version: before.loaded[version] for version, path in chosen.items() if before.has(version, path)
            }
        failed = self._take_up(served, {number: path for number, path in chosen.items() if number not in served.loaded})
        if not served.loaded:
            version, error = next(iter(failed.items()))
            raise ServingError(
                Code.UNKNOWN,
                f"1 model(s) did not become available: {{{{{{name: {config.name} version: {version}}} "
                f"due to error: {Code.INVALID_ARGUMENT.name}: {error}}}, }}",
            )

    def _refresh(self, served: _Served) -> dict[int, LoadError]:
        """Bring one model to what its policy chooses now; the versions that failed at it, with their errors."""
        failed: dict[int, LoadError] = {}
        while True:
            found = served.config.find()
            sound = {
                version: path
                for version, path in found.items()
                if served.has(version, path) or served.refused.get(path) != _mark(path)
            }
            chosen = served.config.policy.choose(sound)
            fresh = {version: sound[version] for version in chosen if not served.has(version, sound[version])}
            if not fresh:
                break
            # The next one below takes the place of one that fails, as far as the policy lets it.
            failed.update(self._take_up(served, fresh))
        if chosen:
            gone = {version: model for version, (_, model) in served.loaded.items() if version not in chosen}
            served.loaded = {version: entry for version, entry in served.loaded.items() if version in chosen}
            self._unload(served.config.name, gone)
        return failed

    def _take_up(self, served: _Served, fresh: Mapping[int, str]) -> dict[int, LoadError]:
        """Load and warm versions, the highest first, each answering from then on; those that failed, with the error."""
        failed: dict[int, LoadError] = {}
        name = served.config.name
        for version in sorted(fresh, reverse=True):
            path, loaded = fresh[version], None
            mark = _mark(path)
            self._note(name, version, "LOADING")
            try:
                loaded = self._load(path, name, version)
                loaded.warm_up()
            except Exception as fault:  # noqa: BLE001 - files break in ways that nobody thought of
                if loaded:
                    loaded.retire()
                error = fault if isinstance(fault, LoadError) else LoadError(f"cannot load {path}: {fault!r}")
                self._note(name, version, "END", Code.INVALID_ARGUMENT, str(error))
                _logger.error("refused %s version %d: %s", name, version, error)
                served.refused[path] = mark
                failed[version] = error
                continue
            before = served.loaded.get(version)
            served.loaded = {**served.loaded, version: (path, loaded)}
            self._note(name, version, "AVAILABLE")
            _logger.info("serving %s version %d from %s", name, version, path)
            if before:  # the same number from another directory
                before[1].retire()
        return failed

    def _unload(self, name: str, models: Mapping[int, LoadedModel], still: Iterable[int] = ()) -> None:
        """Take versions out of service; `still` are the numbers that another directory goes on serving."""
        for version in models:
            if version not in still:
                self._note(name, version, "UNLOADING")
        self._retire(models.values())
        for version in sorted(models):
            if version not in still:
                self._note(name, version, "END")
                _logger.info("unloaded %s version %d", name, version)

    @staticmethod
    def _retire(models: Iterable[LoadedModel]) -> None:
        for model in models:
            model.retire()

    def _note(self, name: str, version: int, state: str, code: Code = Code.OK, message: str = "") -> None:
        known = self._states.get(name, {})
        self._states = {**self._states, name: {**known, version: VersionState(version, state, code, message)}}

    def start_polling(self, seconds: float, look: Callable[[], None] | None = None) -> None:
        """Call `look`, which is `poll` unless told otherwise, every `seconds` in a thread of its own, until `close`."""
        again = look or self.poll

        def loop() -> None:
            while not self._stopped.wait(seconds):
                again()

        self._pollers.append(threading.Thread(target=loop, name="graftline-poll", daemon=True))
        self._pollers[-1].start()

    def close(self) -> None:
        """Stop polling and unload every model, each when its last request is answered."""
        self._stopped.set()
        for poller in self._pollers:
            poller.join()
        with self._swap:
            for served in self._served.values():
                self._retire(model for _, model in served.loaded.values())

    # What requests ask

    @property
    def names(self) -> list[str]:
        """Names of the models served, sorted."""
        return sorted(self._served)

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[tuple[int, LoadedModel]]:
        """The version number and the model that answer for `name`, held loaded for the length of the `with`.

        The highest version that is loaded answers unless a `version` or a `label` says otherwise. Raises, in TF
        Serving's words, NOT_FOUND for a model or version that is not loaded, INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            version = self.version_of(name, label)
        while True:
            served = self._served.get(name)
            loaded = served.loaded if served else {}
            number = max(loaded, default=None) if version is None else version
            if number is None or number not in loaded:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
            model = loaded[number][1]
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(model)
                except ServingError:
                    if self._stopped.is_set():
                        raise
                    continue  # swapped between the look and the hold: the new one is there by now
                yield number, model
                return

    def available_versions(self, name: str) -> list[int]:
        """Return the versions of a model that answer, the highest first."""
        known = self._states.get(name, {})
        return [version for version in sorted(known, reverse=True) if known[version].state == "AVAILABLE"]

    def version_of(self, name: str, label: str) -> int:
        """The version that a label of a model names. Raises INVALID_ARGUMENT."""
        labels = self.labels(name)
        if label not in labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return labels[label]

    def labels(self, name: str) -> Mapping[str, int]:
        """Label → version, of a model; empty for an unknown one."""
        served = self._served.get(name)
        return served.config.labels if served else {}

    def states(self, name: str, version: int | None = None) -> list[VersionState]:
        """The states of a model's versions, the highest first, or of one version. Raises NOT_FOUND."""
        known = self._states.get(name, {})
        if version is None:
            if not known:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            return [known[number] for number in sorted(known, reverse=True)]
        if version not in known:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        return [known[version]]


def _choose(config: ModelConfig) -> dict[int, str]:
    """Version → directory of what a config wants of what is there. Raises NOT_FOUND when that is nothing."""
    found = config.find()
    chosen = config.policy.choose(found)
    if not chosen:
        raise ServingError(
            Code.NOT_FOUND,
            f"Unable to find a numerical version path for servable {config.name} at: {config.base_path}",
        )
    return {version: found[version] for version in chosen}


def _list(versions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


def _nothing_to_serve(config: ModelConfig, failed: Mapping[int, LoadError]) -> str:
    if failed:
        version, error = next(iter(failed.items()))
        return f"model '{config.name}' version {version}: {error}; push it again"
    found = config.find()
    if found:
        return f"model '{config.name}': {config.policy} is asked for, but {config.base_path} holds {_list(found)}"
    return f"model '{config.name}': no numbered version with a SavedModel in {config.base_path}; push one"
