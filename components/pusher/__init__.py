"""Pusher: publishes a blessed model as the next version that model servers see."""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    from graftline.components.pusher.component import pusher as make_pusher
    from graftline.components.pusher.settings import PushSettings

__getattr__ = face(__name__)
