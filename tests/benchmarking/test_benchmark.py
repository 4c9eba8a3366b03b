"""Measurements of tiny cases: their rows, their counts, and what a comparison says."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcmstr_jax.benchmarking import loss, pipeline, report, sparse, suite
from rcmstr_jax.benchmarking.cases import Case, Program, Settings
from rcmstr_jax.benchmarking.matrix_work import matrix_operations
from rcmstr_jax.benchmarking.memory import run_for_peak
from rcmstr_jax.benchmarking.timing import Sample, ceilings
from rcmstr_jax.configs.pretrain import common
from rcmstr_jax.models.resnet import ResNet
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.training.plan import PretrainPlan, pretrain_plan
from tests.processes import Processes

TINY = Settings(width=16, batch=2, queue=64, ratios=(0.7,))
NAMED = ["what", "case", "seconds", "spread", "words_per_second", "peak_bytes", "share_of_ceiling"]


@pytest.fixture(autouse=True)
def no_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured here is small: not beside the largest products of the machine."""
    small = {"nothing": Program(lambda: None, matrix_operations=1.0)}
    monkeypatch.setattr(suite, "ceilings", lambda precision, devices: small)


def common_plan(fields: Mapping[str, Any], *, vit: bool = False) -> PretrainPlan:
    config = common.get_config()
    if vit:
        common.use_vit(config)
    config.update_from_flattened_dict(dict(fields))
    return pretrain_plan(config)


def measure(what: str, names: tuple[str, ...], settings: Settings = TINY) -> list[report.Row]:
    cases = suite.choose_cases(suite.find_cases(what, settings, common_plan), names)
    return suite.measure(cases, settings, repeats=1, peak_command=None)


def test_matrix_operations_multiply_loops_out() -> None:
    def products(x, kernel):
        images, zero = x.reshape(1, 4, 4, 2), jnp.zeros((8, 8))
        maps = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        total, _ = jax.lax.scan(
            lambda c, _: (c + jax.jit(jnp.matmul)(x, x.T), None), zero, length=3
        )
        return maps.sum() + total.sum()

    count = matrix_operations(products, jnp.ones((8, 4)), jnp.ones((3, 3, 2, 5)))
    assert count == 2 * (4 * 4) * (3 * 3 * 2) * 5 + 3 * 2 * 8 * 4 * 8


def test_rows_have_the_keys_in_order_and_are_json() -> None:
    rows = measure("loss", ())
    assert [row["case"] for row in rows] == ["streamed", "naive", "matrix products"]
    for row in rows:
        assert list(json.loads(json.dumps(row)))[: len(NAMED)] == NAMED == list(report.KEYS)
        assert row["seconds"] > 0 and row["spread"] == 0 and row["share_of_ceiling"] > 0
        assert row["words_per_second"] == pytest.approx(2 / row["seconds"])
    assert "streamed" in report.table(rows)


def test_sparse_rows_name_form_and_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without residual blocks: the layers between them are of every kind already.
    monkeypatch.setattr(sparse, "ResNet", functools.partial(ResNet, blocks=(0, 0, 0, 0)))
    (row,) = measure("sparse", ("packed 0.7",))
    assert (row["what"], row["form"], row["ratio"]) == ("sparse", "packed", 0.7)
    assert row["matrix_operations"] > 0


def test_the_naive_loss_is_the_streamed_one() -> None:
    options = ContrastOptions(chunk=24)
    inputs = loss.draw_inputs(TINY, options)
    streamed = jax.jit(loss.loss_function(options))(inputs)
    naive = jax.jit(loss.loss_function(options, loss.naive_terms))(inputs)
    np.testing.assert_allclose(streamed[0], naive[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), streamed[1], naive[1])


def test_a_batch_of_64_has_6272_queries() -> None:
    per_image = loss.queries_per_image(ContrastOptions(), Settings().keys_per_image)
    assert 64 * per_image == 6272


