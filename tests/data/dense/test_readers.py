"""TextSeg, TextZoom and damaged crops on miniature trees, and the specs that open them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from rcmstr_jax.data.dense.sources import open_dense
from rcmstr_jax.data.dense.words import DenseSource, read_words
from rcmstr_jax.data.faults import FaultLog
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import BadRecord, Record

Encode = Callable[..., bytes]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def textseg(tmp_path: Path) -> Path:
    """Photographs a (two words), b (its annotation is cut off) and c (its mask is too small)."""
    root = tmp_path / "textseg"
    for folder in ("image", "annotation", "semantic_label"):
        (root / folder).mkdir(parents=True)
    mask = np.zeros((80, 200), np.uint8)
    mask[10:42, 20:84] = 100  # the left half of the first word
    mask[10:42, 84:100] = 200  # its shadow
    mask[60:76, 150:160] = 255  # nobody can read that
    mask[60:76, 170:180] = 100
    photo = np.where(mask[..., None] == 100, (200, 30, 30), (20, 60, 90)).astype(np.uint8)
    words = {
        "0000": {"text": "LEFT", "bbox": [20, 10, 148, 10, 148, 42, 20, 42], "char": {}},
        "0001": {"text": "b?d", "bbox": [[140, 60], [220, 60], [220, 76], [140, 76]]},
        "0002": {"text": "out", "bbox": [300, 10, 320, 20]},
        "0003": {"text": "none"},
    }
    for name in "abc":
        # Named as the public set does, though the bytes are a PNG's: nothing is lost.
        (root / "image" / f"{name}.jpg").write_bytes(png(photo))
        (root / "semantic_label" / f"{name}_maskfg.png").write_bytes(png(mask))
        (root / "annotation" / f"{name}_anno.json").write_text(json.dumps(words))
    (root / "annotation" / "b_anno.json").write_text("{")
    (root / "semantic_label" / "c_maskfg.png").write_bytes(png(mask[:50]))
    splits = {"train": ["a"], "val": ["b"], "test": ["c"]}
    (root / "split.json").write_text(json.dumps(splits))
    return root


def test_textseg_words_are_cut_out_with_their_masks(textseg: Path) -> None:
    source = open_dense("segmentation", f"textseg:{textseg}:train", image_width=128)
    assert isinstance(source, DenseSource) and len(source) == 4
    first, second = source[0], source[1]
    expected = np.zeros((32, 128), np.uint8)
    expected[:, :64] = 1  # neither the shadow nor what lies behind it
    np.testing.assert_array_equal(first.target, expected)
    assert first.label == "LEFT" and first.image.shape == (32, 128, 3)
    assert first.image[5, 10].tolist() == [200, 30, 30]
    # 60 of 80 pixels lie within the photograph: of them 30 to 40 are text.
    assert second.label == "b?d"
    assert second.target.mean() == pytest.approx(10 / 60, abs=0.01)
    assert second.target[:, 64:85].all() and not second.target[:, :63].any()
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1].target, second.target)


def test_damaged_words_of_textseg_are_skipped_by_name(textseg: Path) -> None:
    (textseg / "image" / "a.jpg").write_bytes(b"")
    (textseg / "semantic_label" / "a_maskfg.png").unlink()
    faults = FaultLog()
    source = open_dense("segmentation", f"textseg:{textseg}")
    with pytest.raises(ValueError, match="none of its words can be used"):
        read_words(source, faults=faults)
    found = {fault.key: fault.reason for fault in faults.faults()}
    assert {fault.source for fault in faults.faults()} == {f"textseg:{textseg}"}
    assert found == {
        **dict.fromkeys(("a 0000", "a 0001", "a 0002"), "empty image"),
        "a 0003": "damaged annotation",
        "b_anno.json": "damaged annotation",
        **dict.fromkeys(("c 0000", "c 0001", "c 0002"), "mask of another size"),
        "c 0003": "damaged annotation",
    }


def test_boxes_beside_the_photograph_are_skipped(textseg: Path) -> None:
    faults = FaultLog()
    words = read_words(open_dense("segmentation", f"textseg:{textseg}:train"), faults=faults)
    assert words.labels == ("LEFT", "b?d") and words.index.tolist() == [0, 1]
    assert words.images.shape == (2, 32, 128, 3) and words.targets.shape == (2, 32, 128)
    assert faults.counts() == {"damaged annotation": 1, "word box without pixels": 1}


def test_textseg_needs_its_layout(textseg: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no split 'dev'; it has train, val, test"):
        open_dense("segmentation", f"textseg:{textseg}:dev")
    (textseg / "split.json").unlink()
    with pytest.raises(ValueError, match=r"split.json cannot be read"):
        open_dense("segmentation", f"textseg:{textseg}:test")
    with pytest.raises(ValueError, match="has no folder image, semantic_label, annotation"):
        open_dense("segmentation", f"textseg:{tmp_path}")
    (textseg / "annotation").rename(textseg / "bpoly_label")
    assert len(open_dense("segmentation", f"textseg:{textseg}")) == 9
    for file in (textseg / "bpoly_label").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"has no word in bpoly_label/\*_anno.json"):
        open_dense("segmentation", f"textseg:{textseg}")


def write_textzoom(path: Path, words: list[dict[str, bytes]]) -> None:
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=2**24) as env, env.begin(write=True) as transaction:
        transaction.put(b"num-samples", str(len(words)).encode())
        for number, word in enumerate(words, start=1):
            for key, value in word.items():
                transaction.put(b"%s-%09d" % (key.encode(), number), value)


def test_textzoom_pairs_both_resolutions(tmp_path: Path, encode: Encode) -> None:
    words = [
        {
            "image_hr": encode(seed, size=(32, 128)),
            "image_lr": encode(seed, size=(16, 64)),
            "label": f"w{seed}".encode(),
        }
        for seed in range(5)
    ]
    words[1]["image_lr"] = b"nothing"
    del words[3]["image_hr"]
    write_textzoom(tmp_path / "test" / "easy", words[:2])
    write_textzoom(tmp_path / "test" / "hard", words[2:])
    source = open_dense("super_resolution", f"textzoom:{tmp_path}/test")
    assert len(source) == 5 and source.name == f"textzoom:{tmp_path}/test"
    first = source[0]
    stored = np.asarray(Image.open(io.BytesIO(words[0]["image_hr"])))
    np.testing.assert_array_equal(first.target, stored)
    assert first.image.shape == (16, 64, 3) and first.label == "w0"
    faults = FaultLog()
    arrays = read_words(pickle.loads(pickle.dumps(source)), faults=faults)
    assert arrays.labels == ("w0", "w2", "w4")
    assert [(fault.key, fault.reason) for fault in faults.faults()] == [
        ("image_hr-000000002 image_lr-000000002", "not an image"),
        ("image_hr-000000002", "missing image key"),
    ]
    # Of several folders too: only some of the words, in the order that was asked for.
    assert read_words(source, [4, 0]).labels == ("w4", "w0")


def test_crops_are_damaged_by_the_renderers_camera(tmp_path: Path, encode: Encode) -> None:
    sizes = [(32, 80), (31, 80), (60, 41), (60, 40), (90, 200)]
    records = [Record(encode(i, size=size), f"w{i}", "x") for i, size in enumerate(sizes)]
    records.append(Record(b"no image", "bad", "x"))
    write_lmdb(tmp_path / "one", records)
    write_lmdb(tmp_path / "two", records[:1])
    source = open_dense("super_resolution", f"crops:{tmp_path}/one,{tmp_path}/two")
    faults = FaultLog()
    words = read_words(source, faults=faults)
    assert words.labels == ("w0", "w2", "w4", "w0")  # 31 is too low, 60 x 40 stands upright
    assert [(fault.key, fault.reason) for fault in faults.faults()] == [
        ("image-000000006", "not an image")
    ]
    assert words.images.shape == (4, 16, 64, 3) and words.targets.shape == (4, 32, 128, 3)
    again = read_words(open_dense("super_resolution", source.name))
    np.testing.assert_array_equal(again.images, words.images)
    # The same crop in another place meets another camera.
    np.testing.assert_array_equal(words.targets[0], words.targets[3])
    assert not np.array_equal(words.images[0], words.images[3])
    calm = {"blur": 0.0, "noise": 0.0, "low_resolution": 0.0, "encoding": "png"}
    clear = read_words(open_dense("super_resolution", source.name, synthetic_options=calm))
    half = words.targets.reshape(4, 16, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(clear.images - half).max() <= 1
    write_lmdb(tmp_path / "low", records[1:2])
    with pytest.raises(ValueError, match="has no crop of 32 pixels of height or more among 1"):
        open_dense("super_resolution", f"crops:{tmp_path}/low")


@pytest.mark.parametrize(
    ("task", "spec", "changes", "message"),
    [
        ("detection", "x", {}, "task = 'detection' is unknown: choose one of segmentation"),
        ("segmentation", "folder:x", {}, "unknown source 'folder:x'; known for segmentation are"),
        ("segmentation", "textzoom:x", {}, "no source for segmentation: 'textzoom:x'; known"),
        ("super_resolution", "textseg:x", {}, "no source for super_resolution: 'textseg:x'; known"),
        ("super_resolution", "crops:", {}, "'crops:' names no place; known"),
        ("segmentation", "rendered:0", {}, r"must be rendered:SEED:NUM\[:PRESET\[:PART\]\] with"),
        ("segmentation", "rendered:0:x", {}, "with whole numbers SEED and NUM"),
        ("segmentation", "rendered:0:0", {}, "needs a SEED from 0 to 2"),
        ("segmentation", "rendered:0:1:brutal", {}, "difficulty = 'brutal' is unknown"),
        ("segmentation", "rendered:0:1:easy:val", {}, "PART = 'val' must be one of train, test"),
        ("segmentation", "rendered:0:1", {"sky": 1}, r"unknown fields \['sky'\]"),
        ("super_resolution", "rendered:0:1", {"noise": -1.0}, "RenderOptions.noise = -1.0: give"),
        ("super_resolution", "textzoom:gs://x", {}, "gs://x"),
    ],
)
def test_mistakes_in_specs_are_named(
    task: str, spec: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_dense(task, spec, synthetic_options=changes)


def test_a_spec_sets_seed_part_and_look() -> None:
    few = {"num_fonts": 2}
    pairs = open_dense("super_resolution", "rendered:4:3:easy:test", synthetic_options=few)
    assert len(pairs) == 3 and pairs.name == "rendered:4:3:easy:test"
    words = read_words(pairs)
    assert words.images.shape == (3, 16, 64, 3) and words.targets.shape == (3, 32, 128, 3)
    masks = open_dense("segmentation", "rendered:4:3", image_width=100, synthetic_options=few)
    assert masks[2].target.shape == (32, 100)
    with pytest.raises((BadRecord, IndexError)):
        masks[3]
