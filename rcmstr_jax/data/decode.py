"""Encoded word images to uint8 arrays of one size.

OpenCV decodes, about twice as fast as Pillow and without the interpreter lock. Sizes are read
from the header first, so that a damaged or hostile header costs no memory.
"""

from __future__ import annotations

import io
import zlib

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rcmstr_jax.data.records import BadRecord

# A word crop of more pixels is a mistake (50 MB as RGB); it is refused before it is decoded.
MAX_PIXELS = 2**24
# A photograph that words are cut out of.
MAX_PHOTO_PIXELS = 2**26
# From so many times its width on, a crop's height says that its line of text runs downwards.
_VERTICAL = 1.5
_TURN = {"left": cv2.ROTATE_90_COUNTERCLOCKWISE, "right": cv2.ROTATE_90_CLOCKWISE}
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_SHORT = 2**16
# JPEG markers that begin a frame header (SOF0-15 without DHT, JPG and DAC).
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_REDUCED = (
    (8, cv2.IMREAD_REDUCED_COLOR_8),
    (4, cv2.IMREAD_REDUCED_COLOR_4),
    (2, cv2.IMREAD_REDUCED_COLOR_2),
)


class UndecodableImage(BadRecord):
    """Bytes that are no image that can be used; `reason` says why."""


def prepare_process() -> None:
    """Keeps OpenCV to one thread and quiet: the pipeline has its own workers and its own report."""
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_vertical(width: int, height: int) -> bool:
    """Whether a crop of these pixels is one that `decode_image` turns."""
    return height >= _VERTICAL * width


