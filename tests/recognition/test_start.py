"""Recognisers that are continued: what is kept, what is fresh, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.configs.evaluate import finetune_recognizer, frozen_ctc
from rcmstr_jax.data.charset import Charset
from rcmstr_jax.evaluation.protocols import run_evaluation
from rcmstr_jax.recognition.heads import DECODERS, make_head
from rcmstr_jax.recognition.recognizer import Recognizer
from rcmstr_jax.recognition.start import Start, carry_over, class_axes, starting_point
from rcmstr_jax.runtime.digest import named_arrays
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.runtime.provenance import DataPosition
from rcmstr_jax.training.plan import EvaluationPlan, evaluation_plan
from tests.recognition.toy_recognizer import NOISE, toy_recognizer
from tests.recognition.toy_words import WORDS, words_lmdb

FRAMES = jnp.zeros((2, 32, 16))


def saved(folder: Path, name: str = "linear") -> str:
    toy_recognizer(name, scale=30.0).save(folder, DataPosition("words", 0, 8))
    return str(folder)


def plan(config: ConfigDict | None = None, **decoder) -> EvaluationPlan:
    config = config or finetune_recognizer.get_config("test")
    config.decoder.update(decoder)
    return evaluation_plan(config, devices=jax.device_count())


def reads(start: Start) -> list:
    assert start.decoder_params is not None
    held = Recognizer(start.encoder, start.head, start.decoder_params, {}, batch_size=4)
    return held(NOISE)


@pytest.mark.parametrize("name", ["linear", "transformer"])
def test_a_continued_recogniser_reads_at_first_as_it_did(name, tmp_path) -> None:
    pretrained = saved(tmp_path, name)
    known = Recognizer.from_pretrained(pretrained, batch_size=4)(NOISE)
    assert len({word.text for word in known}) > 1
    start = starting_point(plan(), pretrained)
    assert reads(start) == known  # confidences to the last bit
    assert start.head.name == name and not start.is_random
    # The same where the config says what the recogniser is, under either protocol.
    config = frozen_ctc.get_config("test")
    own = plan(config, name=name, hidden=8, depth=1, charset="36", max_length=25)
    assert reads(starting_point(own, pretrained)) == known


@pytest.mark.parametrize("name", DECODERS)
def test_characters_in_common_keep_their_rows(name) -> None:
    old, new = (make_head(name, Charset(c), hidden=8, depth=1) for c in ("abcd", "xdcb1"))
    params = jax.jit(old.init)(jax.random.key(1), FRAMES)
    key = jax.random.key(2)
    found = named_arrays(carry_over(old, params, new, key, FRAMES))
    before, fresh = named_arrays(params), named_arrays(jax.jit(new.init)(key, FRAMES))
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in fresh.items()}
    axes = {k.removeprefix("decoder/"): axis for k, axis in class_axes(new, FRAMES).items()}
    assert len(axes) == {"linear": 2, "ctc": 2}.get(name, 3)
    for path, array in found.items():
        if path not in axes:
            np.testing.assert_array_equal(array, before[path], err_msg=path)
            continue
        array, was, drawn = (
            np.moveaxis(x, axes[path], 0) for x in (array, before[path], fresh[path])
        )
        # Last stand the characters, xdcb1 after abcd; before them what both have.
        np.testing.assert_array_equal(array[:-5], was[:-4])
        np.testing.assert_array_equal(array[-4:-1], was[[-1, -2, -3]])
        np.testing.assert_array_equal(array[[-5, -1]], drawn[[-5, -1]])
    same = carry_over(old, params, old, key, FRAMES)
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_a_larger_charset_reads_the_old_characters_alike(tmp_path) -> None:
    pretrained, extra = saved(tmp_path / "old"), tmp_path / "characters.txt"
    extra.write_text(Charset.preset(36).characters[::-1] + "éß")
    start = starting_point(plan(charset=str(extra)), pretrained)
    assert start.head.charset.characters.endswith("éß")
    # The rows that were drawn can win; without them every word is as before.
    bias = np.array(start.decoder_params["bias"])
    bias[-2:] = -1e9
    start = dataclasses.replace(start, decoder_params={**start.decoder_params, "bias": bias})
    known = Recognizer.from_pretrained(pretrained, batch_size=4)(NOISE)
    assert [word.text for word in reads(start)] == [word.text for word in known]


def test_another_decoder_is_refused_unless_it_is_asked_for(tmp_path) -> None:
    pretrained = saved(tmp_path, "transformer")
    named = r"config.decoder.name='ctc'.*has 'transformer'.*name=transformer.*fresh=True"
    with pytest.raises(ConfigError, match=named):
        starting_point(plan(name="ctc"), pretrained)
    with pytest.raises(ConfigError, match=r"decoder.depth=2, .* has 1: set --config.decoder.dep"):
        starting_point(plan(name="transformer", hidden=8, depth=2), pretrained)
    start = starting_point(plan(name="ctc", charset="36", fresh=True), pretrained)
    assert start.decoder_params is None and start.head.name == "ctc"
    np.testing.assert_array_equal(
        jax.tree.leaves(start.encoder.params)[0],
        jax.tree.leaves(toy_recognizer("transformer").encoder.params)[0],
    )
    with pytest.raises(ConfigError, match="name='continued'.*but config.decoder.fresh=True: name"):
        starting_point(plan(fresh=True), pretrained)
    with pytest.raises(ConfigError, match="charset='continued'.*--pretrained=random has none"):
        starting_point(plan(name="ctc"), "random")
    with pytest.raises(ValueError, match="decoder.beams=5 belongs to"):
        starting_point(plan(beams=5), saved(tmp_path / "linear"))
    # What stands beside it from random initialisation has its form, and nothing that it learnt.
    start = starting_point(plan(), f"random:{pretrained}")
    assert start.is_random and start.decoder_params is None and start.head.name == "transformer"


@pytest.mark.parametrize("protocol", ["finetune", "frozen"])
def test_a_recogniser_trains_on_from_where_it_was(protocol, tmp_path) -> None:
    words_lmdb(tmp_path / "train", WORDS * 2)
    words_lmdb(tmp_path / "benchmark/toy", WORDS[:7])
    pretrained = saved(tmp_path / "old")
    config = finetune_recognizer.get_config("test")
    config.protocol, config.compilation_cache = protocol, "off"
    config.benchmarks, config.eval_batch_size = str(tmp_path / "benchmark"), 4
    config.train.update(source=(f"lmdb:{tmp_path / 'train'}",), labels=1.0, learning_rate=1e-12)
    config.train.update(average=0.0, weight_decay=0.0, probe_steps=0 if protocol == "frozen" else 2)
    workdir = tmp_path / "new"
    results = run_evaluation(evaluation_plan(config, devices=4), workdir, pretrained)
    assert (results.protocol, results.decoder, results.charset) == (protocol, "linear", 36)
    assert results.initialisation == "pretrained" and results.encoder["source"] == pretrained
    assert "is continued, decoder linear" in (workdir / "log.txt").read_text()
    # At this rate nothing moves: what was learnt is still there.
    found, held = Recognizer.from_checkpoint(workdir), Recognizer.from_checkpoint(pretrained)
    for part in ("decoder_params", "encoder"):
        trees = [getattr(x, part) for x in (found, held)]
        trees = [x if part != "encoder" else x.params for x in trees]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *trees)
    # Finished, it is scored again; continued from another recogniser it would be another run.
    run_evaluation(evaluation_plan(config, devices=4), workdir, pretrained)
    assert "is finished: it is scored again" in (workdir / "log.txt").read_text()
    other = toy_recognizer(scale=2.0)
    other.save(tmp_path / "other", DataPosition("words", 0, 8))
    with pytest.raises(ConfigError, match="another run .continued was '"):
        run_evaluation(evaluation_plan(config, devices=4), workdir, str(tmp_path / "other"))
    assert json.loads((workdir / "config.json").read_text())["continued"]
