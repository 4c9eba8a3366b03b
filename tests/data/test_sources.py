from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.data.mixture import MixtureSource
from rcmstr_jax.data.pipeline import eval_batches
from rcmstr_jax.data.records import ConcatSource, is_endless
from rcmstr_jax.data.sources import open_source, split_of


def test_lmdb_roots_follow_one_another(make_lmdb, tmp_path) -> None:
    make_lmdb("root/a", count=2, prefix="a")
    make_lmdb("root/deep/b", count=3, prefix="b")
    source = open_source(f"lmdb:{tmp_path}/root")
    assert isinstance(source, ConcatSource) and source.name == f"lmdb:{tmp_path}/root"
    assert [source[i].text for i in range(len(source))] == ["a0", "a1", "b0", "b1", "b2"]
    assert source[3].source == f"lmdb:{tmp_path}/root/deep/b"
    assert len(open_source(f"lmdb:{tmp_path}/root", labels=False)) == 5


def test_several_with_and_without_weights(make_lmdb, tmp_path, encode) -> None:
    make_lmdb("a", count=2)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(encode(0))
    specs = [f"lmdb:{tmp_path}/a", f"folder:{tmp_path}/pictures"]
    assert len(open_source(specs)) == 3
    mixture = open_source(specs, weights=(1, 3), seed=2)
    assert isinstance(mixture, MixtureSource)
    assert list(mixture.shares) == [64, 192] and mixture.seed == 2


def test_rendered_words() -> None:
    endless = open_source("synthetic:5")
    finite = open_source("synthetic:5:40", synthetic_options={"max_length": 4})
    assert is_endless(endless) and not is_endless(finite) and len(finite) == 40
    text = finite[3].text
    assert text is not None and len(text) <= 4
    assert open_source("synthetic:5")[7] == endless[7]
    with pytest.raises(ValueError, match=r"data\.synthetic: unknown fields \['colour'\]"):
        open_source("synthetic", synthetic_options={"colour": "red"})
    with pytest.raises(ValueError, match=r"never ends.*weights.*data\.weights"):
        open_source(["synthetic:5", "synthetic:6:40"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((), "name at least one source"),
        ("", "name at least one source"),
        ("parquet:x", r"data\.source: unknown source 'parquet:x'; known are lmdb:PATH"),
        ("../shared/real", r"for a folder of LMDBs write lmdb:\.\./shared/real"),
        ("lmdb:", "'lmdb:' names no place"),
        ("lmdb:/nowhere/at/all", "there is no LMDB at /nowhere/at/all"),
        ("folder:/nowhere", "there is no folder of images at /nowhere"),
        ("synthetic:abc", "'synthetic:abc' must be synthetic, synthetic:SEED"),
        ("synthetic:1:2:3", "must be synthetic"),
    ],
)
def test_errors_name_the_field_and_the_remedy(spec, message) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(spec)


def test_weights_must_fit(make_lmdb, tmp_path) -> None:
    make_lmdb("a")
    with pytest.raises(ValueError, match=r"data\.weights has 2 values for 1 sources"):
        open_source(f"lmdb:{tmp_path}/a", weights=(1, 2))


def test_tfds_names_may_carry_versions() -> None:
    assert split_of("words") == ("words", "train", "")
    assert split_of("words:test") == ("words", "test", "")
    assert split_of("words/small:1.0.0") == ("words/small:1.0.0", "train", "")
    assert split_of("words:test@/a@b") == ("words", "test", "/a@b")
    assert split_of("words:1.0.0:train[:10%]") == ("words:1.0.0", "train[:10%]", "")
    with pytest.raises(ValueError, match=r"tfds:NAME\[:SPLIT\]"):
        split_of(":train")


def test_crops_that_run_downwards_are_turned_on_request(tmp_path, encode) -> None:
    level = Image.open(io.BytesIO(encode(1, size=(32, 100))))
    level.rotate(90, expand=True).save(tmp_path / "up.png")
    for vertical, turned in (("right", True), ("off", False)):
        source = open_source(f"folder:{tmp_path}?vertical={vertical}")
        batches = eval_batches(source, batch_size=1, image_size=(32, 100))
        assert np.array_equal(next(batches)["image"][0], np.asarray(level)) == turned
    assert pickle.loads(pickle.dumps(source))[0].turn == "off"
    with pytest.raises(ValueError, match=r"vertical=auto must be one of off, left, right"):
        open_source(f"folder:{tmp_path}?vertical=auto")
