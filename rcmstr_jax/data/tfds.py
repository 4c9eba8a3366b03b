"""Records of any TFDS builder with an image feature, read without TensorFlow.

The set must have been prepared in a random-access format (array_record). Images are taken as
the encoded bytes, so that they are decoded like those of every other source.
"""

from __future__ import annotations

import os
from typing import Any

from rcmstr_jax.data.records import BadRecord, Record, check_index, decode_label

_TEXT_FEATURES = ("text", "label", "word", "transcription")


class TfdsSource:
    """One split of a TFDS builder.

    Attributes:
      name: "tfds:" and builder, split and data folder, as `open_source` takes it.
      image_feature: name of the image feature that is read.
      text_feature: name of the text feature, or None where there is none.
      labelled: whether texts are read.
    """

    def __init__(
        self,
        builder: str,
        split: str = "train",
        *,
        data_dir: str | os.PathLike[str] | None = None,
        labels: bool = True,
    ) -> None:
        """Opens a prepared builder.

        Args:
          builder: name of the builder, with config and version if need be
            ("words/small:1.0.0"), or a folder that holds a prepared one.
          split: the split, TFDS slices ("train[:90%]") included.
          data_dir: where builders were prepared; TFDS's own default if None.
          labels: whether to read the text feature. It is the first of text, label, word,
            transcription that holds strings.

        Raises:
          ValueError: TFDS is not installed, no such prepared builder or split, a format
            without random access, no image feature, or no records.
        """
        where = f"@{data_dir}" if data_dir is not None else ""
        self.name = f"tfds:{builder}:{split}{where}"
        self._builder_name = builder
        self._split = split
        self._data_dir = os.fspath(data_dir) if data_dir is not None else None
        self._pid = -1
        self._reader: Any = None
        features = self._open().info.features
        images, texts = _names_of(features, "Image"), _names_of(features, "Text")
        if not images:
            raise ValueError(
                f"{self.name} has no image feature; its features are {sorted(features)}"
            )
        self.image_feature = "image" if "image" in images else images[0]
        known = (key for key in _TEXT_FEATURES if labels and key in texts)
        self.text_feature = next(known, None)
        self.labelled = self.text_feature is not None
        self._size = len(self._records())
        if self._size == 0:
            raise ValueError(f"{self.name} is empty; choose another split")

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        check_index(index, self._size, self.name)
        try:
            example = self._records()[index]
        except (RuntimeError, ValueError, IndexError) as error:
            raise BadRecord(
                "TFDS read error", str(error)[:200], source=self.name, key=str(index)
            ) from error
        text: str | None = None
        if self.text_feature is not None:
            raw = example[self.text_feature]
            text = decode_label(raw, self.name, str(index)) if isinstance(raw, bytes) else str(raw)
        return Record(bytes(example[self.image_feature]), text, self.name, str(index))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_pid": -1}

    def _records(self) -> Any:
        if self._reader is None or self._pid != os.getpid():
            self._reader = self._make_reader()
            self._pid = os.getpid()
        return self._reader

    def _make_reader(self) -> Any:
        import tensorflow_datasets as tfds

        builder = self._open()
        # Every image stays encoded: ours decodes like those of other sources, others are not used.
        images = _names_of(builder.info.features, "Image")
        decoders = {key: tfds.decode.SkipDecoding() for key in images}
        try:
            return builder.as_data_source(self._split, decoders=decoders)
        except NotImplementedError as error:
            raise ValueError(
                f"{self.name} lies at {builder.data_path} in a format without random access; "
                f"delete that folder, and prepare it as array_record: {self._how_to_prepare()}"
            ) from error
        except (KeyError, ValueError, AssertionError) as error:
            raise ValueError(
                f"{self.name}: no such prepared split {self._split!r} ({error}); it has "
                f"{sorted(builder.info.splits)}"
            ) from error

    def _how_to_prepare(self) -> str:
        folder = f", data_dir={self._data_dir!r}" if self._data_dir else ""
        return (
            'python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder({self._builder_name!r}{folder}, "
            "file_format='array_record').download_and_prepare()\""
        )

    def _open(self) -> Any:
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise ValueError(
                f"{self.name} needs tensorflow_datasets ({error}); install it"
            ) from error
        try:
            if os.path.isdir(self._builder_name):
                return tfds.builder_from_directory(self._builder_name)
            builder = tfds.builder(self._builder_name, data_dir=self._data_dir)
        except ImportError as error:
            said = str(error).strip().splitlines() or ["ImportError"]
            raise ValueError(
                f"{self.name} needs a package that is not installed here ({said[-1]}); install "
                "it, or prepare the builder where it is, and name the folder after @"
            ) from error
        except (tfds.core.DatasetNotFoundError, OSError, ValueError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{self.name}: no TFDS builder of this name is known or prepared ({first}); check "
                "the name, and the folder after @"
            ) from error
        if not builder.data_path.exists():
            raise ValueError(
                f"{self.name} is known to TFDS, but not prepared in {builder.data_path.parent}: "
                f"prepare it once, {self._how_to_prepare()}, or name the folder that has it after @"
            )
        return builder


def _names_of(features: Any, kind: str) -> list[str]:
    """Names of the features of a kind ("Image", or "Text": a class label is a number, no word)."""
    import tensorflow_datasets as tfds

    return [key for key in features if isinstance(features[key], getattr(tfds.features, kind))]
