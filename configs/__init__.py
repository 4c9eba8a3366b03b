"""Run descriptions: `get_config(variant)` per file, overridden on the command line."""
