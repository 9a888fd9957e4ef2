"""The `models.config` of a running server: looked at again and again, and taken up when it has changed.

TF Serving does so by --model_config_file_poll_wait_seconds (PollFilesystemAndReloadConfig in its server.cc).
"""

import logging
from typing import TYPE_CHECKING

from graftline.errors import UserError
from graftline.serving.server.errors import Code, ServingError
from graftline.serving.versions import model_config

if TYPE_CHECKING:
    from graftline.serving.server.model.manager import ModelManager

_logger = logging.getLogger(__name__)


class ConfigFile:
    """The file at `path`: `read` once, then `look` at will."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._served: bytes | None = None  # what the file held when it was taken up
        self._broken: object = None  # what it and its base paths held when no version of a model could be loaded
        self._said: object = None  # the complaint that is in the log already

    def read(self) -> list[model_config.ModelConfig]:
        """Its models, to start with. Raises UserError."""
        self._served = model_config.read_bytes(self._path)
        return model_config.decode(self._served, self._path)

    def look(self, manager: "ModelManager") -> None:
        """Have `manager` serve what the file says now, if it has changed.

        What cannot be read or served is logged, once for each change, and what is served stays. A model whose first
        version or whose label's version is still to be pushed is taken up when it comes. Raises nothing.
        """
        data = None
        try:
            data = model_config.read_bytes(self._path)
            if data == self._served:
                self._said = None
                return
            configs = model_config.decode(data, self._path)
            found = data, [config.find() for config in configs]
            if found == self._broken:
                return
            try:
                manager.reload(configs)
            except ServingError as error:
                if error.code is Code.UNKNOWN:  # loaded in vain: not again before there is something else to load
                    self._broken = found
                raise
        except (UserError, ServingError, OSError) as error:
            self._complain(data, f"{self._path} is not taken up: {error}")
        except Exception:
            _logger.exception("unexpected fault while taking up %s", self._path)
        else:
            self._served, self._broken, self._said = data, None, None
            _logger.info("taken up: %s", self._path)

    def _complain(self, data: bytes | None, message: str) -> None:
        if self._said != (data, message):
            self._said = data, message
            _logger.error("%s", message)
