"""Flax linen modules: plain arguments, no configuration object, no input or output."""
