"""From an image file's bytes to upright pixels, as TensorFlow ops: the one decoder of training, gate and serving."""

import tensorflow as tf

from graftline.trainer.backbones import Resize

# EXIF is in a JPEG's first APP1 segment. A segment has at most 64 KiB, and a few (JFIF, ICC) may come before it.
_HEAD_BYTES = 4 * 65536
_EXIF = (0x45, 0x78, 0x69, 0x66, 0, 0)  # "Exif\0\0"
_ORIENTATION_TAG = 0x0112
_MAX_IFD_ENTRIES = 512
# A PNG whose colour type (byte 25) has an alpha channel, or that has a chunk tRNS. \C is any byte.
_TRANSPARENT = r"\CPNG\r\n\x1a\n(\C{17}[\x04\x06]\C*|\C*tRNS\C*)"


def exif_orientation(data: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation of a JPEG's bytes, string [] (CIPA DC-008, tag 0x0112).

    It is int32 [], 1..8; 1 if there is no valid orientation, and for other formats.
    """
    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, _HEAD_BYTES), tf.uint8), tf.int32)
    size = tf.size(head)
    head = tf.concat([head, tf.zeros([16], tf.int32)], axis=0)

    def at(position: tf.Tensor) -> tf.Tensor:
        return tf.gather(head, tf.clip_by_value(position, 0, size + 15))

    def is_exif(position: tf.Tensor) -> tf.Tensor:
        return (at(position + 1) == 0xE1) & tf.reduce_all(at(position + 4 + tf.range(6)) == tf.constant(_EXIF))

    def goes_on(position: tf.Tensor) -> tf.Tensor:
        marker = at(position + 1)
        image_data = (marker == 0xDA) | (marker == 0xD9)
        return (position + 4 < size) & (at(position) == 0xFF) & ~image_data & ~is_exif(position)

    def step(position: tf.Tensor) -> list[tf.Tensor]:
        fill = at(position + 1) == 0xFF  # any number of 0xFF may come before a marker
        return [position + tf.where(fill, 1, 2 + tf.maximum(2, at(position + 2) * 256 + at(position + 3)))]

    segment = tf.while_loop(goes_on, step, [tf.constant(2)])[0]
    tiff = segment + 10
    little = at(tiff) == 0x49  # "II"; "MM" is big-endian

    def u16(position: tf.Tensor) -> tf.Tensor:
        first, second = at(position), at(position + 1)
        return tf.where(little, second * 256 + first, first * 256 + second)

    # Offsets have 32 bits. An offset past the end of the head means a damaged block, and `at` then reads zeros.
    high, low = tf.where(little, u16(tiff + 6), u16(tiff + 4)), tf.where(little, u16(tiff + 4), u16(tiff + 6))
    directory = tiff + tf.where(high < 4, high * 65536 + low, size)
    entries = directory + 2 + 12 * tf.range(tf.minimum(u16(directory), _MAX_IFD_ENTRIES))
    kind = u16(entries + 2)  # SHORT; some files have LONG, against the standard
    values = tf.where(kind == 4, u16(entries + tf.where(little, 8, 10)), u16(entries + 8))
    found = tf.boolean_mask(values, (u16(entries) == _ORIENTATION_TAG) & ((kind == 3) | (kind == 4)))
    value = tf.concat([found, [1]], axis=0)[0]
    jpeg = (at(tf.constant(0)) == 0xFF) & (at(tf.constant(1)) == 0xD8)
    return tf.where(jpeg & (segment + 4 < size) & is_exif(segment) & (value >= 1) & (value <= 8), value, 1)


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn stored pixels, uint8 [height, width, 3], as a viewer does by EXIF's orientation, int32 [], 1..8.

    Height and width of the result are swapped for 5..8.
    """

    def turned() -> tf.Tensor:
        # 5..8 are first mirrored over the diagonal. The remaining steps are flips of the two axes.
        straight = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        left_right = tf.reduce_any(orientation == tf.constant([2, 3, 6, 7]))
        straight = tf.cond(left_right, lambda: tf.reverse(straight, [1]), lambda: straight)
        up_down = tf.reduce_any(orientation == tf.constant([3, 4, 7, 8]))
        return tf.cond(up_down, lambda: tf.reverse(straight, [0]), lambda: straight)

    return tf.ensure_shape(tf.cond(orientation == 1, lambda: image, turned), [None, None, 3])


def may_be_transparent(data: tf.Tensor) -> tf.Tensor:
    """Return whether bytes, string [], are a PNG that may have transparent pixels; bool [].

    Chance bytes that spell tRNS do no harm: an image without transparency stays as it is.
    """
    return tf.strings.regex_full_match(tf.strings.substr(data, 0, _HEAD_BYTES), _TRANSPARENT)


def _lay_on_white(data: tf.Tensor) -> tf.Tensor:
    """Decode a PNG and lay its transparent pixels on white, rounded to the nearest level: uint8 [height, width, 3]."""
    image = tf.cast(tf.io.decode_png(data, channels=4), tf.uint16)
    alpha = image[..., 3:]
    sums = image[..., :3] * alpha + 255 * (255 - alpha) + 128  # at most 65,153
    return tf.cast(tf.bitwise.right_shift(sums + tf.bitwise.right_shift(sums, 8), 8), tf.uint8)  # divided by 255


# A separate function is traced once. TFT traces the caller ten times, which took two seconds.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode_upright(data: tf.Tensor) -> tf.Tensor:
    """Decode a JPEG, PNG, GIF (its first frame) or BMP file, string [], to upright RGB, uint8 [height, width, 3].

    Transparent pixels of a PNG are laid on white. The op fails with INVALID_ARGUMENT if the bytes are not such an
    image.
    """
    image = tf.cond(
        may_be_transparent(data),
        lambda: _lay_on_white(data),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    return turn_upright(tf.ensure_shape(image, [None, None, 3]), exif_orientation(data))


def to_square(image: tf.Tensor, size: int, resize: Resize = "stretch") -> tf.Tensor:
    """Resize an image to a square, bilinear and antialiased: without, 12 megapixels to 224 px give aliases.

    Args:
        image: uint8 [height, width, 3], upright.
        size: side of the result in pixels.
        resize: "stretch" changes the aspect ratio, "crop" takes the largest square in the middle, "pad" puts the whole
            image in the middle of a black square. An odd pixel of the margins is at the bottom or on the right.

    Returns:
        float32 [size, size, 3] in 0..255.
    """
    inner = tf.constant([size, size])
    if resize != "stretch":
        sides = tf.shape(image)[:2]
    if resize == "crop":
        side = tf.reduce_min(sides)
        image = tf.slice(image, tf.concat([(sides - side) // 2, [0]], 0), tf.stack([side, side, 3]))
    if resize == "pad":
        # `tf.image.resize_with_pad` makes 0 pixels of the short side of 1 x 3000.
        longest = tf.reduce_max(sides)
        inner = tf.maximum(1, (2 * size * sides + longest) // (2 * longest))  # size * sides / longest, rounded
    resized = tf.image.resize(image, inner, method="bilinear", antialias=True)
    if resize == "pad":
        before = (size - inner) // 2
        resized = tf.pad(resized, tf.concat([tf.stack([before, size - inner - before], 1), [[0, 0]]], 0))
    return tf.ensure_shape(resized, [size, size, 3])


def decode_batch(data: tf.Tensor, size: int, resize: Resize = "stretch") -> tf.Tensor:
    """Decode files, string [N], turn them upright and resize them as `to_square`: float32 [N, size, size, 3]."""

    def one(image_bytes: tf.Tensor) -> tf.Tensor:
        return to_square(decode_upright(image_bytes), size, resize)

    return tf.map_fn(one, data, fn_output_signature=tf.TensorSpec([size, size, 3], tf.float32))
