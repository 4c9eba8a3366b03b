"""The parity check: what passes, what fails, and that sizes are read off the arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.interop.architectures import template
from rcmstr_jax.interop.rules import under
from rcmstr_jax.interop.tables import PIXEL_DECODER, VIT
from rcmstr_jax.interop.torch_weights import export_weights
from rcmstr_jax.models.vit import PixelDecoder, VisionTransformer, sinusoid_positions
from rcmstr_jax.verification.parity import contrastive, decoders, encoder, sparse, tps, vit
from rcmstr_jax.verification.parity.fixture import Fixture, Row, relative_error
from rcmstr_jax.verification.parity.report import CHECKS, check_file, check_folder, summary, table
from tests.processes import Processes

Arrays = dict[str, np.ndarray]


def failures(path: Path, check: Callable[[Fixture], None]) -> dict[str, str]:
    return {r.name: r.note for r in check_file(path, check) if r.verdict == "FAIL"}


def rewrite(source: Path, target: Path, change: Callable[[Arrays], None]) -> Path:
    with np.load(source) as data:
        arrays = {name: data[name].copy() for name in data.files}
    change(arrays)
    np.savez(target / source.name, **arrays)
    return target / source.name


def bump(name: str) -> Callable[[Arrays], None]:
    """Changes one number by a tenth of the array's scale: the middle one, or that after the @."""
    name, _, place = name.partition("@")

    def change(arrays: Arrays) -> None:
        array = arrays[name].copy().reshape(-1)
        if array.dtype.kind == "f":
            array[int(place or array.size // 2)] += 0.1 * (np.max(np.abs(array)) or 1)
        elif array.dtype.kind == "b":
            array[array.size // 2] ^= True
        elif array.dtype.kind == "U":
            array[0] = array[0][::-1] if array[0] != array[0][::-1] else "?"
        else:
            array[array.size // 2] += 1
        arrays[name] = array.reshape(arrays[name].shape)

    return change


# Inputs, weights, counters and results of the quick fixtures.
ALTERED = [
    (vit, "image"),
    (vit, "mask"),
    (vit, "sd/encoder.mask_token"),
    (vit, "sd/encoder.blocks.1.attn.v_bias"),
    (vit, "sd/pix_decoder.2.bias"),
    (vit, "pos_embed"),
    (vit, "features_masked"),
    (vit, "target_normalized"),
    (vit, "loss_raw"),
    (tps, "image"),
    (tps, "sd/LocalizationNetwork.conv.0.weight@100"),  # its unit is active
    (tps, "sd/LocalizationNetwork.conv.9.num_batches_tracked"),
    (tps, "sd/LocalizationNetwork.localization_fc2.bias"),
    (tps, "eval/rectified"),
    (decoders, "words"),
    (decoders, "charset"),
    (decoders, "attn/index"),
    (decoders, "attn/num_class"),
    (decoders, "attn/sd/selective_decoder.second_attention.attention_cell.score.weight"),
    (decoders, "attn/loss"),
    (decoders, "ctc/length"),
    (decoders, "ctc/sd/2.bias"),
    (decoders, "ctc/greedy"),
    (decoders, "visual_feature"),
]


@pytest.fixture(scope="module", autouse=True)
def untouched_fixtures_pass() -> None:
    """A check that fails whatever it is given would pass the tests below."""
    golden = Path(
        os.environ.get("RCMSTR_SHARED", Path(__file__).parents[2].parent / "shared"), "golden"
    )
    with jax.enable_x64(True):
        for module in (vit, tps, decoders) if golden.is_dir() else ():
            assert failures(golden / module.FILE, module.check) == {}


@pytest.mark.parametrize(("module", "name"), ALTERED, ids=lambda v: getattr(v, "FILE", v))
def test_one_altered_number_fails(module, name, golden_dir, tmp_path, x64) -> None:  # type: ignore[no-untyped-def]
    path = rewrite(golden_dir / module.FILE, tmp_path, bump(name))
    assert failures(path, module.check), name


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (vit, "sd/encoder.norm.bias"),
        (vit, "features_unmasked"),
        (vit, "loss_raw"),
        (tps, "eval/grid"),
        (decoders, "ctc/greedy"),
        (decoders, "words"),
    ],
    ids=lambda v: getattr(v, "FILE", v),
)
def test_a_removed_array_fails_by_name(module, name, golden_dir, tmp_path, x64) -> None:  # type: ignore[no-untyped-def]
    path = rewrite(golden_dir / module.FILE, tmp_path, lambda arrays: arrays.pop(name))
    found = failures(path, module.check)
    last = name.removeprefix("sd/encoder.")
    assert any(last in key or last in note for key, note in found.items()), found


@pytest.mark.parametrize("name", ["notes", "sd/encoder.blocks.0.extra"])
def test_an_added_array_fails(name, golden_dir, tmp_path, x64) -> None:  # type: ignore[no-untyped-def]
    path = rewrite(
        golden_dir / vit.FILE, tmp_path, lambda arrays: arrays.update({name: np.zeros(2)})
    )
    found = failures(path, vit.check)
    assert any(name.removeprefix("sd/encoder.") in key + note for key, note in found.items())


def test_unreadable_and_foreign_files_fail(tmp_path: Path) -> None:
    (tmp_path / vit.FILE).write_bytes(b"PK\x03\x04")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    rows = {row.file: row for part in check_folder(tmp_path) for row in part}
    assert set(rows) == {*CHECKS, "other.npz"}
    assert {row.verdict for row in rows.values()} == {"FAIL"}
    assert "truncated" in rows[vit.FILE].note and "missing" in rows[tps.FILE].note
    with pytest.raises(ValueError, match="no folder"):
        list(check_folder(tmp_path / "absent"))
    with pytest.raises(ValueError, match="known are"):
        list(check_folder(tmp_path, ["other.npz"]))


@pytest.mark.parametrize(
    ("width", "depth", "heads", "batch", "patch", "hidden"),
    [(12, 1, 4, 2, 4, 5), (8, 2, 1, 1, 2, 6)],
)
def test_sizes_come_from_the_arrays(
    width: int,
    depth: int,
    heads: int,
    batch: int,
    patch: int,
    hidden: int,
    tmp_path: Path,
    x64: None,
) -> None:
    """A fixture of other sizes, made by a plain forward pass, passes; altered, it fails."""
    keys = jax.random.split(jax.random.key(0), 4)
    images = jax.random.uniform(keys[0], (batch, 8, 16, 3), jnp.float64, -1, 1)
    images = jnp.asarray(np.asarray(images, np.float32), jnp.float64)
    grid = (8 // patch, 16 // patch)
    mask = jax.random.bernoulli(keys[1], 0.5, (batch, *grid))
    encoder_module = VisionTransformer(width, depth, heads, (patch, patch), mlp_ratio=2.0)
    head = PixelDecoder(hidden=hidden, output=3 * patch**2)
    flat: Arrays = {}
    variables = []
    for key, module, inputs, rules, prefix in (
        (keys[2], encoder_module, images, VIT, "sd/encoder."),
        (keys[3], head, jnp.zeros((1, width)), PIXEL_DECODER, "sd/pix_decoder."),
    ):
        drawn = module.init(key, inputs)
        shift = jax.random.normal(key, (200,))  # float64
        noise = jax.tree.map(
            lambda p, s=shift: p.astype(s.dtype) + jnp.resize(0.1 * s, p.shape), drawn
        )
        noise = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), noise)
        variables.append(jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), noise))
        shapes = template(module, inputs)
        leaves = jax.tree_util.tree_leaves(noise)
        named = dict(zip(shapes, (np.asarray(leaf, np.float32) for leaf in leaves), strict=True))
        exported = export_weights(named, under("params/", prefix, rules))
        flat |= exported
    tokens = lambda x: np.asarray(x).reshape(batch, -1, x.shape[-1])  # noqa: E731
    features, _ = encoder_module.apply(variables[0], images, mask=mask)
    prediction = head.apply(variables[1], features)
    cut = np.asarray(images + 1).reshape(batch, grid[0], patch, grid[1], patch, 3) / 2
    raw = cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch**2, 3)
    target = (raw - raw.mean(2, keepdims=True)) / (raw.std(2, keepdims=True, ddof=1) + 1e-6)
    hide = np.asarray(mask).reshape(batch, -1)

    def loss(wanted: np.ndarray) -> np.ndarray:
        squares = (tokens(prediction) - wanted.reshape(*hide.shape, -1)) ** 2
        return squares[hide].mean()

    flat |= {
        "image": np.asarray(jnp.moveaxis(images, -1, 1), np.float32),
        "mask": hide,
        "pos_embed": sinusoid_positions(hide.shape[1], width)[None],
        "features_unmasked": tokens(encoder_module.apply(variables[0], images)[0]),
        "features_masked": tokens(features),
        "prediction": tokens(prediction),
        "target_normalized": target.reshape(*hide.shape, -1),
        "loss_normalized": loss(target),
        "loss_raw": loss(raw),
    }
    np.savez(tmp_path / vit.FILE, **flat)
    assert failures(tmp_path / vit.FILE, vit.check) == {}
    path = rewrite(tmp_path / vit.FILE, tmp_path, bump("sd/encoder.blocks.0.attn.proj.bias"))
    assert failures(path, vit.check)


