"""Synthetic words as a random-access source of records."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rcmstr_jax.data.records import ENDLESS, Record, check_index
from rcmstr_jax.data.synthetic.fonts import Face
from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.data.synthetic.render import WordRenderer


class SyntheticSource:
    """Words drawn on demand. Record i depends on (seed, i) and the options alone.

    The same package versions give the same bytes, in any order and in any process. Fonts are
    checked and the word list is filtered on construction, so that a mistake shows at once; a
    pickled source carries the checked fonts along.

    Attributes:
      name: "synthetic:" and the seed.
      endless: whether the source has its default length and is read at growing positions.
      options: what words look like.
    """

    def __init__(
        self,
        seed: int = 0,
        length: int | None = None,
        options: RenderOptions | None = None,
        *,
        faces: Sequence[Face] | None = None,
    ) -> None:
        """Finds fonts and words.

        Args:
          seed: selects one of many unrelated sequences, 0 to 2**63 - 1.
          length: number of records; None for 2**40, which never ends in practice.
          options: what words look like; the "medium" difficulty by default.
          faces: fonts that were checked already, for these options.

        Raises:
          ValueError: a seed or length out of range, no usable font, or no word after the
            filters.
        """
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed = {seed}: give a number from 0 to 2**63 - 1")
        if length is not None and not 1 <= length <= ENDLESS:
            raise ValueError(f"length = {length}: give 1 to 2**40, or None for an endless source")
        self.seed = seed
        self.endless = length is None
        self.options = options if options is not None else RenderOptions()
        self.name = f"synthetic:{seed}"
        self._given = length
        self._renderer = WordRenderer(self.options, faces=faces)

    def __len__(self) -> int:
        return ENDLESS if self._given is None else self._given

    def __getitem__(self, index: int) -> Record:
        position = check_index(int(index), len(self), self.name)
        image, text = self._renderer.render(self.seed, position)
        return Record(image=image, text=text, source=self.name, key=str(position))

    def label(self, index: int) -> str:
        """See `label_of`; nothing is drawn."""
        return self._renderer.text(self.seed, check_index(int(index), len(self), self.name))

    def __repr__(self) -> str:
        return f"SyntheticSource(seed={self.seed}, length={self._given}, options={self.options})"

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = functools.partial(SyntheticSource, faces=tuple(self.faces))
        return rebuild, (self.seed, self._given, self.options)

    @property
    def faces(self) -> list[Face]:
        """The faces that words are set in."""
        return self._renderer.fonts.faces
