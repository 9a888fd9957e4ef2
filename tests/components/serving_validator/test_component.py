"""The node for each engine."""

from graftline.components.serving_validator.settings import ServingValidationSettings


def test_docker_s_engine_is_tfx_s_own_under_the_same_name() -> None:
    """Built, not run: there is no docker here."""
    from tfx.components import InfraValidator
    from tfx.types import Channel, standard_artifacts

    from graftline.components.serving_validator.component import NODE, ServingValidator, serving_validator

    given = {
        "model": Channel(type=standard_artifacts.Model),
        "examples": Channel(type=standard_artifacts.Examples),
        "served": "/models/roses",
        "allow_withdrawn": False,
        "withdrawn": "",
        "code": "",
    }
    docker = serving_validator(ServingValidationSettings(engine="docker", start_seconds=60), **given)
    assert isinstance(docker, InfraValidator)
    assert docker.id == NODE
    assert '"max_loading_time_seconds": 60' in docker.exec_properties["validation_spec"]
    assert "serving_examples" in docker.exec_properties["request_spec"]
    ours = serving_validator(ServingValidationSettings(engine="docker", enabled=False), **given)
    assert isinstance(ours, ServingValidator), "which looks for withdrawals all the same"
    assert ours.id == NODE
