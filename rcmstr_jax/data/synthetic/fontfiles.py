"""Where font files are: in installed packages, in the system's folders, or where one says."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path

_FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
# What carries fonts of our requirements and of the extra "render" (a test compares): with a face
# less the same seed would draw other words. More are found by their entry point, or named.
PACKAGES = (
    "font-amatic-sc", "font-caladea", "font-fjallaone", "font-fredoka-one", "font-hanken-grotesk",
    "font-intuitive", "font-lato", "font-manrope", "font-source-sans-pro", "font-source-serif-pro",
    "matplotlib", "rendercv-fonts", "ttf-opensans",
)  # fmt: skip
INSTALL = "pip install 'rcmstr-jax[render]'"
_ENTRY_POINTS = ("fonts_ttf", "fonts_otf", "rinoh.typefaces")
# Symbols, icons and emoji, mathematics, and faces without a licence to hand on.
_UNWANTED = (
    "lastresort", "stixsiz", "stixnonuni", "cmex", "cmsy", "cmmi", "awesome", "dingbat", "emoji",
    "entypo", "symbol", "notomusic", "impact", "flowers", "icon",
)  # fmt: skip
# Noto faces of one other script each; some hold Latin letters too, all of them alike.
_OTHER_SCRIPT = re.compile(r"noto(sans|serif|kufi|naskh|nastaliq)(?!display|mono)[a-z]")
_SYSTEM_FOLDERS = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/Library/Fonts", "/System/Library/Fonts", "~/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip


def find_fonts(sources: Iterable[str], *, latin: bool = True) -> list[str]:
    """Paths of font files, sorted by file name.

    Args:
      latin: leave out faces that were made for one other script.
      sources: each one is "packaged", "package:NAME" for the fonts inside any other installed
        Python package, "system", a font file, or a folder.

    Raises:
      ValueError: a path that does not exist, or a package that is not installed; for "packaged"
        with what installs it.
    """
    found: dict[str, None] = {}
    for source in sources:
        if source == "packaged":
            paths = _packaged_fonts(latin)
        elif source.startswith("package:"):
            paths = _fonts_of_package(source.removeprefix("package:"), latin)
            if not paths:
                raise ValueError(
                    f"fonts = {source!r}: no such installed Python package, or no fonts in it; "
                    "pip install it, or leave it out"
                )
        elif source == "system":
            folders = [Path(folder).expanduser() for folder in _SYSTEM_FOLDERS]
            paths = [
                path
                for folder in folders
                if folder.is_dir()
                for path in _fonts_below(folder, latin)
            ]
        elif Path(source).is_dir():
            paths = _fonts_below(Path(source), latin)
        elif Path(source).is_file():
            paths = [source]
        else:
            raise ValueError(
                f"fonts = {source!r} is neither a file nor a folder; give packaged, package:NAME, "
                "system, a font file or a folder of fonts"
            )
        found.update(dict.fromkeys(paths))
    # By name and not by place, so that two installations choose the same faces.
    ordered = sorted(found, key=lambda path: (Path(path).name.lower(), path))
    by_stem = {Path(path).stem.lower(): path for path in ordered}  # .ttf comes after its .otf
    return list(by_stem.values())


def _packaged_fonts(latin: bool) -> list[str]:
    names = {
        point.dist.name
        for group in _ENTRY_POINTS
        for point in importlib.metadata.entry_points(group=group)
        if point.dist is not None
    }
    fonts = {name: _fonts_of_package(name, latin) for name in sorted({*names, *PACKAGES})}
    missing = [name for name in PACKAGES if not fonts[name]]
    if missing:
        raise ValueError(
            f"fonts = 'packaged' takes faces of {', '.join(missing)}, not installed here: "
            f"{INSTALL}, or name fonts of your own (system, a file or a folder)"
        )
    return [path for paths in fonts.values() for path in paths]


def _fonts_of_package(name: str, latin: bool) -> list[str]:
    """Font files of an installed distribution; none if it is not installed."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    paths = [str(file.locate()) for file in files if _is_font(file.name, latin)]
    return [path for path in paths if Path(path).is_file()]


def _fonts_below(folder: Path, latin: bool) -> list[str]:
    return [str(path) for path in sorted(folder.rglob("*")) if _is_font(path.name, latin)]


def _is_font(name: str, latin: bool) -> bool:
    name = name.lower()
    if not name.endswith(_FONT_SUFFIXES) or any(word in name for word in _UNWANTED):
        return False
    return not (latin and _OTHER_SCRIPT.match(name))
