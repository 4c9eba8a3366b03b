"""With which letters: font files are found, opened, and checked by rendering every character."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rcmstr_jax.data.synthetic.options import RenderOptions

CAP_HEIGHT = 36
"""Height in pixels at which capital letters are rasterised, whatever the face."""

_FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
# Installed distributions that carry Latin text fonts. Others are found by their entry point.
_PACKAGES = ("matplotlib", "ttf-opensans", "rendercv-fonts", "augly")
_ENTRY_POINTS = ("fonts_ttf", "fonts_otf", "rinoh.typefaces")
# Symbols, icons and emoji, mathematics, and faces without a licence to hand on.
_UNWANTED = (
    "lastresort", "stixsiz", "stixnonuni", "cmex", "cmsy", "cmmi", "awesome", "dingbat", "emoji",
    "entypo", "symbol", "pictogram", "wcrhesus", "wcsoldout", "outgunned", "notomusic", "impact", "flowers", "icon",
)  # fmt: skip
# Noto faces of one other script each; some hold Latin letters too, all of them alike.
_OTHER_SCRIPT = re.compile(r"noto(sans|serif|kufi|naskh|nastaliq)(?!display|mono)[a-z]")
_SYSTEM_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/Library/Fonts", "/System/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
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
        path: the font file; `index` is the face within a collection.
        family: family name without spaces, lower-case; `style` as the file spells it.
        size: em in pixels at which a capital letter is `CAP_HEIGHT` pixels high.
        characters: what the face renders, each with a shape of its own. Lower-case letters that
            are drawn as capitals are left out, so that a label always says what is seen.
        plain: whether the family is one of signs and print.
    """

    path: str
    index: int
    family: str
    style: str
    size: int
    characters: frozenset[str]
    plain: bool


def find_fonts(sources: Iterable[str]) -> list[str]:
    """Paths of the font files of "packaged", "system", files and folders, sorted by file name.

    Raises:
        ValueError: a path that does not exist.
    """
    found: dict[str, None] = {}
    for source in sources:
        if source == "packaged":
            paths = _packaged_fonts()
        elif source == "system":
            folders = [Path(folder).expanduser() for folder in _SYSTEM_FOLDERS]
            paths = [path for folder in folders if folder.is_dir() for path in _fonts_below(folder)]
        elif Path(source).is_dir():
            paths = _fonts_below(Path(source))
        elif Path(source).is_file():
            paths = [source]
        else:
            raise ValueError(
                f"fonts = {source!r} is neither a file nor a folder; give packaged, system, "
                "a font file or a folder of fonts"
            )
        found.update(dict.fromkeys(paths))
    # By name and not by place, so that two installations choose the same faces.
    ordered = sorted(found, key=lambda path: (Path(path).name.lower(), path))
    by_stem = {Path(path).stem.lower(): path for path in ordered}  # .ttf comes after its .otf
    return list(by_stem.values())


@functools.lru_cache(maxsize=16)
def usable_faces(
    sources: tuple[str, ...], alphabet: str, num_fonts: int, plain: bool
) -> list[Face]:
    """The checked faces of some sources for an alphabet.

    Args:
        sources: as `RenderOptions.fonts`.
        alphabet: a face must show at least one whole case of the alphabet's letters, and all of
            its digits.
        num_fonts: stop at this many faces, of different families first; 0 keeps all.
        plain: whether only plain families count, while there are any.

    Raises:
        ValueError: no face passes.
    """
    paths = find_fonts(sources)
    faces: list[Face] = []
    drawn: set[bytes] = set()
    for path in paths:
        checked = _check(path, alphabet)
        if checked is None:
            continue
        face, fingerprint = checked
        if fingerprint not in drawn:  # the same face often comes with several packages
            drawn.add(fingerprint)
            faces.append(face)
    if not faces:
        raise ValueError(
            f"no usable font among {len(paths)} files of fonts = {','.join(sources)} for the "
            f"alphabet {alphabet!r}; install font packages (pip install font-lato ttf-opensans), "
            "name a folder of fonts, or shorten the alphabet"
        )
    if plain and any(face.plain for face in faces):
        faces = [face for face in faces if face.plain]
    faces.sort(key=lambda face: (face.family, face.style))
    return _spread(faces, num_fonts) if num_fonts else faces


class FontBook:
    """Draws a face for a text: first a family, then one of its faces.

    Args:
        options: the fields fonts, num_fonts, plain_fonts and alphabet are used.
        faces: fonts that were checked already, for these options.

    Raises:
        ValueError: no usable font.
    """

    def __init__(self, options: RenderOptions, *, faces: Sequence[Face] | None = None):
        plain_only = options.plain_fonts >= 1
        self.faces = (
            list(faces)
            if faces is not None
            else usable_faces(options.fonts, options.alphabet, options.num_fonts, plain_only)
        )
        self._plain_share = options.plain_fonts
        plain = [face for face in self.faces if face.plain]
        fancy = [face for face in self.faces if not face.plain]
        self._plain, self._fancy = _by_family(plain), _by_family(fancy)

    def draw(self, rng: np.random.Generator, text: str) -> Face:
        """A face that shows every character of a text.

        Raises:
            ValueError: no face shows them all.
        """
        for _ in range(16):
            families = self._plain if rng.random() < self._plain_share else self._fancy
            families = families or self._plain or self._fancy
            family = families[int(rng.random() * len(families))]
            face = family[int(rng.random() * len(family))]
            if face.characters.issuperset(text):
                return face
        able = [face for face in self.faces if face.characters.issuperset(text)]
        if not able:
            raise ValueError(
                f"none of {len(self.faces)} faces shows every character of {text!r}; "
                "add fonts or shorten the alphabet"
            )
        return able[int(rng.random() * len(able))]


