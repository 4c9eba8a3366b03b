"""Whole checkpoints of every kind to a workdir and back, small but complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.configs.pretrain.common import get_config
from rcmstr_jax.interop.architectures import WrongKind, template
from rcmstr_jax.interop.files import read_arrays, write_arrays
from rcmstr_jax.interop.kinds import KINDS, export_checkpoint, import_checkpoint
from rcmstr_jax.interop.torch_weights import WeightMismatch
from rcmstr_jax.interop.workdir import model_config, read_workdir, write_workdir
from rcmstr_jax.models.bilstm import BiLSTMProjector
from rcmstr_jax.models.decoders.attention import AttentionReader
from rcmstr_jax.models.hierarchy import Predictors
from rcmstr_jax.models.linear import Linear
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.tps import TpsRectifier
from rcmstr_jax.models.vit import VisionTransformer
from tests.processes import Done, Processes

IMAGES = jnp.zeros((1, 32, 100, 3))


def parts(kind: str) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Modules of a small checkpoint of the kind."""
    encoder = ResNet(width=16, blocks=(1, 1, 1, 2))
    known = {
        "encoder": (encoder, (IMAGES,)),
        "projector": (BiLSTMProjector(hidden=4), (jnp.zeros((1, 4, 16)),)),
        "predictors": (Predictors(dim=3), (jnp.zeros((1, 4, 4)),)),
        "rectifier": (TpsRectifier(channels=(2, 3), hidden=4), (IMAGES,)),
        "decoder": (
            AttentionReader(9, hidden=5, feature_bias=False),
            (jnp.zeros((1, 4, 4)), None, 1),
        ),
    }
    if kind == "vit":
        return {"encoder": (VisionTransformer(64, 2, 1), (jnp.zeros((1, 32, 128, 3)),))}
    if kind == "trbc":
        known["decoder"] = (Linear(9), (jnp.zeros((1, 4, 4)),))
    names = {
        "rclstr": ("encoder", "projector", "predictors", "rectifier"),
        "trba": ("encoder", "projector", "rectifier", "decoder"),
        "trbc": ("encoder", "projector", "decoder"),
        "tps": ("rectifier",),
        "resnet": ("encoder",),
    }
    return {name: known[name] for name in names[kind]}


