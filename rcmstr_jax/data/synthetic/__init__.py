"""Synthetic words: rendered crops of text, a pure function of (seed, index).

`rng` is everywhere the generator of the one word that is drawn.
"""

from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.data.synthetic.source import SyntheticSource

__all__ = ["RenderOptions", "SyntheticSource"]
