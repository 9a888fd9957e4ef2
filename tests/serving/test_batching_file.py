"""TensorFlow Serving's batching parameters: as data, and as a file."""

import pytest

from graftline.errors import UserError
from graftline.serving.server import batching_file
from graftline.serving.server.options import BatchingParameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size is 0: give a whole number of 1 or more"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros is -1: give 0 or more"),
        (
            {"max_batch_size": 8, "allowed_batch_sizes": (4, 2, 8)},
            "allowed_batch_sizes is 4, 2, 8: its entries must increase, and the last must be max_batch_size, "
            "which is 8",
        ),
    ],
)
def test_invalid_parameters_are_named(parameters, message):
    with pytest.raises(UserError) as caught:
        BatchingParameters(**parameters)
    assert str(caught.value) == message


def test_a_batching_parameters_file_of_tensorflow_serving_is_read(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 16 }\nbatch_timeout_micros { value: 500 } max_enqueued_batches { value: 7 }\n"
        "num_batch_threads { value: 3 }  # a comment\nallowed_batch_sizes: [4, 16]\npad_variable_length_inputs: true\n"
        "enable_large_batch_splitting { value: False } max_execution_batch_size { value: 16 }\n"
        'thread_pool_name { value: "pool" }'
    )
    assert batching_file.read(str(file)) == BatchingParameters(
        max_batch_size=16,
        batch_timeout_micros=500,
        max_enqueued_batches=7,
        num_batch_threads=3,
        allowed_batch_sizes=(4, 16),
        enable_large_batch_splitting=False,
    )
    file.write_text("")
    assert batching_file.read(str(file)) == BatchingParameters()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 3", "is not a BatchingParameters: 1:"),
        ("max_batch { value: 3 }", 'has no field named "max_batch"'),
        ("max_batch_size { value: 0 }", ": max_batch_size is 0: give a whole number of 1 or more"),
    ],
)
def test_a_batching_parameters_file_with_a_mistake_is_named(tmp_path, text, message):
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        batching_file.read(str(file))
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
