"""The terms of a step: together they are the step, and their bytes are those worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.benchmarking.matrix_work import MatrixWork, matrix_operations, matrix_work
from rcmstr_jax.benchmarking.scaling import abstract_step
from rcmstr_jax.benchmarking.step_costs import Term, step_terms, table
from rcmstr_jax.configs.pretrain import mini
from rcmstr_jax.training.plan import pretrain_plan


@pytest.mark.parametrize(
    ("frames_queued", "changes"),
    [
        (480, {"model.image_width": 20, "mim.form": "packed", "model.rectifier": True}),
        (512, {"model.image_width": 16, "model.encoder": "vit", "model.heads": 1}),
    ],
    ids=["cnn", "vit"],
)
def test_the_terms_have_the_operations_of_the_step(frames_queued: int, changes: dict) -> None:
    config = mini.get_config("test")
    config.model.blocks, config.model.depth = (0, 0, 0, 0), 1
    config.update_from_flattened_dict(changes)
    plan = pretrain_plan(config)
    state, batch, step = abstract_step(plan, plan.loop.batch_size)
    whole = matrix_operations(step(None), state, batch)
    terms = {term.name: term for term in step_terms(plan)}
    assert sum(term.operations for term in terms.values()) == pytest.approx(whole, rel=1e-12)
    # Two passes; queues of 512 entries, in whole steps of 8 images, of 16 numbers of 4 bytes each;
    # sub-words and words are met by two terms.
    assert terms["loss"].bytes == 2 * (frames_queued + 2 * (512 + 512)) * 16 * 4


def test_matrix_operations_read_their_operands_and_write_their_result() -> None:
    def thrice(x, y):
        return jax.lax.scan(lambda c, _: (c, c @ y), x, length=3)[1]

    arguments = jnp.ones((8, 4)), jnp.ones((4, 2))
    assert matrix_work(thrice, *arguments) == MatrixWork(
        operations=3 * 2 * 8 * 4 * 2, read=3 * 4 * (8 * 4 + 4 * 2), written=3 * 4 * 8 * 2
    )


def test_a_floor_is_the_slower_of_computing_and_moving() -> None:
    terms = [Term("first", 6e9, 1e6), Term("second", 1e9, 4e6)]
    header, *rows = table(terms, batch=2, operation_rate=2e9, byte_rate=1e6)
    assert header[0] == "term"
    assert rows == [
        ["first", "3.00", "0.50", "3", "products"],
        ["second", "0.50", "2.00", "4", "memory"],
        ["sum", "3.50", "2.50", "7", ""],
    ]
