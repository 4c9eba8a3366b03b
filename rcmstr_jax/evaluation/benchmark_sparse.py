"""Time and memory of the masked encoder: packed against masked-dense against dense.

    python -m rcmstr_jax.evaluation.benchmark_sparse WIDTH BATCH RATIO FORM DTYPE IMAGE_WIDTH CACHE

prints the peak memory in bytes of a process that runs one form (`peak_bytes` calls it, twice, with
a folder for compiled programs).
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.ssl.masking import draw_mask, visible_count

FORMS = ("dense", "masked_dense", "packed")
ROWS = 4  # patches of 8 x 4 pixels
Row = dict[str, Any]


def _kind(ratio: float) -> str:
    """Light masks have no room for the block."""
    return "patch_block" if ratio >= 0.3 else "patch"


def _variables(model: ResNet, images: Any) -> Any:
    """Parameters and statistics, drawn without compiling an initialisation."""
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> Any:
        if leaf.ndim == 4:
            deviation = (2 / np.prod(leaf.shape[:3])) ** 0.5
            return jnp.asarray(random.normal(size=leaf.shape) * deviation, leaf.dtype)
        one = path[-1].key in ("scale", "var")
        return jnp.full(leaf.shape, float(one), leaf.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(1), images)
    return jax.tree_util.tree_map_with_path(draw, shapes)


def _step(
    width: int, batch: int, ratio: float, form: str, dtype: str, image_width: int
) -> tuple[Any, tuple[Any, ...]]:
    """Forward and backward pass of the encoder (training mode), and its arguments."""
    grid = (ROWS, image_width // 4)
    model = ResNet(width=width, dtype=jnp.dtype(dtype))
    images = jax.random.normal(jax.random.key(0), (batch, 32, image_width, 3), jnp.float32)
    variables = _variables(model, images[:1])
    mask = draw_mask(jax.random.key(2), batch, grid, mask_ratio=ratio, kind=_kind(ratio))
    masked: dict[str, Any] = {
        "form": form,
        "visible_count": visible_count(grid, ratio, kind=_kind(ratio)),
    }

    def loss(params: Any, stats: Any, images: Any, mask: Any) -> Any:
        options = {} if form == "dense" else {"mask": mask, **masked}
        (features, _), state = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
            **options,
        )
        return jnp.sum(jnp.square(features.astype(jnp.float32))), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step, (variables["params"], variables["batch_stats"], images, mask)


def benchmark_sparse(
    width: int = 512,
    batch: int = 32,
    ratios: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    repeats: int = 5,
    dtype: str = "float32",
    image_width: int = 100,
    forms: Sequence[str] = FORMS,
    peak: bool = True,
) -> list[Row]:
    """Times forward plus backward of the whole CNN encoder in every form.

    All forms of a ratio run interleaved in this process, after one run each that is not counted.
    Peak memory is that of a fresh process per form and ratio which runs the step twice.

    Args:
        width: width of the encoder.
        batch: images in a step.
        ratios: shares of hidden patches.
        repeats: timed runs of each.
        dtype: "float32" or "bfloat16", the arithmetic of the encoder.
        image_width: pixels.
        forms: of "dense", "masked_dense" and "packed".
        peak: also start the processes that measure peak memory.

    Returns:
        One row per form and ratio: `what`, `form`, `ratio`, `width`, `batch`, `dtype`, `platform`,
        `seconds` (median), `spread` (largest minus smallest), `cpu_seconds` (median of the
        process's processor time, which other users of the machine disturb less), `buffer_bytes`
        (what the compiler sets aside beside arguments and results) and `peak_bytes` (None where it
        is not measured). "dense" does not depend on the ratio and stands in the table for
        comparison.
    """
    rows: list[Row] = []
    for ratio in ratios:
        steps = {form: _step(width, batch, ratio, form, dtype, image_width) for form in forms}
        compiled = {form: step.lower(*args).compile() for form, (step, args) in steps.items()}
        seconds: dict[str, list[float]] = {form: [] for form in forms}
        cpu: dict[str, list[float]] = {form: [] for form in forms}
        for repeat in range(repeats + 1):
            for form in forms:
                start, cpu_start = time.perf_counter(), time.process_time()
                jax.block_until_ready(compiled[form](*steps[form][1]))
                if repeat:
                    seconds[form].append(time.perf_counter() - start)
                    cpu[form].append(time.process_time() - cpu_start)
        for form in forms:
            memory = compiled[form].memory_analysis()
            options = (width, batch, ratio, form, dtype, image_width)
            rows.append(
                {
                    "what": "sparse",
                    "form": form,
                    "ratio": ratio,
                    "width": width,
                    "batch": batch,
                    "dtype": dtype,
                    "platform": jax.default_backend(),
                    "seconds": statistics.median(seconds[form]),
                    "spread": max(seconds[form]) - min(seconds[form]),
                    "cpu_seconds": statistics.median(cpu[form]),
                    "buffer_bytes": None if memory is None else memory.temp_size_in_bytes,
                    "peak_bytes": peak_bytes(*options) if peak else None,
                }
            )
    return rows


def peak_bytes(
    width: int, batch: int, ratio: float, form: str, dtype: str, image_width: int
) -> int:
    """Peak memory of a fresh process that runs one form.

    On CPU it is the process's largest resident memory, on an accelerator the device's. The program
    is compiled in a process before, so that the compiler's memory does not count.

    Raises:
        RuntimeError: the process failed.
    """
    options = [str(value) for value in (width, batch, ratio, form, dtype, image_width)]
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-m", "rcmstr_jax.evaluation.benchmark_sparse", *options, cache],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"peak_bytes({', '.join(options)}): {done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def crossover(rows: Iterable[Row]) -> dict[int, float]:
    """Per width the largest share of visible patches at which packed is at least as fast.

    This is one platform's entry of `rcmstr_jax.models.forms.PACKED_UP_TO`.
    """
    rows = list(rows)
    found: dict[int, float] = {}
    for width in sorted({row["width"] for row in rows}):
        times = {
            (row["form"], row["ratio"]): row["seconds"] for row in rows if row["width"] == width
        }
        found[width] = 0.0
        for ratio in sorted({ratio for _, ratio in times}, reverse=True):
            if times["packed", ratio] > times["masked_dense", ratio]:
                break
            found[width] = round(1 - ratio, 6)
    return found


def _main(arguments: Sequence[str]) -> None:
    width, batch, ratio, form, dtype, image_width, cache = arguments
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    step, inputs = _step(int(width), int(batch), float(ratio), form, dtype, int(image_width))
    for _ in range(2):
        jax.block_until_ready(step(*inputs))
    device = jax.local_devices()[0].memory_stats()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(device["peak_bytes_in_use"] if device else resident)


if __name__ == "__main__":
    _main(sys.argv[1:])