def workdir_arrays(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    flat: dict[str, np.ndarray] = {}
    for part, (module, arguments) in parts(kind).items():
        for path, leaf in template(module, *arguments).items():
            collection, inner = path.split("/", 1)
            frozen = part == "rectifier" and collection == "params"
            targets = [f"{'frozen_params' if frozen else collection}/{part}/{inner}"]
            if kind == "rclstr" and not frozen:
                targets.append(f"momentum_{collection}/{part}/{inner}")
            for target in targets:
                flat[target] = rng.normal(size=leaf.shape).astype(np.float32)
    if kind == "rclstr":
        for h, entries in (("frame", 6), ("subword", 4), ("word", 2)):
            flat[f"queues/{h}/keys"] = rng.normal(size=(entries, 3)).astype(np.float32)
            flat[f"queues/{h}/pointer"] = np.array(entries // 2, np.int32)
    return flat


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_there_and_back_bit_for_bit(kind: str) -> None:
    flat = workdir_arrays(kind)
    exported = export_checkpoint(KINDS[kind], flat)
    back, settings = import_checkpoint(KINDS[kind], exported)
    assert set(back) == set(flat)
    for path, leaf in flat.items():
        assert back[path].tobytes() == leaf.tobytes(), path
    again = export_checkpoint(KINDS[kind], back)
    assert {n: a.tobytes() for n, a in again.items()} == {
        n: a.tobytes() for n, a in exported.items()
    }
    assert settings["encoder"] == ("vit" if kind == "vit" else "cnn")


def test_names_are_the_published_ones() -> None:
    names = set(export_checkpoint(KINDS["rclstr"], workdir_arrays("rclstr")))
    assert {
        "module.encoder_q.FeatureExtraction.ConvNet.layer4.1.conv2.weight",
        "module.encoder_k.SequenceModeling.1.rnn.weight_hh_l0_reverse",
        "module.encoder_q.subword_fc.bias",
        "module.encoder_k.Transformation.LocalizationNetwork.conv.0.weight",
        "module.encoder_q.Transformation.LocalizationNetwork.localization_fc2.bias",
        "module.frame_queue",
        "module.word_queue_ptr",
    } <= names
    names = set(export_checkpoint(KINDS["trba"], workdir_arrays("trba")))
    assert {"Prediction.attention_cell.score.weight", "Prediction.generator.bias"} <= names
    assert "Prediction.attention_cell.i2h.bias" not in names


def test_fused_bias_is_the_same_vit() -> None:
    flat = workdir_arrays("vit")
    fused = export_checkpoint(KINDS["vit"], flat, fused_bias=True)
    assert fused["blocks.0.attn.qkv.bias"].shape == (192,)
    fused["blocks.0.attn.qkv.bias"][64:128] = 5  # a bias on the keys changes nothing
    prefixed = {f"module.encoder.{name}": array for name, array in fused.items()}
    prefixed["module.pix_decoder.0.weight"] = np.zeros((2, 2), np.float32)
    back, settings = import_checkpoint(KINDS["vit"], prefixed)
    assert all(np.array_equal(back[path], flat[path]) for path in flat)
    assert settings == {"encoder": "vit", "width": 64, "depth": 2, "heads": 1}


def test_tps_of_a_whole_recogniser() -> None:
    whole = export_checkpoint(KINDS["trba"], workdir_arrays("trba"))
    flat, settings = import_checkpoint(KINDS["tps"], {f"module.{n}": a for n, a in whole.items()})
    assert settings["rectifier"] and {p.split("/")[1] for p in flat} == {"rectifier"}


def test_rectifiers_of_both_branches_must_agree() -> None:
    arrays = export_checkpoint(KINDS["rclstr"], workdir_arrays("rclstr"))
    name = "module.encoder_k.Transformation.LocalizationNetwork.localization_fc1.0.bias"
    arrays[name] = arrays[name] + 1
    with pytest.raises(WeightMismatch, match="the rectifier is frozen"):
        import_checkpoint(KINDS["rclstr"], arrays)


def test_another_kind_says_what_was_found() -> None:
    vit = export_checkpoint(KINDS["vit"], workdir_arrays("vit"))
    for kind in ("rclstr", "trba", "tps", "resnet"):
        with pytest.raises(WrongKind, match=r"expected.*found.*patch_embed|found .*blocks"):
            import_checkpoint(KINDS[kind], dict(reversed(vit.items())))


def test_widths_that_do_not_fit_are_listed() -> None:
    arrays = export_checkpoint(KINDS["resnet"], workdir_arrays("resnet"))
    arrays["conv0_1.weight"] = np.zeros((5, 3, 3, 3), np.float32)
    with pytest.raises(WeightMismatch, match=r"conv0_1.weight has shape \(5, 3, 3, 3\), needs \(1"):
        import_checkpoint(KINDS["resnet"], arrays)


def test_waived_parts_start_at_random() -> None:
    arrays = export_checkpoint(KINDS["resnet"], workdir_arrays("resnet"))
    del arrays["bn1.weight"]
    with pytest.raises(WeightMismatch, match="missing .1.: bn1.weight"):
        import_checkpoint(KINDS["resnet"], arrays)
    flat, _ = import_checkpoint(KINDS["resnet"], arrays, waive=("bn1.weight",))
    np.testing.assert_array_equal(flat["params/encoder/bn1/scale"], 1)


def test_workdir_holds_config_and_arrays(tmp_path: Path) -> None:
    flat, settings = import_checkpoint(
        KINDS["rclstr"], export_checkpoint(KINDS["rclstr"], workdir_arrays("rclstr"))
    )
    config = get_config()
    model_config(config, settings, flat)
    write_workdir(tmp_path, flat, config, origin="test")
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["model"]["width"] == 16 and described["model"]["rectifier"]
    assert described["model"]["projector_hidden"] == 4 and described["model"]["predict_dim"] == 3
    back = read_workdir(tmp_path)
    assert set(back) == set(flat)
    assert all(np.array_equal(back[path], flat[path]) for path in flat)


@pytest.mark.slow
def test_command_line_both_ways(tmp_path: Path, repository: Path, processes: Processes) -> None:
    """A real PyTorch file where torch is installed, otherwise safetensors."""
    try:
        import torch  # noqa: F401

        suffix = ".pth"
    except ImportError:
        suffix = ".safetensors"
    exported = export_checkpoint(KINDS["vit"], workdir_arrays("vit"))
    write_arrays(tmp_path / f"in{suffix}", exported)
    launcher = repository / "launch" / "convert_weights.py"

    def run(*flags: str) -> Done:
        return processes.script(launcher, "--kind=vit", *flags, cwd=tmp_path)

    done = run(f"--from=in{suffix}", "--to=run")
    assert done.returncode == 0, done.stderr
    done = run("--from=run", f"--to=out{suffix}")
    assert done.returncode == 0, done.stderr
    back = read_arrays(tmp_path / f"out{suffix}")
    assert {n: a.tobytes() for n, a in back.items()} == {
        n: a.tobytes() for n, a in exported.items()
    }
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    done = run("--from=broken.npz", "--to=none")
    assert done.returncode == 2 and "broken.npz" in done.stderr
    assert not (tmp_path / "none").exists()


def test_full_size_recogniser_has_the_published_number_of_parameters() -> None:
    """TPS, encoder, projector and heads at width 512: 48.95 M, counted without computing."""
    modules = {
        "encoder": (ResNet(width=512), (IMAGES,)),
        "projector": (BiLSTMProjector(hidden=256), (jnp.zeros((1, 4, 512)),)),
        "predictors": (Predictors(dim=128), (jnp.zeros((1, 4, 256)),)),
        "rectifier": (TpsRectifier(), (IMAGES,)),
    }
    leaves = [
        leaf
        for module, arguments in modules.values()
        for path, leaf in template(module, *arguments).items()
        if path.startswith("params/")
    ]
    total = sum(int(np.prod(leaf.shape)) for leaf in leaves)
    assert total / 1e6 == pytest.approx(48.95, abs=0.005)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