def decode_image(
    data: bytes, size: tuple[int, int], turn: str = "off"
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes an image and resizes it, aspect ratio not kept.

    Grey, palette, 16-bit and CMYK images become 8-bit RGB; transparent PNGs are laid on white.
    A JPEG that is at least twice the wanted size in both directions is decoded at 1/2, 1/4 or
    1/8 of its scale, never below the wanted size.

    Args:
      data: encoded image (any format that OpenCV reads).
      size: (height, width) of the result in pixels.
      turn: "left" or "right" turns a crop that is at least 1.5 times as high as wide by 90
        degrees, so that a line that runs down or up lies level; "off" leaves it as it is.

    Returns:
      uint8 RGB array.

    Raises:
      UndecodableImage: empty, not an image, truncated, damaged or too large.
    """
    stored = size[::-1] if turn != "off" and is_vertical(*_checked_size(data, MAX_PIXELS)) else size
    image = _decode(data, MAX_PIXELS, reduce_to=stored)
    # By the pixels, which the camera's own note on rotation may have turned.
    if turn != "off" and is_vertical(image.shape[1], image.shape[0]):
        image = cv2.rotate(image, _TURN[turn])
    return cv2.cvtColor(resize_image(image, size), cv2.COLOR_BGR2RGB)


def decode_photograph(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a whole photograph as it is stored, uint8 BGR: annotations count these pixels.

    Raises:
      UndecodableImage: as `decode_image`, with room for four times as many pixels.
    """
    return _decode(data, MAX_PHOTO_PIXELS, cv2.IMREAD_IGNORE_ORIENTATION)


def _checked_size(data: bytes, limit: int) -> tuple[int, int]:
    if not data:
        raise UndecodableImage("empty image")
    width, height = read_size(data)
    if width <= 0 or height <= 0:
        raise UndecodableImage("image without pixels", f"{width} x {height}")
    if width * height > limit:
        raise UndecodableImage("image too large", f"{width} x {height} pixels")
    return width, height


def _decode(
    data: bytes, limit: int, flags: int = 0, reduce_to: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """BGR pixels; a JPEG may be smaller, but no side of it below `reduce_to`."""
    width, height = _checked_size(data, limit)
    flag = cv2.IMREAD_COLOR | flags
    transparent = False
    kind = "or unsupported image"  # whose header Pillow knows
    if data.startswith(_JPEG):
        kind = "JPEG"
        least = reduce_to or (height, width)
        for factor, reduced in _REDUCED:
            if height >= factor * least[0] and width >= factor * least[1]:
                flag = reduced
                break
    elif data.startswith(_PNG):
        kind = "PNG"
        chunks = _png_chunks(data)
        if b"acTL" in chunks:
            raise UndecodableImage("several images in one", "frames")
        _check_png_data(data, width * height)
        # Colour types 4 and 6 have an alpha channel; a palette may have one in its tRNS chunk.
        transparent = data[25] in (4, 6) or b"tRNS" in chunks
        if b"iCCP" in chunks:
            # OpenCV ignores the colour profile, but libpng prints warnings about it.
            start, end = chunks[b"iCCP"]
            data = data[:start] + data[end:]
        if transparent:
            flag = cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise UndecodableImage(f"damaged {kind}", str(error.err)) from None
    if image is None:
        raise UndecodableImage(f"damaged {kind}")
    return _on_white(image) if transparent else image


def resize_image(
    image: UInt8[np.ndarray, "h w channels"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    """Resizes: averaging (area) in a direction that shrinks, bicubic in one that grows.

    Where one shrinks and the other grows, the shrinking is done first.

    Args:
      image: uint8 array with any channel order.
      size: (height, width) of the result.
    """
    height, width = image.shape[:2]
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != size:
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
    return image


def read_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels that the header states, without decoding.

    Raises:
      UndecodableImage: no known header, or a JPEG cut off before its end.
    """
    if data.startswith(_PNG):
        if len(data) < 33:
            raise UndecodableImage("truncated PNG")
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    try:
        with Image.open(io.BytesIO(data)) as image:
            several, size = getattr(image, "is_animated", False), image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UndecodableImage("image too large", str(error)) from None
    except (OSError, ValueError, SyntaxError, OverflowError):
        raise UndecodableImage("not an image", f"begins with {data[:8]!r}") from None
    if several:
        raise UndecodableImage("several images in one", "frames or pages")
    return size


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    end = len(data) - 9
    while position < end:
        if data[position] != 0xFF:
            raise UndecodableImage("damaged JPEG", "no marker where one must be")
        marker = data[position + 1]
        if marker == 0xFF:  # Fill byte.
            position += 1
            continue
        if marker in _FRAME_HEADERS:
            # Decoders paint the missing part of a cut-off JPEG grey and do not complain.
            # A thumbnail, with an end marker of its own, can only lie before the frame header.
            if data.rfind(b"\xff\xd9", position) < 0:
                raise UndecodableImage("truncated JPEG")
            return (
                int.from_bytes(data[position + 7 : position + 9], "big"),
                int.from_bytes(data[position + 5 : position + 7], "big"),
            )
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise UndecodableImage("truncated JPEG", "no frame header")


def _png_chunks(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Name -> (start, end) of the last chunk of that name.

    OpenCV makes room for the length that a chunk claims, which damage turns into gigabytes.
    """
    chunks: dict[bytes, tuple[int, int]] = {}
    start = len(_PNG)
    while b"IEND" not in chunks:
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            raise UndecodableImage("truncated PNG")
        chunks[data[start + 4 : start + 8]] = (start, end)
        start = end
    return chunks


def _check_png_data(data: bytes, pixels: int) -> None:
    """Refuses more image data than pixels need, which libpng would inflate for minutes.

    Deflate makes at most a thousand bytes of one: what is short needs no look.
    """
    if len(data) <= _SHORT:
        return
    inflate, room = zlib.decompressobj(), 8 * pixels + 2**20  # 16 bits RGBA; row filters, passes
    start = len(_PNG)
    while start < len(data) and room > 0:
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] == b"IDAT":
            try:
                room -= len(inflate.decompress(data[start + 8 : end - 4], room))
            except zlib.error:
                return  # damaged: libpng says so
        start = end
    if room <= 0:
        raise UndecodableImage("more image data than pixels", f"{pixels} pixels")


def _on_white(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """8-bit BGR of an image that may have alpha or 16 bits, laid on white."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 2:
        image = np.concatenate([np.repeat(image[..., :1], 3, axis=2), image[..., 1:]], axis=2)
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.uint16)
    mixed = image[..., :3].astype(np.uint16) * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)
