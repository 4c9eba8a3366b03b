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


def contact_sheet(
    records: Iterable[Record], *, width: int = 1400, max_rows: int = 24, captions: bool = True
) -> Image.Image:
    """Crops at one height, row after row, each with its text below.

    Args:
      records: as many as are to be seen; those beyond the last row are left out.
      width: of the sheet, in pixels.
      max_rows: rows of the sheet at most.
      captions: whether the texts are written.

    Raises:
      ValueError: no records.
    """
    step = _ROW + _GAP + (_CAPTION if captions else 0)
    sheet = Image.new("RGB", (width, step * max_rows), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    x = y = 0
    placed = 0
    for record in records:
        crop = Image.open(io.BytesIO(record.image)).convert("RGB")
        crop = crop.resize((max(8, min(width, round(crop.width * _ROW / crop.height))), _ROW))
        if x and x + crop.width > width:
            x, y = 0, y + step
        if y >= step * max_rows:
            break
        sheet.paste(crop, (x, y))
        if captions and record.text is not None:
            draw.text((x, y + _ROW), record.text, fill="black", font=font)
        text_width = int(draw.textlength(record.text or "", font=font)) if captions else 0
        x += max(crop.width, text_width) + _GAP
        placed += 1
    if not placed:
        raise ValueError("no records for a contact sheet; give at least one")
    return sheet.crop((0, 0, width, min(y + step, sheet.height)))


def write_sheet(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Writes a contact sheet as a PNG, in one step."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    contact_sheet(records).save(draft, format="PNG")
    os.replace(draft, target)
