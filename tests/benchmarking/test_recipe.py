"""What a recipe comes to, by hand; and that the committed page says it of the shipped ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rcmstr_jax.benchmarking import recipe
from rcmstr_jax.configs.pretrain import ablation, mini, rcmstr_vit
from rcmstr_jax.runtime.command_line import PRETRAIN, load_config
from rcmstr_jax.training.plan import pretrain_plan


def test_facts_of_the_ancestor_by_hand() -> None:
    said = dict(recipe.facts(pretrain_plan(ablation.get_config("inter,recipe=ancestor"))))
    assert said["images"] == "27,500,000: 859,375 steps of 32"
    assert said["rate over images"].startswith(f"`{'█' * 24}` constant, warm-up 0 images")
    assert said["moving average"] == "0.999 a step, horizon 31,984 images"  # 32 / -ln 0.999
    assert said["rearranged"].endswith("a permutation per batch")
    assert said["relations"].startswith("α 0.3, mean; between: frame to subword, subword to word")
    assert said["queue of frame keys"] == "64,896: 78 steps, 2,496 images"  # 78 x 32 x 26
    assert (
        said["batch statistics"]
        == "shuffle: 1 of 32 images on 1 device, 8 of 4 images on 8 devices"
    )
    assert said["masked"] == "no"


def test_facts_of_a_vit_by_hand() -> None:
    config = rcmstr_vit.get_config("small")
    said = dict(recipe.facts(pretrain_plan(config)))
    assert said["images"] == "54,999,040: 53,710 steps of 1,024"
    assert "warm-up 5,120,000 images" in said["rate over images"]
    assert said["moving average"].startswith("0.99 rising to 1 a step")
    assert said["batch statistics"] == "none"
    config.batch_size, config.contrast.queue_size = 4096, 131_072
    assert (
        dict(recipe.facts(pretrain_plan(config)))["images"] == "54,996,992: 13,427 steps of 4,096"
    )
    config = mini.get_config()
    config.key_norm, config.accumulation = "sync", 2
    assert recipe.describe_groups(pretrain_plan(config)).startswith("sync: 2 of 16 images on 1")


def test_bars_follow_the_numbers() -> None:
    assert recipe.bars(np.asarray([0.0, 0.5, 0.99, 1.0])) == "▁▅██"


@pytest.mark.parametrize("name", recipe.SHIPPED)
def test_the_committed_page_says_what_the_recipe_comes_to(name: str, repository: Path) -> None:
    """All that follows from the plan; costs and gradients take the command in the page's head."""
    text = (repository / "docs/recipes.md").read_text(encoding="utf-8")
    assert text.startswith(recipe.HEAD)
    page = recipe.page(name, load_config(name, PRETRAIN), costs=False)
    assert page in text, f"{page}\nwrite docs/recipes.md anew, with the command in its head"


@pytest.mark.slow
def test_cost_counts_the_images_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    config = mini.get_config("test")
    config.total_images = 8 * 10**9
    monkeypatch.setattr(recipe.scaling, "step_flops", lambda plan, rows: rows * 3e9)
    # 2.4e19 products and sums; 40 % of 459e12 a second for 130,719 seconds.
    assert recipe.cost(pretrain_plan(config)) == (
        "3 GFLOP an image, 24 EFLOP; 36.3 h on one TPU v5p at 40% of its bfloat16 peak"
    )
