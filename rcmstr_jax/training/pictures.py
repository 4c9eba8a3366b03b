"""Pictures of what a run sees and learns, into `WORKDIR/pictures`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


class Pictures:
    def __init__(self, config: ConfigDict, model: Any, workdir: Path) -> None:
        pass

    def save(self, step: int, state: Any, batch: Any) -> None:
        pass
