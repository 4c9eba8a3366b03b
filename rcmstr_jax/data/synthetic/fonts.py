"""With which letters: faces are opened, and checked by rendering every character."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ImageFont, features

from rcmstr_jax.data.synthetic.fontfiles import find_fonts
from rcmstr_jax.data.synthetic.glyphs import (
    CHECK_HEIGHT,
    draws_capitals_only,
    raster,
    recognised,
)
from rcmstr_jax.data.synthetic.lexicon import in_part
from rcmstr_jax.data.synthetic.options import LOOKS_HOLDOUT, RenderOptions

CAP_HEIGHT = 36
"""Height in pixels at which capital letters are rasterised, whatever the face."""

# Pictures in the place of letters, and swash nobody reads, stay below the first number.
_LEAST_RECOGNISED = 0.35
_SCRIPT_BELOW = 0.45
# Share of ink in the letters' boxes. Hairlines vanish in crops of 32 pixels.
_LEAST_INK = 0.15
# Families as they stand on signs and in print; the rest are scripts, display and code faces.
_PLAIN = frozenset(
    "arial arimo assistant barlow caladea calibri carlito caviardreams charter dejavusans "
    "dejavusanscondensed dejavuserif ebgaramond elsie fjallaone fontin gentiumbookplus georgia "
    "hankengrotesk helvetica ibmplexsans ibmplexserif inter lato leaguespartan liberationsans "
    "liberationsansnarrow liberationserif manrope montserrat mukta notosans notosansdisplay "
    "notoserif opensans opensaucesans poppins ptsans ptserif raleway roboto robotocondensed "
    "sourcesans3 sourcesanspro sourceserifpro stixgeneral tahoma timesnewroman ubuntu "
    "verdana xcharter".split()
)


@dataclasses.dataclass(frozen=True)
class Face:
    """One usable face of one font file.

    Attributes:
      path: the font file; of a collection the first face is used.
      family: family name without spaces, lower-case; `style` as the file spells it.
      size: em in pixels at which a capital letter is `CAP_HEIGHT` pixels high.
      characters: what the face renders, each with a shape of its own. Lower-case letters that
        are drawn as capitals are left out, so that a label always says what is seen.
      plain: whether the family is one of signs and print.
      script: whether the small letters are written rather than printed; words in capitals and
        numbers are then set in another face, because nobody could read them.
    """

    path: str
    family: str
    style: str
    size: int
    characters: frozenset[str]
    plain: bool
    script: bool


@functools.lru_cache(maxsize=16)
def usable_faces(
    sources: tuple[str, ...], alphabet: str, num_fonts: int, plain_only: bool, part: str = "all"
) -> list[Face]:
    """The checked faces of some sources for an alphabet.

    Args:
      sources: as `RenderOptions.fonts`.
      alphabet: a face must show at least one whole case of the alphabet's letters, and all of
        its digits.
      num_fonts: stop at this many faces, of different families first; 0 keeps all.
      plain_only: whether only plain families count, while there are any.
      part: all families, or those of the train or test part. A hash of the first two letters of
        their names decides, so that relatives (Source Sans 3 and Pro, the Computer Moderns) keep
        together.

    Raises:
      ValueError: no face passes.
    """
    paths = find_fonts(sources, latin=_is_latin(alphabet))
    found = [name for name in map(_read_name, paths) if name is not None]
    named = [name for name in found if in_part(f"font {name.family[:2]}", part, LOOKS_HOLDOUT)]
    plain = [name for name in named if name.family in _PLAIN]
    faces = _first_usable(plain if plain_only else named, alphabet, num_fonts)
    if not faces and plain_only:
        faces = _first_usable(named, alphabet, num_fonts)
    if not faces:
        shown = alphabet if len(alphabet) <= 40 else f"{alphabet[:40]}..."
        remedy = (
            "install font packages (pip install font-lato ttf-opensans), name a folder of fonts"
        )
        if not _is_latin(alphabet):
            remedy = "name a font or a folder of fonts that hold these letters"
        raise ValueError(
            f"no usable font among {len(paths)} files of fonts = {','.join(sources)} (looks = "
            f"{part}) for the alphabet {shown!r}; {remedy}, or shorten the alphabet"
        )
    return sorted(faces, key=lambda face: (face.family, face.style))


class FontBook:
    """Draws a face for a text: first a family, then one of its faces.

    Args:
      options: the fields fonts, looks, num_fonts, plain_fonts and alphabet are used.
      faces: fonts that were checked already, for these options.

    Raises:
      ValueError: no usable font, a letter without case that none shows, or letters that this
        installation cannot join or set from right to left.
    """

    def __init__(self, options: RenderOptions, *, faces: Sequence[Face] | None = None):
        if faces is None:
            plain_only = options.plain_fonts >= 1
            faces = usable_faces(
                options.fonts, options.alphabet, options.num_fonts, plain_only, options.looks
            )
        self.faces = list(faces)
        check_shaping(options.alphabet)
        lost = [
            c
            for c in options.alphabet
            if (c.isalpha() and c.upper() == c.lower() or _is_mark(c))
            and not any(c in face.characters for face in self.faces)
        ]
        if lost:
            raise ValueError(
                f"none of {len(self.faces)} faces shows {''.join(lost[:20])!r}; name fonts that do,"
                " or leave the letters out of the alphabet"
            )
        self._plain_share = options.plain_fonts
        self._plain = _by_family([face for face in self.faces if face.plain])
        self._fancy = _by_family([face for face in self.faces if not face.plain])

    def draw(self, rng: np.random.Generator, text: str) -> Face:
        """A face that shows every character of a text.

        Raises:
          ValueError: no face shows them all.
        """
        capitals = len(text) > 1 and not any(c.islower() for c in text)
        for _ in range(16):
            families = self._plain if rng.random() < self._plain_share else self._fancy
            families = families or self._plain or self._fancy
            family = families[int(rng.random() * len(families))]
            face = family[int(rng.random() * len(family))]
            if face.characters.issuperset(text) and not (face.script and capitals):
                return face
        able = [face for face in self.faces if face.characters.issuperset(text)]
        if not able:
            raise ValueError(
                f"none of {len(self.faces)} faces shows every character of {text!r}; "
                "add fonts or shorten the alphabet"
            )
        return able[int(rng.random() * len(able))]


@functools.lru_cache(maxsize=512)
def open_font(path: str, size: int, *, shaped: bool = False) -> ImageFont.FreeTypeFont:
    """An open font. Basic layout but for `shaped` text: the other depends on a system library."""
    engine = ImageFont.Layout.RAQM if shaped else ImageFont.Layout.BASIC
    return ImageFont.truetype(path, size, layout_engine=engine)


def needs_shaping(text: str) -> bool:
    """Whether letters stand from right to left, join, or carry marks, so that they go together."""
    return not text.isascii() and any(map(_is_shaped, text))


@functools.lru_cache(maxsize=4096)
def _is_shaped(character: str) -> bool:
    # The scripts of India and South-East Asia; Hangul in pieces; Khmer and Mongolian.
    code = ord(character)
    blocks = 0x0900 <= code <= 0x109F or 0x1100 <= code <= 0x11FF or 0x1780 <= code <= 0x18AF
    return blocks or unicodedata.bidirectional(character) in ("R", "AL") or _is_mark(character)


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def check_shaping(alphabet: str) -> None:
    """Raises ValueError if letters need shaping, and Pillow has no library here that does it."""
    lacking = [name for name in ("raqm", "fribidi", "harfbuzz") if not features.check(name)]
    if lacking and needs_shaping(alphabet):
        first = next(filter(_is_shaped, alphabet))
        raise ValueError(
            f"alphabet holds {first!r}, whose script joins its letters or runs from right to left;"
            f" Pillow finds no {', '.join(lacking)} here, without which they would stand reversed "
            "and apart: install FriBiDi (libfribidi0 of Debian, fribidi of Homebrew) and Pillow's "
            "own wheel, or leave these letters out"
        )


@dataclasses.dataclass(frozen=True)
class _Name:
    """What a font file calls itself; cheap to read, nothing is rendered."""

    path: str
    family: str
    style: str


@functools.lru_cache(maxsize=4096)
def _read_name(path: str) -> _Name | None:
    """The name of a font file, or None for a file that is no font."""
    try:
        family, style = ImageFont.truetype(path, 16).getname()
    except (OSError, ValueError):  # FreeType reports what is no font, or a broken one, as these
        return None
    family = (family or Path(path).stem).replace(" ", "").lower()
    return _Name(path, _base_family(family), f"{family} {style or ''}")


_Named = TypeVar("_Named", Face, _Name)


def _first_usable(names: list[_Name], alphabet: str, count: int) -> list[Face]:
    """Usable faces, none twice; the first `count` of them in turns, where that is not zero."""
    faces: list[Face] = []
    drawn: set[bytes] = set()
    for name in _in_turns(names) if count else names:
        checked = _check(name, alphabet)
        if checked is None or checked[1] in drawn:  # several packages bring the same face
            continue
        drawn.add(checked[1])
        faces.append(checked[0])
        if len(faces) == count:
            break
    return faces


def _in_turns(names: list[_Name]) -> list[_Name]:
    """One face of every family, then a second one, and so on; the order is fixed but mixed."""

    def mixed(text: str) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    families = _by_family(sorted(names, key=lambda name: mixed(name.style)))
    ordered = sorted(families, key=lambda family: mixed(family[0].family))
    turns = itertools.zip_longest(*ordered)
    return [name for turn in turns for name in turn if name is not None]


@functools.lru_cache(maxsize=4096)
def _check(name: _Name, alphabet: str) -> tuple[Face, bytes] | None:
    """The face of a file and a fingerprint of its look, or None where it is of no use."""
    try:
        probe = ImageFont.truetype(name.path, 64, layout_engine=ImageFont.Layout.BASIC)
        height = raster(probe, "H")[0].shape[0] or raster(probe, alphabet[0])[0].shape[0]
        if not 64 * CAP_HEIGHT / 256 <= height <= 64 * CAP_HEIGHT / 12:
            return None
        small = probe.font_variant(size=round(64 * CHECK_HEIGHT / height))
        shapes = {c: raster(small, c)[0] for c in sorted({*alphabet, *alphabet.swapcase()})}
        missing = raster(small, "\U0010fffe")[0]
    except (OSError, ValueError):  # a broken one
        return None
    good = {
        c
        for c, shape in shapes.items()
        if shape.size and shape.max() > 100 and not np.array_equal(shape, missing)
    }
    capitals = recognised(shapes, lower=False)
    smalls = recognised(shapes, lower=True)
    latin = _is_latin(alphabet)
    if latin and max(capitals, smalls) < _LEAST_RECOGNISED:
        return None
    if draws_capitals_only(shapes):
        good = {c for c in good if not c.islower()}
    good = {c for c in good if c in alphabet and not _is_twin(c, shapes, good)}
    ink = [float(shapes[c].mean()) / 255 for c in good if c.isalnum()]
    if not _suffices(good, alphabet) or (ink and float(np.mean(ink)) < _LEAST_INK):
        return None
    if not _joins(name.path, alphabet):
        return None
    look = hashlib.blake2b(digest_size=16)
    for c in sorted(good):
        look.update(shapes[c].tobytes())
    face = Face(
        path=name.path,
        family=name.family,
        style=name.style,
        size=round(64 * CAP_HEIGHT / height),
        characters=frozenset(good),
        plain=name.family in _PLAIN,
        script=latin and smalls < _SCRIPT_BELOW and any(c.islower() for c in good),
    )
    return face, look.digest()


def _is_latin(alphabet: str) -> bool:
    return any("a" <= c.lower() <= "z" for c in alphabet)


def _joins(path: str, alphabet: str) -> bool:
    """Whether a face has joined forms of Arabic letters, where the alphabet holds some."""
    letters = [c for c in alphabet if unicodedata.bidirectional(c) == "AL" and c.isalpha()]
    if not letters or not features.check("raqm"):
        return True
    font = open_font(path, 64, shaped=True)
    return any(font.getlength(2 * c) != 2 * font.getlength(c) for c in letters)


def _is_twin(character: str, shapes: dict[str, np.ndarray], good: set[str]) -> bool:
    """Whether a small letter has the very shape of its capital: then the capital keeps it."""
    capital = character.upper()
    if not character.islower() or capital not in good:
        return False
    return np.array_equal(shapes[character], shapes[capital])


def _suffices(good: set[str], alphabet: str) -> bool:
    """Whether all digits, and the letters of one case at least, of the alphabet are there."""
    small = [c for c in alphabet if c.islower()]
    other = [c for c in alphabet if c.isalpha() and not c.islower()]
    cases = [case for case in (small, other) if case]
    if not good.issuperset(c for c in alphabet if _is_mark(c)):
        return False
    if cases and not any(good.issuperset(case) for case in cases):
        return False
    return bool(good) and good.issuperset(c for c in alphabet if c.isdigit())


_WEIGHTS = (
    "thin", "hairline", "extralight", "ultralight", "light", "medium", "semibold", "demibold",
    "extrabold", "ultrabold", "black", "heavy", "bold", "text", "regular", "italic", "extlt",
    "medm", "smbld",
)  # fmt: skip


def _base_family(family: str) -> str:
    """Family without a weight at its end: files often name "Lato Black" as a family."""
    for weight in _WEIGHTS:
        if family.endswith(weight) and len(family) > len(weight) + 2:
            return family[: -len(weight)]
    return family


def _by_family(faces: list[_Named]) -> list[list[_Named]]:
    families: dict[str, list[_Named]] = {}
    for face in faces:
        families.setdefault(face.family, []).append(face)
    return list(families.values())
