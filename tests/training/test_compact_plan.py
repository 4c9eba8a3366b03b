"""The compact encoder from its config to a step, and the numbering of its layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from rcmstr_jax.augment import ColourJitter
from rcmstr_jax.configs.pretrain import compact
from rcmstr_jax.models.compact import CompactEncoder
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.models.vit import VisionTransformer
from rcmstr_jax.runtime.config_files import config_from_jsonable, config_to_jsonable
from rcmstr_jax.runtime.errors import ConfigError
from rcmstr_jax.training.build import build_encoder, build_model
from rcmstr_jax.training.layer_decay import layer_numbers
from rcmstr_jax.training.optimizer import make_optimizer
from rcmstr_jax.training.plan import ModelPlan, model_plan, pretrain_plan
from rcmstr_jax.training.pretrain_step import make_pretrain_step
from rcmstr_jax.training.state import fresh_state


def _small(**changes: object) -> ConfigDict:
    config = compact.get_config()
    config.update_from_flattened_dict(
        {
            "batch_size": 4,
            "model.width": 16,
            "model.blocks": (1, 1, 1),
            "model.attention": 1,
            "model.image_width": 20,
            "model.projector_hidden": 8,
            "model.predict_dim": 8,
            "contrast.queue_size": 48,
            "contrast.chunk": 16,
            **changes,
        }
    )
    return config


def test_the_shipped_config() -> None:
    config = compact.get_config()
    plan = pretrain_plan(config, devices=4)
    assert config_from_jsonable(config_to_jsonable(config)).to_dict() == config.to_dict()
    assert build_encoder(plan.model) == CompactEncoder()
    assert (plan.model.frames, plan.model.patch, plan.model.grid) == (26, (8, 4), (4, 25))
    assert plan.views is not None and plan.views.colour == ColourJitter()


def test_fields_reach_the_encoder() -> None:
    plan = pretrain_plan(_small(**{"model.heads": 2}))
    expected = CompactEncoder(width=16, blocks=(1, 1, 1), attention=1, heads=2)
    assert build_encoder(plan.model) == expected
    assert build_model(plan).form == "masked_dense"


@pytest.mark.parametrize("form", ["masked_dense", "packed"])
def test_a_step_of_the_whole_method_is_traced(form: str) -> None:
    """Views with colours, permutation and masked pass; a state like the one before comes out."""
    plan = pretrain_plan(_small(**{"mim.form": form}))
    model, (optimizer, schedule) = build_model(plan), make_optimizer(plan.optimizer)
    state = jax.eval_shape(lambda: fresh_state(plan, model, optimizer))
    step = make_pretrain_step(plan, model, optimizer, schedule, None)
    images = jax.ShapeDtypeStruct((4, *plan.model.image_size, 3), jnp.uint8)
    batch = {"image": images, "index": jax.ShapeDtypeStruct((4,), jnp.int32)}
    new, metrics = jax.eval_shape(step, state, batch)
    assert {"loss", "loss/contrast", "loss/mim"} <= set(metrics)
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, new)]
    assert shapes[0] == shapes[1]


def test_layers_are_numbered_from_the_image() -> None:
    images = jax.ShapeDtypeStruct((1, 32, 100, 3), jnp.float32)
    model = CompactEncoder(blocks=(2, 1, 1), attention=2)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), images)["params"]
    forward = [
        ["stem1_conv", "stem1_bn"], ["stem2_conv", "stem2_bn"], ["layer1_0"], ["layer1_1"],
        ["down2_conv", "down2_bn"], ["layer2_0"], ["down3_conv", "down3_bn"], ["layer3_0"],
        ["fold_conv", "fold_bn"], ["block_0"], ["block_1"], ["norm"],
    ]  # fmt: skip
    expected = {name: i for i, names in enumerate(forward) for name in names}
    assert layer_numbers(params) == expected


def test_other_encoders_are_built_as_before() -> None:
    """A stored description that is older than the compact encoder lacks `attention`."""
    fields = {name: getattr(ModelPlan(), name) for name in ModelPlan.__dataclass_fields__}
    del fields["attention"]
    assert build_encoder(model_plan(fields)) == ResNet()
    vit = model_plan({**fields, "encoder": "vit", "width": 0})
    assert build_encoder(vit) == VisionTransformer(width=192, depth=12, heads=3)


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({"model.width": 20}, ["model.width=20", "multiple of 8", "an eighth"]),
        ({"model.blocks": (1, 2, 5, 3)}, ["model.blocks=(1, 2, 5, 3)", "3 counts", "(2, 3, 1)"]),
        ({"model.attention": -1}, ["model.attention=-1", "at least 0"]),
        ({"model.heads": 3}, ["model.width=16", "3 attention heads"]),
    ],
)
def test_mistakes_are_answered(changes: dict[str, object], answers: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        pretrain_plan(_small(**changes))
    assert all(answer in str(caught.value) for answer in answers)
