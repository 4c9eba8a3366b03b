"""The example of docs/sparse.md: another project's CNN, masked in a few lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.models.layers import keep_active
from rcmstr_jax.models.packed import pack
from rcmstr_jax.models.sites import Sites


def snippet(repository: Path) -> str:
    """The Python block after the comment `<!-- tested: masked -->`."""
    text = (repository / "docs/sparse.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- tested: masked -->\s*```python\n(.*?)```", text, re.DOTALL)
    assert match, "docs/sparse.md has no ```python block after <!-- tested: masked -->"
    return match.group(1)


def test_documented_example(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(snippet(repository), "docs/sparse.md", "exec"), names)
    printed = capsys.readouterr().out
    variables, images, hidden = names["variables"], names["images"], names["hidden"]
    assert re.search(r"largest difference \d\.\de[-+]\d\d\b", printed), printed
    np.testing.assert_allclose(names["after"], names["before"], atol=1e-5)
    # A quarter of the patches is visible, and a site of the last map is a patch.
    assert "(4, 4, 12, 64), 25% of the sites filled" in printed, printed
    np.testing.assert_array_equal((np.asarray(names["features"]) != 0).any(-1), ~hidden)

    # The other form, forward and backward; nothing reaches hidden pixels.
    model = names["MaskedCnn"]()

    def loss(images: Any, count: int | None) -> Any:
        sites = Sites.from_patches(hidden, images.shape[1:3], count)
        x = pack(images, sites) if sites.packed else keep_active(images, sites)
        y, _ = model.apply(variables, x, sites, train=True, mutable=["batch_stats"])
        return jnp.sum(y**2), y

    step = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (packed, y), (dense, dense_y) = step(images, 12), step(images, None)
    np.testing.assert_allclose(y, dense_y, atol=1e-4)
    np.testing.assert_allclose(packed, dense, atol=1e-4 * np.abs(dense).max())
    visible = ~np.repeat(np.repeat(hidden, 8, axis=1), 8, axis=2)
    assert (np.abs(packed).max(-1) > 0)[visible].mean() > 0.9
    assert not np.asarray(packed)[~visible].any()
