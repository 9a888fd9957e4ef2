"""Every mode of preprocessing."""

ALL = [
    "tf",
    "torch",
    "caffe",
    "rescale",
    "none",
    {"mean": 127.5, "variance": 100.0},
    {"mean": [120.0, 110.0, 100.0], "variance": [3000.0, 4000.0, 5000.0]},
]
