"""The command lines: parse flags, one call. Installed as `rcmstr_jax.launch`."""