@functools.lru_cache(maxsize=512)
def open_font(path: str, index: int, size: int) -> ImageFont.FreeTypeFont:
    """An open font. Basic layout, because the other one depends on a system library."""
    return ImageFont.truetype(path, size, index=index, layout_engine=ImageFont.Layout.BASIC)


def raster(font: ImageFont.FreeTypeFont, character: str) -> tuple[np.ndarray, int, int]:
    """Coverage of a character, uint8 (height, width), and its left and top off the origin."""
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    left, top, right, bottom = int(left), int(top), int(right), int(bottom)
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.uint8), 0, 0
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, anchor="ls")
    return np.asarray(image), left, top


def _packaged_fonts() -> list[str]:
    names = {
        point.dist.name
        for group in _ENTRY_POINTS
        for point in importlib.metadata.entry_points(group=group)
        if point.dist is not None
    }
    paths = []
    for name in sorted({*names, *_PACKAGES}):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional package
        wanted = [file for file in files if _is_font(file.name)]
        paths += [str(file.locate()) for file in wanted if Path(str(file.locate())).is_file()]
    return paths


def _fonts_below(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*")) if _is_font(path.name)]


def _is_font(name: str) -> bool:
    name = name.lower()
    if not name.endswith(_FONT_SUFFIXES) or any(word in name for word in _UNWANTED):
        return False
    return not _OTHER_SCRIPT.match(name)


@functools.lru_cache(maxsize=4096)
def _check(path: str, alphabet: str) -> tuple[Face, bytes] | None:
    """The face of a file and a fingerprint of its look, or None where it is of no use."""
    try:
        probe = ImageFont.truetype(path, 64, layout_engine=ImageFont.Layout.BASIC)
        height = raster(probe, "H")[0].shape[0] or raster(probe, alphabet[0])[0].shape[0]
        if not height:
            return None
        size = round(64 * CAP_HEIGHT / height)
        if not 12 <= size <= 256:
            return None
        font = ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
        shapes = {c: raster(font, c)[0] for c in sorted({*alphabet, *alphabet.swapcase()})}
        missing = raster(font, "\U0010fffe")[0]
    except (OSError, ValueError):  # FreeType reports what is no font, or a broken one, as these
        return None
    good = {
        c
        for c, shape in shapes.items()
        if shape.size and shape.max() > 127 and not np.array_equal(shape, missing)
    }
    owners: dict[bytes, str] = {}
    for c in sorted(good, key=lambda c: (c.islower(), c)):  # a capital keeps a shared shape
        key = shapes[c].tobytes() + str(shapes[c].shape).encode()
        twin = owners.setdefault(key, c)
        if twin != c and twin.upper() == c.upper():
            good.discard(c)
    letters = [c for c in alphabet if c.isalpha()]
    kinds = [
        k
        for k in ([c for c in letters if c.islower()], [c for c in letters if not c.islower()])
        if k
    ]
    if kinds and not any(good.issuperset(kind) for kind in kinds):
        return None
    if not good.issuperset(c for c in alphabet if c.isdigit()):
        return None
    family, style = font.getname()
    family = (family or Path(path).stem).replace(" ", "").lower()
    look = hashlib.blake2b(digest_size=16)
    for c in sorted(good):
        look.update(shapes[c].tobytes())
    base = _base_family(family)
    face = Face(path, 0, base, f"{family} {style} {Path(path).suffix}", size,
                frozenset(good & set(alphabet)), base in _PLAIN)  # fmt: skip
    return face, look.digest()


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


def _by_family(faces: list[Face]) -> list[list[Face]]:
    families: dict[str, list[Face]] = {}
    for face in faces:
        families.setdefault(face.family, []).append(face)
    return list(families.values())


def _spread(faces: list[Face], count: int) -> list[Face]:
    """The first `count` faces when the families, in an order of their own, take turns."""

    def shuffled(face: Face) -> bytes:
        return hashlib.blake2b(f"{face.family}/{face.style}".encode(), digest_size=8).digest()

    families = [sorted(family, key=shuffled) for family in _by_family(faces)]
    families.sort(key=lambda family: hashlib.blake2b(family[0].family.encode()).digest())
    rounds = max(len(family) for family in families)
    turns = [family[turn] for turn in range(rounds) for family in families if turn < len(family)]
    chosen = turns[:count]
    return sorted(chosen, key=lambda face: (face.family, face.style))
