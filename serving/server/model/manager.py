"""Decides which versions are served: loads those of each model's policy, polls for new ones and swaps them.

Availability comes first, as in TF Serving's default policy. A version is unloaded only when another version of its
model is loaded and warm, and its memory is freed when its last request is answered. Readers take no lock: the manager
replaces the mappings that they read as a whole.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError, invalid
from graftline.serving.server.model import refusals
from graftline.serving.server.model.loaded_model import LoadedModel, LoadError
from graftline.serving.server.model.refusals import Refusals
from graftline.serving.versions.locate import Model
from graftline.serving.versions.model_config import ModelConfig

_logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 0.5  # for loads to end

Load = Callable[[str, str, int], LoadedModel]  # (directory, model's name, version) → the model, before its warm-up


class _StoppedError(ServingError):
    """The server stops, so no further version is loaded."""


@dataclass(frozen=True)
class VersionState:
    """The state of one version, in the terms of TF Serving's ModelVersionStatus."""

    version: int
    state: str  # START, LOADING, AVAILABLE, UNLOADING or END
    code: Code = Code.OK
    message: str = ""


@dataclass
class _Served:
    """One model: its config, and each version that answers with its directory."""

    config: ModelConfig
    loaded: Mapping[int, tuple[str, LoadedModel]] = field(default_factory=dict)
    refusals: Refusals = field(default_factory=Refusals)

    def has(self, version: int, path: str) -> bool:
        return version in self.loaded and self.loaded[version][0] == path


