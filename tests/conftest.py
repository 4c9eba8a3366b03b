"""What every test stands on: several fake devices, and the data folder where it is at hand."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.flags import xla_flags

if "jax" in sys.modules:
    raise RuntimeError("jax was imported before tests/conftest.py could ask for four CPU devices")
os.environ["XLA_FLAGS"] = xla_flags(4, os.environ.get("XLA_FLAGS", ""))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Every program is compiled once for the session, its xdist workers and the processes that tests
# start: they inherit the folder, which the process that made it removes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="rcmstr_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
# Smaller programs are compiled sooner than they are packed and written.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.15")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402  (the environment above must be set first)
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

from tests.shapes import check_calls  # noqa: E402
from tests.strict import be_strict  # noqa: E402

check_calls("rcmstr_jax")
be_strict()

from tests.processes import Processes  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
# Files that take longest, longest first: dealt out first by --dist loadfile, they leave short ones
# to fill the end.
_LONGEST = (
    "training/test_switches.py",
    "training/test_variants.py",
    "training/test_hosts.py",
    "verification/test_parity_sizes.py",
    "training/test_pretrain_step.py",
    "training/test_accumulation.py",
    "verification/test_parity.py",
    "training/test_recognition_step.py",
    "models/test_resnet.py",
    "models/test_compact.py",
    "launch/test_pretrain.py",
    "training/test_loop.py",
    "ssl/test_relational.py",
    "recognition/test_probing.py",
    "evaluation/test_protocols.py",
    "training/test_elastic.py",
    "models/test_masked_cnn.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; the order within a file stays."""
    place = {REPOSITORY / "tests" / name: i for i, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="module", autouse=True)
def _released() -> Iterator[None]:
    """Drops what a file traced and compiled: a run collects garbage at its start and its end.

    Over the five gigabytes that a whole session gathers each collection takes ten seconds; what
    another file compiles again comes from the session's folder.
    """
    yield
    jax.clear_caches()
    gc.collect()


def shared_directory() -> Path:
    """The folder with golden figures and real crops: $RCMSTR_SHARED, else beside the checkout."""
    return Path(os.environ.get("RCMSTR_SHARED", REPOSITORY.parent / "shared"))


def _shared(name: str) -> Path:
    path = shared_directory() / name
    if not path.is_dir():
        pytest.skip(f"{path} is absent (set RCMSTR_SHARED to the folder that holds {name}/)")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Figures computed with the published ancestor; skips where they are absent."""
    return _shared("golden")


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Real word crops; skips where they are absent."""
    return _shared("real")


@pytest.fixture(scope="session")
def backgrounds_dir() -> Path:
    """Photographs without text; skips where they are absent."""
    return _shared("backgrounds")


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs the test with 64-bit numbers enabled in JAX."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Runs the test without the check of shapes, to see the package's own error."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Processes:
    """Runs launchers and functions in processes of their own, without waiting for imports."""
    return Processes(tmp_path_factory.mktemp("process"))
