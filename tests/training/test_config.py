"""Every mistake in a config has an answer that names field, value and remedy."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math

import pytest

from rcmstr_jax.configs.evaluate import common as evaluation
from rcmstr_jax.configs.pretrain import (
    ablation,
    common,
    compact,
    mim,
    mini,
    rcmstr_cnn,
    rcmstr_vit,
)
from rcmstr_jax.runtime.command_line import check_overrides
from rcmstr_jax.runtime.config_files import (
    config_from_jsonable,
    config_to_jsonable,
    differences,
    flatten,
)
from rcmstr_jax.runtime.errors import ConfigError, closest
from rcmstr_jax.training.build import build_model
from rcmstr_jax.training.plan import pretrain_plan
from rcmstr_jax.training.plan_checks import EVALUATE, PRETRAIN
from rcmstr_jax.training.stored import ADDED, IN_IMAGES, RENAMED

ALL = {
    "cnn": rcmstr_cnn.get_config,
    "compact": compact.get_config,
    "compact:mini": lambda: compact.get_config("mini"),
    "cnn:step": lambda: rcmstr_cnn.get_config("step"),
    **{f"vit:{s}": lambda s=s: rcmstr_vit.get_config(s) for s in ("tiny", "small", "base")},
    **{f"mini:{s}": lambda s=s: mini.get_config(s) for s in ("cnn", "vit", "test")},
    **{f"mim:{s}": lambda s=s: mim.get_config(s) for s in ("cnn", "vit")},
    **{
        f"ancestor:{rung}": lambda rung=rung: ablation.get_config(f"{rung},recipe=ancestor")
        for rung in ablation.LADDER[:-1]
    },
    **{
        f"{base}:{rung}": lambda base=base, rung=rung: ablation.get_config(f"{rung},encoder={base}")
        for base in ablation.BASES
        for rung in (*ablation.LADDER, "full")
    },
}


@pytest.mark.parametrize("name", ALL)
def test_every_config_of_the_repository_passes(name):
    config = ALL[name]()
    pretrain_plan(config, devices=4)
    assert config_from_jsonable(config_to_jsonable(config)).to_dict() == config.to_dict()


def test_configs_that_runs_stored_before_a_field_was_added_give_the_same_plan() -> None:
    stored = config_to_jsonable(common.get_config())
    whole = pretrain_plan(stored)
    for section, fields in ADDED.items():
        holder = stored
        for part in filter(None, section.split(".")):
            holder = holder.get(part, {})
        for name in holder.keys() & fields.keys() - {"reference_batch"}:  # its own test is below
            del holder[name]
    assert pretrain_plan(stored) == dataclasses.replace(whole, config=pretrain_plan(stored).config)


def test_lengths_that_runs_stored_in_steps_give_the_same_steps() -> None:
    config = mini.get_config()
    config.batch_size = 48
    config.momentum.reference_batch = config.optimizer.reference_batch = 0  # as at any batch
    config.total_images, config.optimizer.warmup_images = 48 * 700, 48 * 30
    whole, stored = pretrain_plan(config), config_to_jsonable(config)
    del stored["total_images"], stored["optimizer"]["warmup_images"]
    del stored["momentum"]["reference_batch"]
    stored["total_steps"], stored["optimizer"]["warmup_steps"] = 700, 30
    before = copy.deepcopy(stored)
    assert pretrain_plan(stored) == whole
    assert stored == before
    assert (whole.loop.total_steps, whole.optimizer.warmup_steps) == (700, 30)
    assert whole.momentum.exponent == 1.0


@pytest.mark.parametrize(("old", "new"), IN_IMAGES.items())
def test_a_length_in_steps_is_answered_with_its_images(old: str, new: str) -> None:
    config = mini.get_config()
    config.update_from_flattened_dict({old: 40})
    with pytest.raises(ConfigError, match=rf"config\.{old}=40: .* use config\.{new}=1280"):
        pretrain_plan(config)
    given = ["pretrain.py", "--config=mini", f"--config.{old}=40"]
    with pytest.raises(ConfigError, match=rf"--config\.{old}: .* use --config\.{new}, steps times"):
        check_overrides(given, RENAMED)


# Changes, and what the answer must say: the field, its value, and a way out.
MISTAKES = [
    ({"model.encoder": "cn"}, ["model.encoder='cn'", "'cnn'", "vit"]),
    ({"contrast.hierarchies": ("frame", "subwords")}, ["'subwords'", "'subword'"]),
    ({"contrast.pairs": ("frame-word",)}, ["'frame-word'", "'frame_word'"]),
    ({"model.image_width": 102}, ["model.image_width=102", "multiple of 4", "100"]),
    ({"model.width": 100}, ["model.width=100", "multiple of 16", "96"]),
    ({"model.blocks": (1, 2, 5)}, ["model.blocks=(1, 2, 5)", "(1, 2, 5, 3)"]),
    ({"rearrange.blocks": 4}, ["rearrange.blocks=4", "26 frames", "use 2"]),
    ({"rearrange.blocks": 4, "model.image_width": 96}, ["25 frames", "use another image width"]),
    ({"contrast.subwords": 27}, ["contrast.subwords=27", "26 frames"]),
    ({"contrast.queue_size": 200}, ["queue_size=200", "208 frame keys", "at least 208"]),
    ({"batch_size": 10}, ["batch_size=10", "4 devices", "8 or 12"]),
    ({"batch_size": 12}, ["batch_size=12", "3 images per device", "rearrange.group=2"]),
    ({"accumulation": 3}, ["accumulation=3", "2 images per device", "divisor of 2"]),
    ({"accumulation": 2}, ["accumulation=2", "rearrange.group=2", "use 16"]),
    ({"mim.mask_ratio": 1.0}, ["mim.mask_ratio=1.0", "0.7"]),
    # Ratios are no counts: the block of 0.15 has four columns of 25, of 100 patches.
    ({"mim.mask_ratio": 0.15}, ["mim.block_ratio=0.15 hides 16 of 100", "the 15 of mask_ratio"]),
    ({"mim.kind": "patch", "mim.mask_ratio": 0.004}, ["mask_ratio=0.004 hides 0", "0.01 and"]),
    ({"mim.kind": "patch", "mim.mask_ratio": 0.996}, ["mask_ratio=0.996 hides 100", "and 0.99"]),
    ({"mim.kind": "block", "mim.block_ratio": 0.0}, ["mim.block_ratio=0.0 hides 0", "0.04 and"]),
    ({"mim.kind": "block", "mim.block_ratio": 0.99}, ["mim.block_ratio=0.99", "and 0.96"]),
    ({"mim.enabled": False, "mim.coupled": True}, ["mim.coupled=True", "mim.enabled"]),
    ({"data.source": ()}, ["data.source is empty", "lmdb:PATH"]),
    ({"data.weights": (1.0, 2.0)}, ["data.weights=(1.0, 2.0)", "1 positive"]),
    (
        {"contrast.hierarchies": (), "contrast.pairs": (), "mim.enabled": False},
        ["nothing to contrast"],
    ),
    ({"optimizer.warmup_images": 24}, ["warmup_images=24", "total_images=24", "example 2"]),
    ({"total_images": 7}, ["total_images=7", "batch_size=8", "at least 8"]),
    ({"momentum.value": 0.99, "momentum.final": 0.9}, ["momentum.final=0.9", "0.99"]),
    ({"optimizer.learning_rate": 0.0}, ["optimizer.learning_rate=0.0", "positive"]),
    ({"contrast.frame_keys": 27}, ["contrast.frame_keys=27", "26 frames", "use 0"]),
    ({"key_groups": 3}, ["key_groups=3", "2 images", "or 1"]),
    ({"key_groups": 2, "key_norm": "sync"}, ["key_groups=2", "key_norm=shuffle", "'sync'"]),
    ({"views.max_ops": 0}, ["views.max_ops=0", "between 1 and 7"]),
]


@pytest.mark.parametrize(("changes", "answers"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_answered(changes, answers):
    config = mini.get_config("test")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError) as caught:
        pretrain_plan(config, devices=4)
    message = str(caught.value)
    assert message.startswith("config.")
    assert "\n" not in message
    for answer in answers:
        assert answer in message


@pytest.mark.parametrize(
    ("changes", "answer"),
    [({"model.heads": 5}, "model.width=64"), ({"model.rectifier": True}, "belongs to the CNN")],
)
def test_mistakes_of_a_vit_are_answered(changes, answer):
    config = mini.get_config("vit")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=answer):
        pretrain_plan(config)


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize("kind", PRETRAIN.choices["mim.kind"])
def test_masks_that_pass_hide_some_patches_and_leave_some(name, kind):
    config = mini.get_config(name)
    config.mim.kind = kind
    answers = set()
    for mask_ratio, block_ratio in itertools.product((0.001, 0.01, 0.15, 0.99, 0.999), repeat=2):
        config.mim.mask_ratio, config.mim.block_ratio = mask_ratio, block_ratio
        try:
            plan = pretrain_plan(config)
        except ConfigError as error:
            answers.add(str(error).split("=")[0])
        else:
            assert 0 < build_model(plan).visible_count < math.prod(plan.mask.grid)
    expected = {"patch": {"mask"}, "block": {"block"}, "patch_block": {"mask", "block"}}[kind]
    assert answers == {f"config.mim.{field}_ratio" for field in expected}


def test_without_mim_no_mask_is_counted():
    config = mini.get_config("test")
    config.mim.enabled, config.mim.mask_ratio = False, 0.1  # less than its block
    assert build_model(pretrain_plan(config, devices=4)).visible_count is None


def test_tables_name_fields_that_exist():
    for config, allowed in ((common, PRETRAIN), (evaluation, EVALUATE)):
        fields = dict(flatten(config.get_config()))
        assert not {*allowed.choices, *allowed.ranges, *allowed.positive} - set(fields)


def test_queue_check_agrees_with_the_encoder_about_frames():
    for config in (mini.get_config("cnn"), mini.get_config("vit")):
        keys = config.batch_size * pretrain_plan(config).model.frames
        config.contrast.queue_size = keys
        pretrain_plan(config)
        config.contrast.queue_size = keys - 1
        with pytest.raises(ConfigError, match=f"at least {keys}"):
            pretrain_plan(config)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("mim.mask_ration", "mim.mask_ratio"),
        ("mask_ratio", "mim.mask_ratio"),
        ("optimiser.learning_rate", "optimizer.learning_rate"),
        ("lr", "optimizer.clip"),
        ("batchsize", "batch_size"),
    ],
)
def test_closest_field(name, field):
    fields = [field for field, _ in flatten(common.get_config())]
    found = closest(name, fields)
    assert found in fields
    if name != "lr":
        assert found == field


def test_differences_name_both_values():
    old, new = common.get_config(), common.get_config()
    new.mim.mask_ratio = 0.6
    assert differences(old, new) == ["mim.mask_ratio was 0.7, is 0.6"]


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["--config.mim.mask_ration=0.5"], r"did you mean --config\.mim\.mask_ratio\?"),
        (["--noconfig.mim.enable"], r"did you mean --config\.mim\.enabled\?"),
        (["--config.mim=1"], r"--config\.mim is a group of fields"),
    ],
)
def test_unknown_override_is_answered_with_the_closest(repository, arguments, answer):
    spec = f"{repository}/configs/pretrain/mini.py:test"
    for form in ([f"--config={spec}"], ["--config", spec]):
        with pytest.raises(ConfigError, match=answer):
            check_overrides(["pretrain.py", *form, *arguments])
    check_overrides(["pretrain.py", f"--config={spec}", "--config.mim.mask_ratio=0.5"])


@pytest.mark.parametrize(
    ("spec", "answer"),
    [
        ("configs/pretrain/minni.py", "did you mean .*configs/pretrain/mini.py"),
        ("configs/pretrain/mini.py:tset", "did you mean 'test'"),
        ("configs/pretrain/__init__.py", "defines no get_config"),
    ],
)
def test_config_file_that_cannot_be_loaded(repository, spec, answer):
    with pytest.raises(ConfigError, match=answer):
        check_overrides(["pretrain.py", f"--config={repository}/{spec}"])


def test_ladder_adds_one_thing_at_a_time():
    rungs = [ablation.get_config(rung) for rung in ablation.LADDER]
    steps = [len(differences(a, b)) for a, b in zip(rungs, rungs[1:], strict=False)]
    assert steps == [1] * 5
    assert differences(rungs[-1], rcmstr_cnn.get_config()) == []


def test_options_of_the_ladder():
    config = ablation.get_config("full,mask=patch,coupled,permutation=shared,kl=mean,norm=local")
    assert config.mim.kind == "patch"
    assert config.mim.coupled
    assert config.rearrange.shared_permutation
    assert config.contrast.kl_reduction == "mean"
    assert config.key_norm == "local"
    with pytest.raises(ValueError, match="'maks' is unknown: did you mean 'mask'"):
        ablation.get_config("full,maks=patch")


def test_recipes_of_the_method():
    cnn, vit = rcmstr_cnn.get_config(), rcmstr_vit.get_config("base")
    assert cnn.optimizer.learning_rate * cnn.batch_size / 32 == pytest.approx(0.012)
    assert (cnn.optimizer.momentum, cnn.optimizer.weight_decay) == (0.9, 1e-4)
    assert (vit.optimizer.b1, vit.optimizer.b2) == (0.9, 0.999)
    assert (vit.optimizer.warmup_images, vit.momentum.value, vit.momentum.final) == (
        5_120_000,
        0.99,
        1.0,
    )
