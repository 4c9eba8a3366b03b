"""One file per evaluation protocol; `common.py` holds every field with its default."""
