"""Words in two resolutions out of LMDBs: TextZoom's, and real crops that our camera damages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcmstr_jax.data.decode import decode_image, is_vertical, read_size
from rcmstr_jax.data.dense.rendered import damage
from rcmstr_jax.data.dense.words import HIGH, LOW, DenseWord
from rcmstr_jax.data.lmdb import LmdbSource, find_lmdbs
from rcmstr_jax.data.records import BadRecord, ConcatSource, check_index
from rcmstr_jax.data.synthetic.options import RenderOptions

# Unlike those of rendered words, whose keys are (seed, index): crops have no seed of their own.
_SEED = 20200507


class TextZoomSource:
    """TextZoom (Wang et al., arXiv 2005.03341): words photographed at two focal lengths.

    LMDBs with `num-samples`, `image_hr-%09d`, `image_lr-%09d` and `label-%09d`, counted from 1,
    as in the published train1, train2, test/easy, test/medium and test/hard.

    Attributes:
      name: "textzoom:" and the folder.
    """

    def __init__(self, folder: str) -> None:
        """Opens every LMDB at or below a folder, one after the other.

        Raises:
          ValueError: no LMDB, or one of another layout.
        """
        self.name = f"textzoom:{folder}"
        paths = find_lmdbs(folder)
        self._high = ConcatSource([LmdbSource(path, image_key="image_hr") for path in paths])
        self._low = ConcatSource([LmdbSource(path, image_key="image_lr") for path in paths])

    def __len__(self) -> int:
        return len(self._high)

    def __getitem__(self, index: int) -> DenseWord:
        position = check_index(int(index), len(self), self.name)
        high, low = self._high[position], self._low[position]
        try:
            target = decode_image(high.image, HIGH)
            return DenseWord(decode_image(low.image, LOW), target, low.text or "")
        except BadRecord as error:
            error.source, error.key = high.source, f"{high.key} {low.key}"
            raise


class CropsSource:
    """Real crops of 32 pixels of height and more, resized, and damaged by the renderer's camera.

    Crops that are much higher than wide are left out with the small ones. Those whose size cannot
    be read stay, to be skipped by name.

    Attributes:
      name: "crops:" and the paths.
    """

    def __init__(self, paths: Sequence[str], options: RenderOptions) -> None:
        """Reads the headers of all images.

        Args:
          paths: folders with one LMDB or several.
          options: the fields of the camera are used.

        Raises:
          ValueError: no LMDB, or no crop that is large enough.
        """
        self.name = f"crops:{','.join(paths)}"
        self._options = options
        self._source = ConcatSource([LmdbSource(p) for path in paths for p in find_lmdbs(path)])
        self._kept = [index for index in range(len(self._source)) if self._is_large(index)]
        if not self._kept:
            raise ValueError(
                f"data.source: {self.name!r} has no crop of {HIGH[0]} pixels of height or more "
                f"among {len(self._source)}; name larger ones"
            )

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> DenseWord:
        position = self._kept[check_index(int(index), len(self), self.name)]
        record = self._source[position]
        try:
            clean = decode_image(record.image, HIGH)
        except BadRecord as error:
            error.source, error.key = record.source, record.key
            raise
        rng = np.random.Generator(np.random.Philox(key=[_SEED, position]))
        return DenseWord(damage(rng, clean, self._options), clean, record.text or "")

    def _is_large(self, index: int) -> bool:
        try:
            width, height = read_size(self._source[index].image)
        except BadRecord:
            return True
        return height >= HIGH[0] and not is_vertical(width, height)