def test_the_floor_has_five_products_per_query_and_key() -> None:
    options = ContrastOptions(chunk=24, pairs=())
    inputs = loss.draw_inputs(TINY, options)
    # Rows of queries (two views) take three products, rows of keys two.
    expected = sum(
        2 * 128 * len(inputs.before[name]) * 2 * count * (2 * 3 + 2)
        for name, count in (("frame", 26), ("subword", 4), ("word", 1))
    )
    reads = 2 * sum(
        len(inputs.before[name]) * 2 * count * (2 + 2)
        for name, count in (("frame", 26), ("subword", 4), ("word", 1))
    )
    assert matrix_operations(loss.matrix_products(options), inputs) == expected + reads


def test_a_share_is_that_of_the_fastest_program_on_as_many_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Case("test", "case", lambda: Program(lambda: None, matrix_operations=6.0, devices=4))
    seconds = {"case": (2.0, 1.5), "slow": (0.4, 0.3), "fast": (1.0, 0.25)}  # median, fastest
    asked = []

    def make(precision: str, devices: int) -> dict[str, Program]:
        asked.append((precision, devices))
        return dict.fromkeys(("slow", "fast"), Program(lambda: None, matrix_operations=5.0))

    monkeypatch.setattr(suite, "ceilings", make)
    times = {name: Sample(median, 1.0, 0.0, fastest) for name, (median, fastest) in seconds.items()}
    monkeypatch.setattr(suite, "time_in_turns", lambda programs, repeats: times)
    (row,) = suite.measure([case], TINY, repeats=1, peak_command=None)
    assert row["share_of_ceiling"] == (6 / 2.0) / (5 / 0.25)
    assert asked == [("float32", 4)]


def test_ceilings_have_the_operations_of_every_device() -> None:
    programs = ceilings("float32", jax.local_device_count())
    sites = 32 * 4 * 26
    assert {name: (p.devices, p.matrix_operations) for name, p in programs.items()} == {
        "matrix product": (4, 4 * 2 * 2048**3),
        "1 x 1 convolution": (4, 4 * 2 * sites * 512**2),
        "3 x 3 convolution": (4, 4 * 2 * sites * 9 * 512**2),
    }


def test_all_is_what_the_encoder_has() -> None:
    assert suite.tables_of("all", TINY) == suite.WHAT
    vit = Settings(model="vit-tiny", batch=2, queue=64)
    make_plan = functools.partial(common_plan, vit=True)
    names = suite.tables_of("all", vit)
    assert set(suite.WHAT) - set(names) == {"sparse"}
    assert all(suite.find_cases(name, vit, make_plan) for name in names)
    assert suite.tables_of("sparse", vit) == ("sparse",)


def test_repetitions_of_the_pipeline_are_long_against_its_buffers() -> None:
    assert pipeline.worker_counts(1) == [0, 1]
    assert pipeline.worker_counts(6) == [0, 1, 2, 4, 6]
    for batch, workers in ((64, 0), (60, 2), (512, 8)):
        words = pipeline.words_per_repetition(batch, workers)
        assert words % batch == 0 and words >= max(4096, 32 * 2 * max(workers, 1) * batch)


def test_the_smallest_number_of_workers_that_is_nearly_the_fastest() -> None:
    speeds = {0: 90.0, 1: 95.5, 2: 100.0, None: 1000.0}
    rows = [{"set": "real", "workers": n, "words_per_second": s} for n, s in speeds.items()]
    (line,) = pipeline.describe_workers(rows)
    assert line.startswith("real: data.workers=1 ")


def test_decoding_counts_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORDS", 8)
    (row,) = measure("decode", ())
    assert row["case"] == "rendered" and row["words_per_second"] == pytest.approx(
        8 / row["seconds"]
    )
    assert row["share_of_ceiling"] is None


