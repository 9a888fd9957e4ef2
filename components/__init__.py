"""The TFX components that TFX does not have, and the Transform's graph."""


def __getattr__(name: str) -> object:
    """Kubeflow and Vertex import an artifact type by its type name, "components.Quarantine". Lazy: it imports TFX."""
    if name == "Quarantine":
        from graftline.components.image_example_gen.artifacts import Quarantine

        return Quarantine
    raise AttributeError(name)
