"""Words as a TFDS dataset in array_record files, written without TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from rcmstr_jax.data.records import Record

SPLIT = "train"


class SyntheticWords(tfds.core.GeneratorBasedBuilder):
    """Word crops with their text, split "train"; `formats.write_words` gives it the records.

    Read it with `tfds.builder("synthetic_words", data_dir=...).as_data_source("train")`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    DESCRIPTION = "Word crops rendered by rcmstr_jax.data.synthetic."

    def __init__(self, *, records: Iterable[Record] = (), **kwargs: Any) -> None:
        self._records = records
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "text": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "text"),
            # The order on disk is the order of the records.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in enumerate(self._records):
            yield number, {"image": io.BytesIO(record.image), "text": record.text or ""}


class WordCrops(SyntheticWords):
    """The same for crops of photographs (launch/prepare.py)."""

    DESCRIPTION = "Word crops of a public download, converted by launch/prepare.py."
