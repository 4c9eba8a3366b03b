"""The table of parameters, on three arrays."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rcmstr_jax.runtime.parameters import parameter_table


def test_every_array_has_a_line_and_the_last_one_is_the_total() -> None:
    params = {
        "head": {"kernel": jnp.asarray([[1.0, 3.0]], jnp.bfloat16)},
        "encoder": {"scale": np.ones(1000, np.float32), "empty": np.zeros((0, 2), np.float32)},
    }
    header, *lines, total = parameter_table(params).splitlines()
    assert header.split() == ["name", "type", "shape", "numbers", "mean", "deviation"]
    assert [line.split() for line in lines] == [
        ["encoder/empty", "float32", "(0,", "2)", "0", "0", "0"],
        ["encoder/scale", "float32", "(1000,)", "1,000", "1", "0"],
        ["head/kernel", "bfloat16", "(1,", "2)", "2", "2", "1"],
    ]
    assert len({len(line) for line in (header, *lines)}) == 1  # columns stand below each other
    assert total == "total: 1,002"