def test_stale_figures_are_told_from_altered_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", after=np.array([1.0, 2.0]))
    fixture = Fixture(tmp_path / "a.npz")
    fixture.compare("after", [1.5, 2.5], before=[1.0, 2.0])
    fixture.compare("after", [1.5, 2.5], before=[1.0, 2.1])
    fixture.compare("after", [1.0, 2.0], before=[0.0, 0.0])
    assert [row.verdict for row in fixture.rows] == ["STALE", "FAIL", "PASS"]
    assert "STALE: the file holds" in summary(fixture.rows)
    assert "before the step" in table(fixture.rows)


def test_errors_are_relative_to_the_scale() -> None:
    assert relative_error(np.array([1.0, 8.1]), np.array([1.0, 8.0])) == pytest.approx(0.0125)
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert relative_error(np.zeros(2), np.zeros(3)) == np.inf
    assert Row("f", "n", relative_error(np.array([np.nan]), np.ones(1)), 1.0).verdict == "FAIL"


@pytest.mark.slow
@pytest.mark.parametrize("module", [encoder, sparse, contrastive], ids=lambda m: m.FILE)
def test_large_fixtures_agree(module, golden_dir: Path, x64: None) -> None:  # type: ignore[no-untyped-def]
    with jax.default_matmul_precision("highest"):
        assert failures(golden_dir / module.FILE, module.check) == {}


@pytest.mark.slow
@pytest.mark.parametrize("double", ["1", "0"])
def test_command_line(
    double: str, golden_dir: Path, repository: Path, processes: Processes
) -> None:
    # Fiducial points are looked at twice more where float64 allows it.
    count = 25 if double == "1" else 23
    only = f"{vit.FILE},{tps.FILE},{decoders.FILE}"
    done = processes.script(
        repository / "launch" / "check_parity.py",
        f"--golden={golden_dir}",
        f"--only={only}",
        environment={"JAX_ENABLE_X64": double},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout and f"{count} quantities, 0 failed" in done.stdout
