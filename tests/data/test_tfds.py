from __future__ import annotations

import io
import pickle
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from rcmstr_jax.data.benchmarks import open_benchmark, resolve_benchmarks
from rcmstr_jax.data.pipeline import eval_batches, train_batches
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.data.tfds import TfdsSource


def make_builder(encode, features: dict, count: int, data_dir, name: str):
    """Prepares a builder of `count` images in array_record, without TensorFlow."""

    def info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def examples(self):
        for i in range(count):
            values = {"image": io.BytesIO(encode(i)), "text": f"w{i}", "label": i % 2}
            values["crop"] = values["image"]
            yield i, {key: values[key] for key in features}

    kind = type(
        name,
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": info,
            "_split_generators": lambda self, _: {"train": examples(self)},
            "_generate_examples": lambda self: None,
            "__module__": __name__,
            "pkg_dir_path": data_dir,
        },
    )
    builder = kind(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, encode):
    data_dir = tmp_path_factory.mktemp("tfds")
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "text": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    make_builder(encode, features, 6, data_dir, "TinyWords")
    return data_dir


def test_encoded_bytes_come_back_untouched(prepared, encode) -> None:
    source = open_source(f"tfds:tiny_words@{prepared}")
    assert isinstance(source, TfdsSource)
    assert len(source) == 6 and source.labelled
    found = {source[i].text: source[i].image for i in range(6)}
    assert found == {f"w{i}": encode(i) for i in range(6)}
    assert pickle.loads(pickle.dumps(source))[2] == source[2]


def test_splits_and_folders(prepared) -> None:
    assert len(open_source(f"tfds:tiny_words:train[:50%]@{prepared}")) == 3
    folder = prepared / "tiny_words" / "1.0.0"
    assert len(TfdsSource(str(folder))) == 6
    assert TfdsSource(str(folder), labels=False)[0].text is None


def test_goes_through_the_pipeline(prepared) -> None:
    source = open_source(f"tfds:tiny_words:train@{prepared}")
    with eval_batches(source, batch_size=4, image_size=(32, 100)) as batches:
        assert [int(batch["valid"].sum()) for batch in batches] == [4, 2]
    with train_batches(
        source, batch_size=6, image_size=(32, 100), seed=0, workers=1, with_text=True
    ) as batches:
        batch = next(batches)
    assert sorted(batch["text"]) == [f"w{i}" for i in range(6)]
    assert batch["image"].dtype == np.uint8


def test_other_names_and_no_text(tmp_path, encode) -> None:
    features = {
        "crop": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    make_builder(encode, features, 2, tmp_path, "OtherWords")
    source = TfdsSource("other_words", data_dir=tmp_path)
    assert source.image_feature == "crop" and not source.labelled
    assert source[0].text is None


def test_a_prepared_split_is_a_benchmark(prepared) -> None:
    found = resolve_benchmarks(f"tfds:tiny_words:train[:50%]@{prepared}")
    assert [(b.name, b.size, b.fault) for b in found] == [("tiny_words:train[:50%]", 3, "")]
    words = open_benchmark(found[0].path)
    assert len({words[i].text for i in range(3)} & {f"w{i}" for i in range(6)}) == 3


def test_what_is_not_prepared_says_so_and_how(tmp_path) -> None:
    with pytest.raises(ValueError, match="known to TFDS, but not prepared in .*/mnist") as error:
        open_source(f"tfds:mnist@{tmp_path}")
    advice = re.search(r'python -c "(.*)"', str(error.value))
    assert advice and "file_format='array_record'" in advice[1]
    compile(advice[1], "advice", "exec")
    with pytest.raises(ValueError, match="tfds:coco_captions.* needs .*tensorflow"):
        open_source(f"tfds:coco_captions@{tmp_path}")


def test_errors(prepared, tmp_path, encode) -> None:
    with pytest.raises(ValueError, match=r"tfds:no_words:train.*no TFDS builder of this name"):
        open_source(f"tfds:no_words@{prepared}")
    with pytest.raises(ValueError, match=r"no such prepared split 'test'"):
        open_source(f"tfds:tiny_words:test@{prepared}")
    make_builder(encode, {"text": tfds.features.Text()}, 2, tmp_path, "BareWords")
    with pytest.raises(ValueError, match=r"has no image feature; its features are \['text'\]"):
        TfdsSource("bare_words", data_dir=tmp_path)
