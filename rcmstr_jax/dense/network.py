"""A trained encoder and head: images in, pictures out; saved and loaded as one thing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from rcmstr_jax.dense.heads import DenseHead, make_head
from rcmstr_jax.recognition.encoders import Encoder, check_same_shapes, saved_encoder
from rcmstr_jax.recognition.saved import SavedRecognizer, read_saved
from rcmstr_jax.runtime import parallel
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.digest import nested
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition

Tree = Any
# Folder of a workdir that holds the trained network.
DENSE = "dense"


@dataclasses.dataclass(frozen=True)
class DenseNetwork:
    """An encoder and a head, ready to answer.

    Attributes:
      task: "segmentation" or "super_resolution".
      encoder: with the parameters and statistics that it works with.
      head: what it makes of the encoder's maps.
      params: of the head.
      description: what a report says about it, JSON-ready.
      batch_size: images per compiled call; each call is filled up to it.
    """

    task: str
    encoder: Encoder
    head: DenseHead
    params: Tree
    description: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 32

    def __call__(
        self, images: UInt8[np.ndarray, "images height width 3"]
    ) -> UInt8[np.ndarray, "images ..."]:
        """The picture of every image, which has the size that the head takes."""
        batches = parallel.whole_batches(images, self.batch_size)
        return np.concatenate([self._rows(batch)[:count] for batch, count in batches])

    def compile(self) -> None:
        """Answers an empty image, so that the first real one is as quick as the others."""
        self(np.zeros((1, *self.head.taken, 3), np.uint8))

    @functools.cached_property
    def _rows(self) -> Callable[[Any], Any]:
        weights = self.encoder.params, self.encoder.batch_stats, self.params
        return parallel.map_rows(self.network)(weights)

    def network(self, weights: Tree, images: Any) -> Any:
        """The pictures of uint8 images; to be compiled."""
        maps, _ = self.encoder.maps(weights[0], weights[1], self.head.shown(images))
        return self.head.answer(weights[2], images, maps)

    def save(self, workdir: str | Path, position: DataPosition) -> str:
        """Writes it into `workdir/dense`, whole or not at all; returns its digest.

        Raises:
          CheckpointError: it cannot be written.
        """
        config = {
            "model": self.encoder.origin["model"],
            "decoder": {"task": self.task, **self.head.sizes},
            "description": self.description,
        }
        state = {
            "encoder": {"params": self.encoder.params, "batch_stats": self.encoder.batch_stats},
            "decoder": self.params,
        }
        with Checkpoints(Path(workdir) / DENSE, keep=1) as checkpoints:
            return checkpoints.save(self.description["steps"], state, config, position).result()


def load_network(
    workdir: str | Path, *, task: str | None = None, batch_size: int = 32
) -> DenseNetwork:
    """The network of a finished evaluation.

    Args:
      workdir: of launch/evaluate.py with a config of a dense task.
      task: that it must have been trained for; None takes any.
      batch_size: images per compiled call.

    Raises:
      ConfigError: there is none, or it was trained for another task.
      CheckpointError: it is damaged.
    """
    folder = Path(workdir) / DENSE
    if not folder.is_dir():
        raise ConfigError(
            f"--checkpoint={workdir} holds no network of a dense task: give the --workdir of a"
            " finished launch/evaluate.py --config=segmentation or super_resolution"
        )
    return _network(read_saved(folder), task, batch_size)


def _network(saved: SavedRecognizer, task: str | None, batch_size: int) -> DenseNetwork:
    sizes = dict(saved.decoder)
    own = sizes.pop("task")
    if task not in (None, own):
        raise ConfigError(
            f"--checkpoint={saved.place.parent} was trained for {own}: use"
            f" launch/{'segment' if own == 'segmentation' else 'enhance'}.py for it, or give a"
            f" network of {task}"
        )
    encoder = saved_encoder(saved, saved.description["encoder"])
    head = make_head(own, encoder, **sizes)
    params = nested(saved.arrays, "decoder")
    wanted = jax.eval_shape(head.init, jax.random.key(0), map_shapes(encoder))
    check_same_shapes({"decoder": params}, {"decoder": wanted}, str(saved.place))
    return DenseNetwork(own, encoder, head, params, saved.description, batch_size)


def map_shapes(encoder: Encoder) -> list[Any]:
    """Shapes of an encoder's maps of two images; nothing is computed."""
    images = jax.ShapeDtypeStruct((2, *encoder.image_size, 3), np.float32)
    return jax.eval_shape(encoder.maps, encoder.params, encoder.batch_stats, images)[0]
