"""Which versions are served: loads the highest of every model, polls for newer ones, and swaps them under traffic.

The policy is TF Serving's default: the latest version only, and availability first (the old one answers until
the new one is loaded and warm).
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graftline.errors import UserError
from serving.locate import SAVED_MODEL, Model, scan_versions
from serving.server.errors import Code, ServingError
from serving.server.models import LoadedModel, LoadError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionState:
    """The state of one version, in the words of TF Serving's ModelVersionStatus."""

    version: int
    state: str  # LOADING, AVAILABLE, UNLOADING or END
    code: Code = Code.OK
    message: str = ""


class _Served:
    """One model: the version that answers, and what became of the others."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.current: tuple[int, LoadedModel] | None = None
        self.states: dict[int, VersionState] = {}
        self.refused: dict[int, tuple[int, int]] = {}  # version that failed to load → what its file was then

    def note(self, version: int, state: str, code: Code = Code.OK, message: str = "") -> None:
        self.states = {**self.states, version: VersionState(version, state, code, message)}


def _mark(path: str) -> tuple[int, int]:
    """What tells one upload of a version from another: a version that failed is tried again when this changes."""
    found = os.stat(os.path.join(path, SAVED_MODEL))
    return found.st_mtime_ns, found.st_size


class ModelManager:
    """The models being served, by name. `load` first; `poll` at will or `start_polling`; `close` in the end."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._served = {model.name: _Served(model) for model in models}
        self._swap = threading.Lock()  # one load at a time
        self._stopped = threading.Event()
        self._poller: threading.Thread | None = None

    def load(self) -> None:
        """Load the highest version of every model. Raises UserError for the first that cannot be served."""
        for served in self._served.values():
            version, path = served.model.newest
            try:
                self._take_up(served, version, path)
            except LoadError as error:
                raise UserError(f"model '{served.model.name}' version {version}: {error}; push it again") from error

    def _take_up(self, served: _Served, version: int, path: str) -> None:
        """Load and warm a version, then put it in the place of the one that answers."""
        with self._swap:
            served.note(version, "LOADING")
            loaded = None
            try:
                loaded = LoadedModel(path)
                loaded.warm_up()
            except LoadError as error:
                if loaded:
                    loaded.retire()
                served.note(version, "END", Code.INVALID_ARGUMENT, str(error))
                raise
            before, served.current = served.current, (version, loaded)
            served.note(version, "AVAILABLE")
            _logger.info("serving %s version %d from %s", served.model.name, version, path)
            if before:
                served.note(before[0], "UNLOADING")
                before[1].retire()
                served.note(before[0], "END")

    def poll(self) -> None:
        """Look at every base path once, and take up a version that is now the highest.

        A version that fails to load is reported in its state and left alone until its file changes. When the highest
        version was removed, the next one below takes over; when all are gone, the loaded one goes on answering.
        """
        for served in self._served.values():
            base_path = served.model.base_path
            if base_path is None:
                continue
            try:
                versions = scan_versions(base_path)
                for version in sorted(versions, reverse=True):
                    if served.current and served.current[0] == version:
                        break
                    mark = _mark(versions[version])
                    if served.refused.get(version) == mark:
                        continue
                    try:
                        self._take_up(served, version, versions[version])
                    except LoadError as error:
                        served.refused[version] = mark
                        _logger.error("%s", error)
                        continue
                    break
            except OSError as error:  # removed between the look and the load, or a file system that is away
                _logger.warning("cannot look for versions of %s: %s", served.model.name, error)

    def start_polling(self, seconds: float) -> None:
        """Poll every `seconds` in a thread, until `close`."""

        def loop() -> None:
            while not self._stopped.wait(seconds):
                self.poll()

        self._poller = threading.Thread(target=loop, name="graftline-poll", daemon=True)
        self._poller.start()

    def close(self) -> None:
        """Stop polling and unload every model, each when its last request is answered."""
        self._stopped.set()
        if self._poller:
            self._poller.join()
        for served in self._served.values():
            if served.current:
                served.current[1].retire()

    @property
    def names(self) -> list[str]:
        """Names of the models served, sorted."""
        return sorted(self._served)

    @contextlib.contextmanager
    def use(self, name: str, version: int | None = None) -> Iterator[tuple[int, LoadedModel]]:
        """The version number and the model that answer for `name`, held loaded for the length of the `with`.

        Raises NOT_FOUND, in TF Serving's words, for a model or version that is not loaded.
        """
        while True:
            served = self._served.get(name)
            current = served.current if served else None
            if current is None or version not in (None, current[0]):
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(current[1])
                except ServingError:
                    if self._stopped.is_set():
                        raise
                    continue  # swapped between the look and the hold: the new one is there by now
                yield current
                return

    def states(self, name: str, version: int | None = None) -> list[VersionState]:
        """The states of a model's versions, the highest first, or of one version. Raises NOT_FOUND."""
        known = self._served[name].states if name in self._served else {}
        if version is None:
            if not known:
                raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
            return [known[number] for number in sorted(known, reverse=True)]
        if version not in known:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        return [known[version]]
