"""The `models.config` of a running server: read at intervals, and applied when it has changed.

TF Serving does so by --model_config_file_poll_wait_seconds (PollFilesystemAndReloadConfig in its server.cc).
"""

import logging
from collections.abc import Hashable
from typing import TYPE_CHECKING

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.server.model.refusals import Refusals, mark
from graftline.serving.versions import model_config

if TYPE_CHECKING:
    from graftline.serving.server.model.manager import ModelManager

_logger = logging.getLogger(__name__)


class ConfigFile:
    """The file at `path`. `read` comes first; then `look` may be called at any time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._served: bytes | None = None  # the content that was applied
        self._refusals = Refusals()  # of a content with which no version of a model could be loaded
        self._said: object = None  # the complaint that the log already holds

    def read(self) -> list[model_config.ModelConfig]:
        """Return the models to start with. Raises UserError."""
        self._served = model_config.read_bytes(self._path)
        return model_config.decode(self._served, self._path)

    def look(self, manager: "ModelManager") -> None:
        """Make `manager` serve the models of the file if it has changed. Raises nothing.

        A file that cannot be read or applied is logged once for each change, and the served models stay. A model that
        waits for its first version, or for the version of a label, is served when that version is pushed.
        """
        data = None
        try:
            data = model_config.read_bytes(self._path)
            if data == self._served:
                self._said = None
                return
            configs = model_config.decode(data, self._path)
            attempt = data, tuple(_mark(config) for config in configs)
            if self._refusals.hold(self._path, lambda _: attempt):
                return
            try:
                manager.reload(configs)
            except ServingError as error:
                if error.code is Code.UNKNOWN:  # the versions are not tried again at each look
                    self._refusals.add(self._path, attempt, str(error))
                raise
        except (UserError, ServingError, OSError) as error:
            self._complain(data, f"{self._path} is not taken up: {error}")
        except Exception:
            _logger.exception("unexpected fault while taking up %s", self._path)
        else:
            self._served, self._said = data, None
            self._refusals.forget(self._path)
            _logger.info("taken up: %s", self._path)

    def _complain(self, data: bytes | None, message: str) -> None:
        if self._said != (data, message):
            self._said = data, message
            _logger.error("%s", message)


def _mark(config: model_config.ModelConfig) -> Hashable:
    """Return a mark of the files of the versions that a config chooses."""
    versions = config.find()
    return tuple((version, mark(versions[version])) for version in config.policy.choose(versions))