class ModelManager:
    """The served models, by name. `load` comes first, then `poll` or `start_polling`, and `close` at the end.

    `allow_version_labels_for_unavailable_models` is TF Serving's flag: a new label may name a version that is not
    loaded yet. A label in use moves to loaded versions only.
    """

    def __init__(
        self,
        models: Sequence[Model | ModelConfig],
        load: Load = lambda path, name, version: LoadedModel(path),
        allow_version_labels_for_unavailable_models: bool = True,
    ) -> None:
        configs = [model if isinstance(model, ModelConfig) else ModelConfig.of(model) for model in models]
        self._served = {config.name: _Served(config) for config in configs}
        self._states: dict[str, dict[int, VersionState]] = {}  # also of models that are no longer served
        self._load = load
        self._labels_ahead = allow_version_labels_for_unavailable_models
        self._swap = threading.RLock()  # held during a change
        self._stopped = threading.Event()
        self._pollers: list[threading.Thread] = []

    # Changes

    def load(self) -> None:
        """Load the versions that every model's policy chooses.

        Another version takes the place of one that fails; the state of the failed version has the reason. Raises
        UserError for a model without a version that can be served, or with a label of a version that is not served.
        """
        with self._swap:
            for served in self._served.values():
                failed = self._refresh(served)
                if not served.loaded:
                    raise UserError(_nothing_to_serve(served.config, failed))
                for label, version in served.config.labels.items():
                    if version not in served.loaded and not self._labels_ahead:
                        raise UserError(
                            f"model '{served.config.name}': label '{label}' names version {version}, which is not "
                            f"served; served are {_list(served.loaded)}"
                        )

    def poll(self) -> None:
        """Look at every base path once, and load the versions that its policy now chooses.

        A version that fails to load is tried again as `refusals` says; its state has the reason. Loaded versions go on
        answering when no other version can be loaded.
        """
        with self._swap:
            for served in self._served.values():
                if served.config.fixed is not None:
                    continue
                try:
                    self._refresh(served)
                except _StoppedError:
                    return
                except OSError as error:  # removed before the load, or the file system is unavailable
                    _logger.warning("cannot look for versions of %s: %s", served.config.name, error)
                except Exception:  # the other models and the next poll must go on
                    _logger.exception("unexpected fault while taking up versions of %s", served.config.name)

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Serve these models and no others, as soon as all of them can answer. If one cannot, nothing changes.

        Raises as TF Serving's HandleReloadConfigRequest. INVALID_ARGUMENT: a model is listed twice, or a base path does
        not exist. NOT_FOUND: a base path holds no version. FAILED_PRECONDITION: a label in use moves to a version that
        is not available. UNKNOWN: no version of a model can be loaded.
        """
        with self._swap:
            for config in configs:
                self._check_config(config, configs)
            for config in configs:
                _choose(config)  # raises before anything is loaded
            after: dict[str, _Served] = {}
            before = dict(self._served)
            states = {name: dict(known) for name, known in self._states.items()}
            try:
                for config in configs:
                    after[config.name] = _Served(config)
                    self._prepare(after[config.name], before.get(config.name))
            except BaseException:
                still_served = {id(model) for served in before.values() for _, model in served.loaded.values()}
                for served in after.values():
                    self._retire(model for _, model in served.loaded.values() if id(model) not in still_served)
                self._states = self._with_failures(states)
                raise
            self._served = after
            for name, served in before.items():
                still = after[name].loaded if name in after else {}
                gone = [version for version, entry in served.loaded.items() if still.get(version) != entry]
                self._unload(name, {version: served.loaded[version][1] for version in gone}, still=still)

    def _with_failures(self, states: dict[str, dict[int, VersionState]]) -> dict[str, dict[int, VersionState]]:
        """Return `states` and the failed versions of models that are not served. GetModelStatus reports the reasons."""
        merged = dict(states)
        for name in self._states.keys() - self._served.keys():
            failed = {version: state for version, state in self._states[name].items() if state.code is not Code.OK}
            if failed:
                merged[name] = {**states.get(name, {}), **failed}
        return merged

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
        """Load the versions that a config needs and that are not loaded. No request sees them yet."""
        config = served.config
        chosen = _choose(config)
        if before:
            served.refusals = before.refusals
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
        """Apply one model's policy. Return the versions that failed, with their errors."""
        failed: dict[int, LoadError] = {}
        while True:
            candidates = served.config.find()
            served.refusals.keep(candidates.values())
            sound = {
                version: path
                for version, path in candidates.items()
                # Files that go on arriving change the mark: a version is tried once in a look, or the look never ends.
                if served.has(version, path) or (version not in failed and not served.refusals.hold(path))
            }
            chosen = served.config.policy.choose(sound)
            fresh = {version: sound[version] for version in chosen if not served.has(version, sound[version])}
            if not fresh:
                break
            # The next lower version takes the place of one that fails, if the policy allows it.
            failed.update(self._take_up(served, fresh))
        if chosen:
            gone = {version: model for version, (_, model) in served.loaded.items() if version not in chosen}
            served.loaded = {version: entry for version, entry in served.loaded.items() if version in chosen}
            self._unload(served.config.name, gone)
        return failed

    def _take_up(self, served: _Served, fresh: Mapping[int, str]) -> dict[int, LoadError]:
        """Load and warm up versions, the highest first. Each answers at once. Return those that failed, with errors."""
        failed: dict[int, LoadError] = {}
        name = served.config.name
        for version in sorted(fresh, reverse=True):
            self._check_stopped()
            path, loaded = fresh[version], None
            mark = refusals.mark(path)
            self._note(name, version, "LOADING")
            try:
                loaded = self._load(path, name, version)
                self._check_stopped()
                loaded.warm_up()
            except Exception as fault:  # noqa: BLE001 - a damaged file can raise anything
                if loaded:
                    loaded.retire()
                self._check_stopped()
                error = fault if isinstance(fault, LoadError) else LoadError(f"cannot load {path}: {fault!r}")
                self._note(name, version, "END", Code.INVALID_ARGUMENT, str(error))
                if served.refusals.add(path, mark, str(error)):
                    _logger.error(
                        "refused %s version %d: %s; it is tried again from time to time", name, version, error
                    )
                failed[version] = error
                continue
            served.refusals.forget(path)
            before = served.loaded.get(version)
            served.loaded = {**served.loaded, version: (path, loaded)}
            self._note(name, version, "AVAILABLE")
            _logger.info("serving %s version %d from %s", name, version, path)
            if before:  # the same number from another directory
                before[1].retire()
        return failed

    def _check_stopped(self) -> None:
        """Raise UNAVAILABLE when the server stops: a load may take minutes."""
        if self._stopped.is_set():
            raise _StoppedError(Code.UNAVAILABLE, "the model server is shutting down")

    def _unload(self, name: str, models: Mapping[int, LoadedModel], still: Iterable[int] = ()) -> None:
        """Unload versions. Another directory goes on serving the numbers in `still`."""
        ended = sorted(set(models) - set(still))
        for version in ended:
            self._note(name, version, "UNLOADING")
        self._retire(models.values())
        for version in ended:
            self._note(name, version, "END")
            _logger.info("unloaded %s version %d", name, version)

    @staticmethod
    def _retire(models: Iterable[LoadedModel]) -> None:
        for model in models:
            model.retire()

    def _note(self, name: str, version: int, state: str, code: Code = Code.OK, message: str = "") -> None:
        states = self._states.get(name, {})
        self._states = {**self._states, name: {**states, version: VersionState(version, state, code, message)}}

    def start_polling(self, seconds: float, look: Callable[[], None] | None = None) -> None:
        """Call `look` (default: `poll`) every `seconds` in a thread of its own, until `close`."""
        again = look or self.poll

        def loop() -> None:
            while not self._stopped.wait(seconds):
                again()

        self._pollers.append(threading.Thread(target=loop, name="graftline-poll", daemon=True))
        self._pollers[-1].start()

    def stop(self) -> None:
        """Load no further version. A load that is under way goes on, and its version is not served."""
        self._stopped.set()

    def close(self) -> None:
        """Stop polling, and unload every model when its last request is answered.

        A load that goes on holds up neither: TensorFlow cannot be interrupted.
        """
        self.stop()
        for poller in self._pollers:
            poller.join(_CLOSE_SECONDS)
        if self._swap.acquire(timeout=_CLOSE_SECONDS):
            try:
                for served in self._served.values():
                    self._retire(model for _, model in served.loaded.values())
            finally:
                self._swap.release()

    # Requests

    @property
    def names(self) -> list[str]:
        """Return the names of the served models, sorted."""
        return sorted(self._served)

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None, label: str | None = None) -> Iterator[tuple[int, LoadedModel]]:
        """Yield the version number and the model that answer for `name`. The model stays loaded within the `with`.

        Without a `version` or a `label` the highest loaded version answers. Raises, in TF Serving's words, NOT_FOUND
        for a model or version that is not loaded, and INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            labels = self.labels(name)
            if label not in labels:
                raise invalid(f"Unrecognized servable version label: {label}")
            version = labels[label]
        while True:
            served = self._served.get(name)
            loaded = served.loaded if served else {}
            number = max(loaded, default=None) if version is None else version
            if number is None or number not in loaded:
                servable = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {servable}")
            model = loaded[number][1]
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(model)
                except ServingError:
                    if self._stopped.is_set():
                        raise
                    continue  # swapped in the meantime: the new version is there
                yield number, model
                return

    def available_versions(self, name: str) -> list[int]:
        """Return the versions of a model that answer, the highest first."""
        states = self._states.get(name, {})
        return [version for version in sorted(states, reverse=True) if states[version].state == "AVAILABLE"]

    def labels(self, name: str) -> Mapping[str, int]:
        """Return label → version of a model; empty for an unknown model."""
        served = self._served.get(name)
        return served.config.labels if served else {}

    def states(self, name: str, version: int | None = None) -> list[VersionState]:
        """Return the states of a model's versions, the highest first, or of one version. Raises NOT_FOUND."""
        states = self._states.get(name, {})
        chosen = [states[number] for number in sorted(states, reverse=True) if version in (None, number)]
        if not chosen:
            sought = "any versions" if version is None else f"version {version}"
            raise ServingError(Code.NOT_FOUND, f"Could not find {sought} of model {name}")
        return chosen


def _choose(config: ModelConfig) -> dict[int, str]:
    """Return version → directory of the versions that a config chooses. Raises NOT_FOUND when it chooses none."""
    versions = config.find()
    chosen = config.policy.choose(versions)
    if not chosen:
        raise ServingError(
            Code.NOT_FOUND, f"Unable to find a numerical version path for servable {config.name} at: {config.base_path}"
        )
    return {version: versions[version] for version in chosen}


def _list(versions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(versions)))


def _nothing_to_serve(config: ModelConfig, failed: Mapping[int, LoadError]) -> str:
    if failed:
        version, error = next(iter(failed.items()))
        return f"model '{config.name}' version {version}: {error}; push it again"
    versions = config.find()
    if versions:
        return f"model '{config.name}': the policy is {config.policy}, but {config.base_path} holds {_list(versions)}"
    return f"model '{config.name}': no numbered version with a SavedModel in {config.base_path}; push one"
