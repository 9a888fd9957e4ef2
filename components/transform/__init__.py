"""The Transform: decoding, resizing and the backbone's preprocessing as one graph, in training and serving alike."""

from typing import TYPE_CHECKING

from graftline.faces import face

if TYPE_CHECKING:
    from graftline.components.transform.component import Transform
    from graftline.components.transform.settings import TransformSettings

__getattr__ = face(__name__)
