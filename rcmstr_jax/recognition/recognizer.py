"""A trained recogniser: images in, words out; saved and loaded as one thing.

A saved recogniser lies in `WORKDIR/recognizer` and holds encoder and decoder with all that is
needed to use them: running statistics, architecture, alphabet, and how it was trained.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.decode import UndecodableImage, decode_image, resize_image
from rcmstr_jax.recognition.encoders import Encoder, check_same_shapes, saved_encoder
from rcmstr_jax.recognition.export import export_program
from rcmstr_jax.recognition.heads import DecoderHead, Reading, Word, make_head
from rcmstr_jax.recognition.saved import RECOGNIZER, read_saved, require_recognizer
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.digest import nested
from rcmstr_jax.runtime.provenance import DataPosition

Tree = Any
# An encoded word crop of more bytes is a mistake.
MAX_BYTES = 2**26
ImageLike = str | Path | bytes | Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Recognizer:
    """A trained encoder and decoder, ready to read.

    Attributes:
      encoder: with the parameters and statistics that it reads with.
      head: decoder and charset.
      decoder_params: parameters of the decoder.
      description: what a report says about it, JSON-ready.
      batch_size: images per compiled call of `__call__`; each call is filled up to it, so that
        an image goes through the same program alone as among others.
    """

    encoder: Encoder
    head: DecoderHead
    decoder_params: Tree
    description: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 32

    def __call__(self, images: ImageLike | Iterable[ImageLike]) -> list[Word]:
        """Reads words.

        Args:
          images: one image or several, each a word crop: a path, encoded bytes, a PIL image, or an
            array uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), in RGB order.

        Returns:
          A `Word` for each image: text, confidence, and the confidence of every character.

        Raises:
          UndecodableImage: bytes or a file that hold no usable image.
          OSError: a file that cannot be read.
          ValueError: an array of another shape or type.
        """
        alone = isinstance(images, ImageLike)
        listed: Any = [images] if alone else images
        return self.read([load_image(image, self.encoder.image_size) for image in listed])

    def read(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[Word]:
        """Reads images of the encoder's size."""
        words: list[Word] = []
        for batch, count in parallel.whole_batches(images, self.batch_size):
            words += self.reader(batch)[:count]
        return words

    def compile(self) -> None:
        """Reads an empty batch, so that the first real one is as quick as the others."""
        self.reader(np.zeros((self.batch_size, *self.encoder.image_size, 3), np.uint8))

    @functools.cached_property
    def reader(self) -> Callable[[np.ndarray], list[Word]]:
        """A function uint8 images (B, 32, W, 3) -> words, compiled once per batch size.

        The rows are divided over all devices where their number allows it.
        """

        rows = parallel.map_rows(self.network)(self.weights)
        return lambda images: self.head.words(rows(images))

    @property
    def weights(self) -> Tree:
        """What `network` takes: parameters and statistics of the encoder, those of the decoder."""
        return self.encoder.params, self.encoder.batch_stats, self.decoder_params

    def network(self, weights: Tree, images: Any) -> Reading:
        """What is read of uint8 images (B, 32, W, 3); to be compiled."""
        frames = self.encoder.infer(weights[0], weights[1], images)
        return self.head.read(weights[2], frames.astype(jnp.float32))

    def export(self, folder: str | Path, format: str = "stablehlo") -> dict[str, int]:
        """Writes a folder that reads without this package; see `export.export_program`."""
        return export_program(self, folder, format)

    def save(self, workdir: str | Path, position: DataPosition) -> str:
        """Writes the recogniser into `workdir/recognizer`, whole or not at all; returns its digest.

        Raises:
          CheckpointError: it cannot be written.
        """
        config = {
            "model": self.encoder.origin["model"],
            "decoder": {
                "name": self.head.name,
                "characters": self.head.charset.characters,
                "max_length": self.head.max_length,
                "beams": self.head.beams,
                **self.head.sizes,
            },
            "description": self.description,
        }
        state = {
            "encoder": {"params": self.encoder.params, "batch_stats": self.encoder.batch_stats},
            "decoder": self.decoder_params,
        }
        with Checkpoints(Path(workdir) / RECOGNIZER, keep=1) as checkpoints:
            return checkpoints.save(self.description["steps"], state, config, position).result()

    @classmethod
    def from_pretrained(
        cls, named: str | Path = "compact", *, batch_size: int = 32, beams: int | None = None
    ) -> Recognizer:
        """Loads the weights of this name that come with the package, or those of a folder.

        Args:
          named: `compact`, a folder of weights (launch/convert_weights.py), or the workdir of a
            finished evaluation (launch/evaluate.py).
          batch_size: images per compiled call.
          beams: of a transformer's search; None takes what it was evaluated with.

        Raises:
          ConfigError: no such name or recogniser, or one whose files are damaged.
          CheckpointError: the recogniser of a workdir is damaged.
        """
        saved = read_saved(require_recognizer(named))
        settings = {**saved.decoder}
        charset = Charset(settings.pop("characters"))
        if beams is not None:
            settings["beams"] = beams
        head = make_head(charset=charset, **settings)
        encoder = saved_encoder(saved, saved.description["encoder"])
        decoder = nested(saved.arrays, "decoder")
        frames = jax.ShapeDtypeStruct((2, *encoder.frames_shape()), jnp.float32)
        wanted = jax.eval_shape(head.init, jax.random.key(0), frames)
        check_same_shapes({"decoder": decoder}, {"decoder": wanted}, str(named))
        return cls(encoder, head, decoder, saved.description, batch_size)

    @classmethod
    def from_checkpoint(
        cls, folder: str | Path, *, batch_size: int = 32, beams: int | None = None
    ) -> Recognizer:
        """The same of a folder, also of one that is called like packaged weights."""
        return cls.from_pretrained(Path(folder), batch_size=batch_size, beams=beams)


def load_image(
    image: ImageLike, size: tuple[int, int], turn: str = "off"
) -> UInt8[np.ndarray, "height width 3"]:
    """A word crop as the network takes it: RGB, resized without regard to its aspect ratio.

    Args:
      turn: what is done to encoded crops that are much higher than wide, see `decode_image`.

    Raises:
      UndecodableImage: bytes or a file that hold no usable image.
      OSError: a file that cannot be read.
      ValueError: an array of another shape or type.
    """
    if isinstance(image, str | Path):
        image = read_file(image)
    if isinstance(image, bytes):
        return decode_image(image, size, turn)
    if not isinstance(image, Image.Image):
        if image.dtype != np.uint8:
            raise ValueError(f"image array of type {image.dtype}: give uint8 values, 0 to 255")
        image = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return resize_image(np.asarray(image.convert("RGB")), size)


def read_file(path: str | Path) -> bytes:
    """The bytes of an image's file.

    Raises:
      UndecodableImage: no regular file (a pipe would be waited for), or one far too large.
      OSError: it cannot be read.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode):
        raise UndecodableImage("no regular file")
    if about.st_size > MAX_BYTES:
        raise UndecodableImage("file too large", f"{about.st_size} bytes, {MAX_BYTES} allowed")
    return Path(path).read_bytes()
