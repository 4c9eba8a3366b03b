from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rcmstr_jax.data.decode import (
    UndecodableImage,
    decode_image,
    decode_photograph,
    is_vertical,
    read_size,
    resize_image,
)

SIZE = (32, 100)


def png(width: int, height: int, kind: int = 2) -> bytes:
    """A PNG whose header claims a size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def saved(image: Image.Image, fmt: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"])
def test_formats_give_rgb_like_pillow(encode, fmt) -> None:
    data = encode(1, fmt, size=SIZE)
    image = decode_image(data, SIZE)
    assert image.dtype == np.uint8 and image.shape == (32, 100, 3)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(image.astype(int) - expected).mean() < 1.5
    assert read_size(data) == (100, 32)


@pytest.mark.parametrize(
    ("mode", "fmt"), [("L", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "JPEG")]
)
def test_modes_become_rgb(encode, mode, fmt) -> None:
    data = encode(2, fmt, mode, size=SIZE)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, SIZE) - expected).mean() < 3


def test_sixteen_bits_keep_the_high_byte() -> None:
    ramp = np.tile(np.linspace(0, 65535, 100), (32, 1)).astype(np.uint16)
    image = decode_image(saved(Image.fromarray(ramp)), SIZE)
    assert np.abs(image[..., 0].astype(int) - (ramp >> 8)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_laid_on_white(mode) -> None:
    # Black; opaque on the left half, transparent on the right.
    if mode == "P":
        image = Image.new("P", (100, 32), 0)
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.paste(1, (50, 0, 100, 32))
        data = saved(image, transparency=1)
    else:
        image = Image.new(mode, (100, 32), 0)
        alpha = Image.new("L", (100, 32), 0)
        alpha.paste(255, (0, 0, 50, 32))
        image.putalpha(alpha)
        data = saved(image)
    decoded = decode_image(data, SIZE)
    assert (decoded[:, :49] == 0).all() and (decoded[:, 51:] == 255).all()


def test_large_jpeg_is_decoded_at_reduced_scale_with_the_same_look(encode) -> None:
    data = encode(3, "JPEG", size=(200, 640))
    full = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    expected = resize_image(full, SIZE).astype(int)
    assert np.abs(decode_image(data, SIZE) - expected).mean() < 1


@pytest.mark.parametrize("size", [(32, 100), (10, 30), (64, 300), (10, 300), (64, 30), (1, 1)])
def test_resize_keeps_a_constant_and_a_mean(size) -> None:
    constant = np.full((*size, 3), 77, np.uint8)
    assert (resize_image(constant, SIZE) == 77).all()
    half = np.zeros((*size, 3), np.uint8)
    half[:, : size[1] // 2] = 200
    assert resize_image(half, SIZE).shape == (32, 100, 3)


def test_shrinking_averages() -> None:
    checks = np.indices((64, 200)).sum(0) % 2 * 255
    image = resize_image(np.repeat(checks[..., None], 3, 2).astype(np.uint8), SIZE)
    assert (np.abs(image.astype(int) - 127.5) <= 1).all()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_reasons(encode) -> None:
    jpeg, whole_png = encode(4, "JPEG"), encode(4, "PNG")
    cases = [
        (b"", "empty image"),
        (b"hello world" * 50, "not an image"),
        (b"\x00", "not an image"),
        (jpeg[: len(jpeg) // 2], "truncated JPEG"),
        (jpeg[:-2], "truncated JPEG"),
        (jpeg[:30], "truncated JPEG"),
        (jpeg[:2] + b"abc" + jpeg[2:], "damaged JPEG"),
        (whole_png[:20], "truncated PNG"),
        (whole_png[: len(whole_png) // 2], "truncated PNG"),
        (whole_png[:33] + b"\x70" + whole_png[34:], "truncated PNG"),
        (whole_png[:60] + bytes(5) + whole_png[65:], "damaged PNG"),
        (png(40_000, 40_000), "image too large"),
        (png(2**31 - 1, 2**31 - 1), "image too large"),
        (png(0, 10), "image without pixels"),
        (saved(Image.new("1", (20_000, 6_000)), "TIFF", compression="group4"), "image too large"),
    ]
    for data, reason in cases:
        with pytest.raises(UndecodableImage) as error:
            decode_image(data, SIZE)
        assert error.value.reason == reason, (error.value, data[:30])


def test_a_thumbnail_does_not_hide_a_cut(encode) -> None:
    # The thumbnail in the EXIF block ends with an end marker of its own.
    jpeg = encode(5, "JPEG")
    exif = b"Exif\x00\x00" + encode(6, "JPEG", size=(8, 8))
    block = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    whole = jpeg[:2] + block + jpeg[2:]
    assert read_size(whole) == (120, 40)
    with pytest.raises(UndecodableImage, match="truncated JPEG"):
        decode_image(whole[:-20], SIZE)


@settings(max_examples=150, deadline=None)
@given(
    fmt=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=6),
    cut=st.floats(0, 1),
)
def test_mutations_decode_or_are_refused(encode, fmt, flips, cut) -> None:
    data = bytearray(encode(7, fmt))
    for place, mask in flips:
        data[int(place * (len(data) - 1))] ^= mask
    if cut < 0.5:
        data = data[: int(2 * cut * len(data))]
    try:
        image = decode_image(bytes(data), SIZE)
    except UndecodableImage as error:
        assert error.reason
    else:
        assert image.shape == (32, 100, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("scale", [1, 4])  # 4: a JPEG is decoded at a smaller scale
def test_lines_that_run_downwards_are_turned(encode, fmt, scale) -> None:
    level = Image.open(io.BytesIO(encode(3, size=(32 * scale, 100 * scale))))
    fine = {"quality": 95, "subsampling": 0} if fmt == "JPEG" else {}
    wanted = decode_image(saved(level, fmt, **fine), SIZE).astype(int)
    for turn, back in (("left", -90), ("right", 90)):
        turned = saved(level.rotate(back, expand=True), fmt, **fine)
        image = decode_image(turned, SIZE, turn)
        assert image.shape == (*SIZE, 3) and np.abs(image - wanted).mean() < 2
        assert np.abs(decode_image(turned, SIZE) - wanted).mean() > 10
        # What is not much higher than wide stays.
        assert np.array_equal(decode_image(saved(level, fmt, **fine), SIZE, turn), wanted)
    assert is_vertical(20, 30) and not is_vertical(20, 29)


def test_photographs_keep_their_pixels(encode) -> None:
    data = encode(1, size=(45, 130))
    assert np.array_equal(
        decode_photograph(data)[..., ::-1], np.asarray(Image.open(io.BytesIO(data)))
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned
    turned = saved(Image.open(io.BytesIO(data)), "JPEG", exif=exif)
    assert decode_photograph(turned).shape == (45, 130, 3)
