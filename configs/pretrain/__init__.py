"""Pretraining runs; `common.py` holds and documents every field."""
