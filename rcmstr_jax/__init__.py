"""RCMSTR: relational contrastive learning and masked image modelling for scene text recognition.

The public names stand in `__init__.pyi` and are imported on first use, so that `import rcmstr_jax`
stays quick and touches neither JAX nor its devices. The README shows a training step made of parts
of this package.
"""

import ast as _ast
import importlib as _importlib
from pathlib import Path as _Path

# Module that holds each public name.
_HOME = {
    alias.name: node.module
    for node in _ast.parse(_Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, _ast.ImportFrom)
    for alias in node.names
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__():
    return sorted({*globals(), *__all__})
