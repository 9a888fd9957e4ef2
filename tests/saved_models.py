"""Two real SavedModels, small enough to build in a second."""

from graftline import signatures as names

LABELS = ("blue", "green", "red")


def save_colour_model(path: str, bias: float = 0.0) -> str:
    """A classifier with Graftline's signatures that tells red, green and blue images apart.

    `bias` sharpens its probabilities, so that two versions of it can be told apart.
    """
    import tensorflow as tf

    class Colours(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sharpness = tf.Variable(5.0 + bias)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=names.IMAGE_BYTES)])
        def serving_default(self, image_bytes):
            def mean_colour(one):
                pixels = tf.io.decode_image(one, channels=3, expand_animations=False)
                pixels.set_shape([None, None, 3])
                return tf.reduce_mean(tf.cast(pixels, tf.float32) / 255.0, axis=[0, 1])

            means = tf.map_fn(mean_colour, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))
            probabilities = tf.nn.softmax(self.sharpness * tf.reverse(means, axis=[-1]))
            scores, order = tf.math.top_k(probabilities, k=3)
            labels = tf.gather(tf.constant(LABELS), order)
            return {
                names.PROBABILITIES: probabilities,
                names.LABEL: labels[:, 0],
                names.SCORE: scores[:, 0],
                names.TOP_K_LABELS: labels,
                names.TOP_K_SCORES: scores,
            }

    module = Colours()
    tf.saved_model.save(module, path, signatures={names.SERVING_DEFAULT: module.serving_default})
    return path


def save_float_model(path: str) -> str:
    """A model of another origin: one float vector in, half of it plus two out, and signatures for other types."""
    import tensorflow as tf

    class Numbers(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
        def half_plus_two(self, x):
            return {"y": x / 2.0 + 2.0}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.int64, name="number"),
                tf.TensorSpec([None], tf.bool, name="flag"),
                tf.TensorSpec([None], tf.string, name="text"),
            ]
        )
        def mixed(self, number, flag, text):
            return {"number": number + 1, "flag": tf.logical_not(flag), "text": text, "text_bytes": text}

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
        def scalar(self, x):
            return {"y": x + 0.2}

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.uint8, name="u8"),
                tf.TensorSpec([None], tf.float16, name="half"),
                tf.TensorSpec([None], tf.float64, name="double"),
            ]
        )
        def narrow(self, u8, half, double):
            return {"u8": u8, "half": half, "double": double, "int32": tf.cast(u8, tf.int32)}

    module = Numbers()
    tf.saved_model.save(
        module,
        path,
        signatures={
            names.SERVING_DEFAULT: module.half_plus_two,
            "mixed": module.mixed,
            "scalar": module.scalar,
            "narrow": module.narrow,
        },
    )
    return path
