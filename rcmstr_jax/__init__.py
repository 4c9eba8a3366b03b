"""RCMSTR: relational contrastive learning and masked image modelling for scene text recognition."""

from __future__ import annotations

__version__ = "0.1.0"
