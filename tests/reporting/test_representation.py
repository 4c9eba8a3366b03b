"""What a network has learnt: arrays by hand, then a tiny network from its checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.evaluate import frozen_ctc
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.data.lmdb import write_lmdb
from rcmstr_jax.data.records import Record
from rcmstr_jax.data.sources import open_source
from rcmstr_jax.recognition.encoders import Encoder, load_encoder, random_encoder
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.reporting import learnt, sheets
from rcmstr_jax.reporting import representation as rep
from rcmstr_jax.reporting.page import write_page
from rcmstr_jax.runtime.checkpoint import Checkpoints
from rcmstr_jax.runtime.config_files import config_to_jsonable
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.ssl.masking import draw_mask
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.plan import pretrain_plan

WORDS = ["stone", "notes", "onset", "tones", "seton", "steno"] * 2


def test_nearest_leaves_out_what_is_forbidden_and_breaks_ties_by_order() -> None:
    pool = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 1.0]])
    places, similar = rep.nearest(pool[:1], pool, 3, [[0]])
    assert places.tolist() == [[1, 2, 3]] and similar[0].tolist() == [0.8, 0.0, 0.0]


def test_unit_vectors_are_centred_first() -> None:
    vectors = rep.unit(np.array([[3.0, 1.0], [1.0, 1.0]]))
    assert vectors.tolist() == [[1.0, 0.0], [-1.0, 0.0]]


def test_frames_of_characters() -> None:
    assert [rep.frame_of(i, 4, 16) for i in range(4)] == [2, 6, 10, 14]
    assert rep.frame_of(0, 1, 26) == 13 and rep.frame_of(2, 3, 2) == 1
    # 26 frames, 4 sub-words: strides of 6; the last holds what is left.
    assert [rep.holding_part(f, 26, 4) for f in (0, 5, 6, 18, 25)] == [0, 0, 1, 3, 3]


def test_principal_plane_finds_the_long_axis() -> None:
    x = np.arange(-5.0, 6.0)
    points, shares = rep.principal_plane(np.stack([x, 0.1 * x**2, 0 * x], axis=1))
    assert abs(np.corrcoef(points[:, 0], x)[0, 1]) > 0.999
    assert shares[0] > 0.9 and shares.sum() == pytest.approx(1.0)


def test_relation_means_by_hand() -> None:
    """Two words of two frames and two sub-words: a frame equals its sub-word, others differ."""
    axes = np.eye(4).reshape(2, 2, 4)
    words = rep.Words(np.zeros((2, 32, 8, 3), np.uint8), ["ab", "cd"], "x", 0)
    found = rep.Embeddings(
        pretrain_plan(mini.get_config()), {}, words, axes, {"frame": axes, "subword": axes}
    )
    means = rep.relation_means(found)
    assert list(means.values()) == [1.0, 0.0, 0.0]
    assert rep.relations(found, 0, 1, [1]).tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_lit_by_hand() -> None:
    """Four frames over eight columns: their centres lie at 1, 3, 5 and 7, columns between them."""
    shown = sheets.lit(np.full((2, 8, 3), 200, np.uint8), np.array([0.0, 0.5, 0.0, 0.0]))
    light = np.array([0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0])
    assert np.abs(shown[0, :, 0] - 200 * (0.15 + 0.85 * light)).max() <= 0.5


@pytest.fixture(scope="module")
def world(tmp_path_factory, encode) -> Path:
    """Words, and a pretraining run of no steps."""
    root = tmp_path_factory.mktemp("world")
    write_lmdb(root / "words", [Record(encode(i), w, "t") for i, w in enumerate(WORDS)])
    config = mini.get_config("test")
    config.data.source = (f"lmdb:{root / 'words'}",)
    config.model.blocks, config.model.projector = (0, 0, 0, 0), "mlp"
    plan = pretrain_plan(config)
    model = build_model(plan)
    images = jnp.zeros((2, *plan.model.image_size, 3))
    mask = draw_mask(jax.random.key(0), 2, plan.model.grid)
    variables = jax.jit(model.init)(jax.random.key(0), images, mask)
    state = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    run = root / "pretrain"
    with Checkpoints(run) as checkpoints:
        checkpoints.save(1, state, config, DataPosition("words", 0, 8))
    (run / "config.json").write_text(json.dumps(config_to_jsonable(config)))
    return root


@pytest.fixture(scope="module")
def embeddings(world: Path) -> rep.Embeddings:
    words = rep.load_words(open_source(f"lmdb:{world / 'words'}"), (32, 100), 100)
    return rep.embed(world / "pretrain", words)


def test_embeddings_are_those_of_the_network(embeddings: rep.Embeddings, world: Path) -> None:
    assert embeddings.words.texts == WORDS
    encoder = load_encoder(str(world / "pretrain"))
    frames = encoder.infer(encoder.params, encoder.batch_stats, embeddings.words.images[:3])
    assert np.allclose(embeddings.frames[:3], frames, atol=1e-5)
    assert {n: v.shape[1] for n, v in embeddings.levels.items()} == {
        "frame": 26,
        "subword": 4,
        "word": 1,
    }
    for vectors in embeddings.levels.values():
        assert np.allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_every_picture_of_a_network_is_drawn(embeddings: rep.Embeddings) -> None:
    for draw, images in (
        (learnt.draw_relations, 1 + learnt.OTHERS),
        (learnt.draw_neighbours, 2 * learnt.QUERIES * (1 + learnt.NEIGHBOURS)),
        (learnt.draw_map, 0),
        (learnt.draw_masks, 3 * learnt.MASKED_SHOWN),
    ):
        body, missing = draw(embeddings)
        assert not missing and body.count("<img") == images, draw
    body, _ = learnt.draw_relations(embeddings)
    values = rep.relations(embeddings, 0, rep.frame_of(1, 5, 26), range(1, 1 + learnt.OTHERS))
    for value in values.ravel():
        assert f">{value:.2f}</span>" in body


def test_what_a_run_lacks_is_said(embeddings: rep.Embeddings) -> None:
    bare = rep.Embeddings(
        dataclasses.replace(embeddings.plan, mask=None),
        embeddings.variables,
        rep.Words(embeddings.words.images[:2], ["", ""], "x", 1),
        embeddings.frames[:2],
        {"word": embeddings.levels["word"][:2]},
    )
    for draw in (
        learnt.draw_relations,
        learnt.draw_neighbours,
        learnt.draw_map,
        learnt.draw_masks,
    ):
        body, missing = draw(bare)
        assert body == "" and len(missing) == 1
        page = learnt.section("T", draw, {"run": bare}, []).html()
        assert f"Left out: run: {missing[0]}" in page


def test_words_of_another_size_are_refused(embeddings: rep.Embeddings, world: Path) -> None:
    small = rep.Words(embeddings.words.images[:, :, :60], WORDS, "x", 0)
    with pytest.raises(ValueError, match=r"words of \(32, 60\) for images of \(32, 100\)"):
        rep.embed(world / "pretrain", small)


def test_unusable_records_are_left_out_and_counted(tmp_path: Path, encode) -> None:
    write_lmdb(tmp_path / "w", [Record(b"broken", "a", "t"), Record(encode(0), "b", "t")])
    words = rep.load_words(open_source(f"lmdb:{tmp_path / 'w'}"), (32, 100), 9)
    assert (words.texts, words.faults) == (["b"], 1)


def test_the_page_of_a_pretraining_run(world: Path, tmp_path: Path) -> None:
    page = write_page([world / "pretrain"], tmp_path / "x.html").read_text()
    assert "Principal plane of the frames" in page and "12 words of lmdb:" in page
    assert "no run on this page is an evaluation" in page
    with pytest.raises(ValueError, match="nowhere"):
        write_page([world / "pretrain"], tmp_path / "y.html", words="lmdb:nowhere")
    assert not (tmp_path / "y.html").exists()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A tiny ViT."""
    config = frozen_ctc.get_config()
    config.model.encoder, config.model.image_width = "vit", 128
    config.model.width, config.model.depth, config.model.heads = 16, 1, 1
    section = config_to_jsonable(config.model)
    return random_encoder(section, seed=0)


@pytest.mark.parametrize(("name", "beams"), [("attention", 1), ("transformer", 2)])
def test_attention_weights_are_those_of_the_decoder(encoder, name: str, beams: int) -> None:
    head = make_head(name, Charset.preset(36), hidden=16, depth=1, max_length=5, beams=beams)
    params = jax.jit(head.init)(jax.random.key(0), jnp.zeros((2, *encoder.frames_shape())))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 128, 3), np.uint8)
    # Arrays of the host, as a checkpoint gives them.
    recognizer = Recognizer(encoder, head, jax.device_get(params), batch_size=3)
    texts, weights = sheets.attention_weights(recognizer, images)
    assert weights.shape == (3, 6, 32) and np.allclose(weights.sum(-1), 1, atol=1e-5)
    assert texts == [word.text for word in recognizer.read(list(images))] and any(texts)
    strips = sheets.attention_strips(images, texts, weights)
    assert [s.count("<img") for s in strips] == [1 + len(word) for word in texts]