def print_peaks_of_fifty_megabytes() -> None:
    held = []

    def run() -> None:
        held.append(np.ones(50_000_000 // 8))
        held.clear()

    case = Case("test", "fifty megabytes", lambda: Program(run))
    print(json.dumps([run_for_peak(case) for _ in range(5)]))


def test_extra_memory_is_what_a_run_takes(processes: Processes) -> None:
    # In a process that does nothing else, as `run_for_peak` asks: in this one, threads of earlier
    # tests take and return memory meanwhile.
    done = processes.call(print_peaks_of_fifty_megabytes)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert all(one["peak_bytes"] > 50_000_000 for one in measured)
    extra = [one["extra_bytes"] for one in measured]
    if None not in extra:
        # The median: where memory is short, the system takes pages of code out of the process or
        # brings them back at any time, which the mark of the largest resident memory counts.
        assert 45_000_000 < statistics.median(extra) < 60_000_000


@pytest.mark.parametrize(("running", "extra"), [(70, 40), (50, None)])
def test_memory_of_an_accelerator(
    monkeypatch: pytest.MonkeyPatch, running: int, extra: int | None
) -> None:
    """Its mark only rises: where building took more than running, nothing is known of running."""
    stats = {"bytes_in_use": 30, "peak_bytes_in_use": 60}

    class Device:
        def memory_stats(self) -> dict[str, int]:
            return dict(stats)

    def run() -> None:
        stats["peak_bytes_in_use"] = max(stats["peak_bytes_in_use"], running)

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    measured = run_for_peak(Case("test", "case", lambda: Program(run)))
    assert measured == {"peak_bytes": max(60, running), "extra_bytes": extra}


def row(case: str, seconds: float, peak: int | None = 100, **changes: object) -> report.Row:
    base = dict.fromkeys((*report.KEYS, *report.IDENTITY))
    values = {"what": "loss", "case": case, "seconds": seconds, "spread": 0.1, "peak_bytes": peak}
    return {**base, **values, **changes}


def test_comparison_names_what_changed() -> None:
    before = [row("a", 2.0), row("b", 1.0), row("c", 1.0, width=64), row("d", 1.0), row("e", 1.0)]
    after = [row("a", 1.0), row("b", 1.05), row("c", 1.0, width=512), row("e", 2.0, 150)]
    assert report.compare(after, before).splitlines() == [
        "loss a: 2 s -> 1 s, 2.00 times as fast",
        "loss b: 1 s -> 1.05 s, unchanged",
        "loss c: not in the baseline at these settings",
        "loss e: 1 s -> 2 s, 2.00 times as slow, 1.50 times the memory",
        "loss c: in the baseline alone",
        "loss d: in the baseline alone",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("no json\n", "line 1 is no JSON"), ('{"what": "loss"}\n', "lacks")],
)
def test_a_bad_baseline_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "baseline.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        report.read_rows(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 40}, "width=40: give a multiple of 16"),
        ({"batch": 1}, "batch=1: give at least 2"),
        ({"model": "resnet"}, "model=resnet: use one of cnn"),
        ({"precision": "float16"}, "precision=float16: use one of"),
        ({"ratios": (0.5, 1.5)}, "ratios=.*between 0 and 1"),
        ({"model": "vit-tiny", "rectifier": True}, "rectifier=True"),
    ],
)
def test_settings_name_what_cannot_work(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_unknown_tables_and_cases_are_named() -> None:
    with pytest.raises(ValueError, match="--what=speed is unknown"):
        suite.find_cases("speed", TINY, common_plan)
    with pytest.raises(ValueError, match="--what=sparse is about the CNN"):
        suite.find_cases("sparse", Settings(model="vit-tiny"), common_plan)
    with pytest.raises(ValueError, match="--cases: there is no 'fast'; known are streamed"):
        suite.choose_cases(suite.find_cases("loss", TINY, common_plan), ("fast",))


@pytest.mark.slow
def test_the_command_measures_memory_writes_and_compares(
    repository: Path, tmp_path: Path, processes: Processes
) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text(json.dumps(row("streamed", 1.0)) + "\n")
    done = processes.script(
        repository / "launch/benchmark.py", "--what=loss", "--batch=2", "--queue=64",
        "--cases=streamed", "--repeats=1", f"--out={out}", f"--baseline={out}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loss streamed: not in the baseline at these settings" in done.stdout
    written = json.loads(out.read_text().splitlines()[1])
    assert written["peak_bytes"] > 50_000_000 and written["width"] == 512


@pytest.mark.slow
def test_the_command_answers_a_mistake_in_one_line(repository: Path, processes: Processes) -> None:
    done = processes.script(repository / "launch/benchmark.py", "--what=loss", "--width=40")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --width=40: give a multiple of 16"
