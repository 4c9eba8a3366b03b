"""A contact sheet: many crops on one picture, to look at."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rcmstr_jax.data.records import Record

_ROW = 48
_GAP = 4
_CAPTION = 13
_WIDTH, _MAX_ROWS = 1400, 24


def contact_sheet(records: Iterable[Record]) -> Image.Image:
    """Crops at one height, row after row, each with its text below; 24 rows at most.

    Raises:
      ValueError: no records.
    """
    step = _ROW + _GAP + _CAPTION
    sheet = Image.new("RGB", (_WIDTH, step * _MAX_ROWS), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    x = y = 0
    placed = 0
    for record in records:
        crop = Image.open(io.BytesIO(record.image)).convert("RGB")
        crop = crop.resize((max(8, min(_WIDTH, round(crop.width * _ROW / crop.height))), _ROW))
        if x and x + crop.width > _WIDTH:
            x, y = 0, y + step
        if y >= step * _MAX_ROWS:
            break
        sheet.paste(crop, (x, y))
        caption = record.text or ""
        draw.text((x, y + _ROW), caption, fill="black", font=font)
        x += max(crop.width, int(draw.textlength(caption, font=font))) + _GAP
        placed += 1
    if not placed:
        raise ValueError("no records for a contact sheet; give at least one")
    return sheet.crop((0, 0, _WIDTH, min(y + step, sheet.height)))


def write_sheet(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Writes a contact sheet as a PNG, in one step."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    contact_sheet(records).save(draft, format="PNG")
    os.replace(draft, target)
