"""Synthetic words: rendered crops of text, a pure function of (seed, index)."""

from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.data.synthetic.source import SyntheticSource

__all__ = ["RenderOptions", "SyntheticSource"]
