"""Fonts are found, and those that do not show the letters are turned away."""

from __future__ import annotations

import shutil
import string
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools import subset
from fontTools.ttLib import TTFont

from rcmstr_jax.data.synthetic.fontfiles import find_fonts
from rcmstr_jax.data.synthetic.fonts import CAP_HEIGHT, FontBook, open_font, usable_faces
from rcmstr_jax.data.synthetic.glyphs import raster
from rcmstr_jax.data.synthetic.options import RenderOptions

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
LETTERS = string.ascii_letters
LOWER = string.ascii_lowercase


def remapped(path: Path, change: dict[str, str]) -> str:
    """DejaVu Sans in which some characters show the glyphs of others; written to `path`."""
    font = TTFont(DEJAVU)
    for table in font["cmap"].tables:
        glyphs = dict(table.cmap)
        for character, shown in change.items():
            if ord(character) in glyphs:
                table.cmap[ord(character)] = glyphs[ord(shown)]
    font.save(path)
    return str(path)


def without(path: Path, missing: str) -> str:
    """DejaVu Sans without some characters, written to `path`."""
    font = TTFont(DEJAVU)
    tool = subset.Subsetter()
    tool.populate(text="".join(c for c in map(chr, range(33, 127)) if c not in missing))
    tool.subset(font)
    font.save(path)
    return str(path)


def test_packaged_fonts_hold_many_families() -> None:
    paths = find_fonts(("packaged",))
    names = [Path(path).name for path in paths]
    assert "DejaVuSans.ttf" in names
    assert names == sorted(names, key=str.lower)
    assert len(paths) > 50


def test_folder_file_and_missing_source(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(DEJAVU, tmp_path / "deep" / "Some.ttf")
    (tmp_path / "notes.txt").write_text("no font")
    assert [Path(path).name for path in find_fonts((str(tmp_path),))] == ["Some.ttf"]
    assert find_fonts((str(DEJAVU),)) == [str(DEJAVU)]
    with pytest.raises(ValueError, match="neither a file nor a folder; give packaged"):
        find_fonts((str(tmp_path / "none"),))


def test_fonts_of_one_installed_package() -> None:
    names = {Path(path).name for path in find_fonts(("package:matplotlib",))}
    assert "DejaVuSans.ttf" in names and "cmex10.ttf" not in names
    with pytest.raises(ValueError, match="fonts = 'package:no-such-fonts'.*pip install it"):
        find_fonts(("package:no-such-fonts",))


def test_files_that_are_no_fonts_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "Web.ttf").write_text("<!doctype html><html>moved</html>")
    (tmp_path / "Cut.ttf").write_bytes(DEJAVU.read_bytes()[:3000])
    with pytest.raises(ValueError, match="no usable font among 2 files of fonts = .*install font"):
        usable_faces((str(tmp_path),), LETTERS, 0, False)
    shutil.copy(DEJAVU, tmp_path / "Good.ttf")
    faces = usable_faces((str(tmp_path), str(DEJAVU)), LETTERS, 0, False)
    assert [face.family for face in faces] == ["dejavusans"]  # and the copy counts once


def test_a_missing_letter_is_found_by_rendering(tmp_path: Path) -> None:
    path = without(tmp_path / "NoZ.ttf", "z")
    with pytest.raises(ValueError, match="no usable font"):
        usable_faces((path,), LOWER, 0, False)
    (face,) = usable_faces((path,), LETTERS, 0, False)  # its capitals are complete
    assert "z" not in face.characters and "Z" in face.characters
    book = FontBook(RenderOptions(fonts=(path,), alphabet=LETTERS))
    with pytest.raises(ValueError, match="none of 1 faces shows every character of 'zoo'"):
        book.draw(np.random.default_rng(0), "zoo")


def test_capitals_in_the_place_of_small_letters_are_seen(tmp_path: Path) -> None:
    path = remapped(tmp_path / "Caps.ttf", {c: c.upper() for c in LOWER})
    (face,) = usable_faces((path,), LETTERS, 0, False)
    assert face.characters == frozenset(string.ascii_uppercase)
    with pytest.raises(ValueError, match="no usable font"):
        usable_faces((path,), LOWER, 0, False)


def test_shapes_that_are_not_the_letters_are_turned_away(tmp_path: Path) -> None:
    turned = {
        c: group[(i + 7) % 26] for group in (LOWER, LOWER.upper()) for i, c in enumerate(group)
    }
    path = remapped(tmp_path / "Cipher.ttf", turned)
    with pytest.raises(ValueError, match="no usable font"):
        usable_faces((path,), LETTERS, 0, False)


def test_faces_are_scaled_to_one_height_of_capitals() -> None:
    for face in usable_faces(("packaged",), LETTERS, 6, False):
        height = raster(open_font(face.path, face.size), "H")[0].shape[0]
        assert abs(height - CAP_HEIGHT) <= 2


def test_num_fonts_takes_different_families_first() -> None:
    faces = usable_faces(("packaged",), LOWER, 6, True)
    assert len(faces) == 6 and all(face.plain for face in faces)
    assert len({face.family for face in faces}) == 6
    assert set(usable_faces(("packaged",), LOWER, 4, True)) < set(faces)


def test_plain_fonts_sets_the_share_of_plain_families() -> None:
    book = FontBook(RenderOptions(plain_fonts=0.8, num_fonts=24))
    rng = np.random.default_rng(0)
    share = np.mean([book.draw(rng, "word").plain for _ in range(600)])
    assert 0.74 < share < 0.86
