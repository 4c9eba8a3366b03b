"""XLA flags of every process of the tests; imports no JAX, which reads them once."""

from __future__ import annotations

from importlib.metadata import version

# Most of the time goes into compiling programs that run once. LLVM's optimisations take half of it
# (of initialisation six sevenths) and save next to nothing. XLA's own passes all run.
_QUICKLY = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
# Of the rest, writing each fusion as MLIR takes six tenths: a step compiles in 20 s of processor
# time with these emitters, in 8 s without. JAX 0.12 has no others, and ends where it is told.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    _QUICKLY.append("--xla_cpu_use_fusion_emitters=false")


def xla_flags(devices: int = 1, given: str = "") -> str:
    """Flags for a process with so many fake devices; what `given` sets stays."""
    flags = (f"--xla_force_host_platform_device_count={devices}", *_QUICKLY)
    return " ".join([given, *(f for f in flags if f.split("=")[0] not in given)]).strip()
