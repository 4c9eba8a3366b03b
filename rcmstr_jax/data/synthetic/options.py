"""What a synthetic word may look like: every knob of the renderer in one frozen dataclass."""

from __future__ import annotations

import dataclasses
import string
from pathlib import Path
from typing import Any

from rcmstr_jax.data.charset import Charset

ALPHABET = string.digits + string.ascii_letters + string.punctuation
"""The 94 printable ASCII characters without the space."""

CASES = ("mixed", "lower", "upper", "title", "as_given")
SPLITS = ("all", "train", "test")
LOOKS_HOLDOUT = 0.25
"""Share of font families and of photographs that belong to the test part of `looks`."""
ENCODINGS = ("jpeg", "png")
DIFFICULTIES = ("easy", "medium", "hard", "scene")


def _knob(default: Any, text: str) -> Any:
    """A field whose description is also the help text of the command line flag."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """Everything that decides how a word is drawn, besides (seed, index).

    The defaults are the "medium" difficulty. Build others with `RenderOptions.preset`.
    Probabilities are per word. Lengths are shares of the crop's height or of the em, as stated.

    Raises:
      ValueError: on construction, naming the field, its value and what would be right.
    """

    # What is written.
    alphabet: str = _knob(ALPHABET, "characters that may occur")
    alphabet_from: str = _knob("", "charset file (UTF-8) that holds them, instead of alphabet")
    min_length: int = _knob(1, "fewest characters of a word")
    max_length: int = _knob(25, "most characters of a word")
    words_from: str = _knob(
        "", "text file with one word per line, or wordfreq:LANGUAGE, instead of wordfreq's English"
    )
    lexicon_size: int = _knob(60_000, "how many of the most frequent words are used")
    frequency_power: float = _knob(
        0.7, "words are drawn in proportion to frequency**power; 0 draws them evenly"
    )
    random_words: float = _knob(0.0, "share of uniform random strings over the alphabet")
    codes: float = _knob(
        0.0, "share of random strings of one kind: capitals, small letters, digits, or a mixture"
    )
    cut_words: float = _knob(0.0, "probability that only a piece of a lexicon word is written")
    typical_length: float = _knob(
        0.0,
        "median length of words, pieces and codes; 0 draws words by frequency alone",
    )
    numbers: float = _knob(
        0.1, "share of numbers among words that are not random: counts, prices, years, times"
    )
    punctuation: float = _knob(0.08, "probability of punctuation around a lexicon word")
    case: str = _knob("mixed", "letter case of lexicon words: " + ", ".join(CASES))
    split: str = _knob("all", "all, or the train or test words of a split by a hash of the word")
    holdout: float = _knob(0.1, "share of words that belong to the test split")

    # With which letters.
    fonts: tuple[str, ...] = _knob(
        ("packaged",),
        "packaged, package:NAME, system, a font file or a folder of fonts; several are joined",
    )
    looks: str = _knob(
        "all", "all, or the train or test fonts and photographs of a split by a hash of their names"
    )
    num_fonts: int = _knob(0, "use only this many faces, of different families first; 0 uses all")
    plain_fonts: float = _knob(
        0.65, "probability that a face comes from the plain families of signs and print"
    )
    spacing: float = _knob(0.2, "largest extra letter space, in em")
    jitter: float = _knob(0.03, "largest displacement of a letter off the baseline, in em")

    # In which colours, on what.
    paper: float = _knob(0.0, "probability of black print on white paper, without colours")
    palette: float = _knob(
        0.0, "probability that text and background take a pair of colours of real crops"
    )
    contrast: float = _knob(0.3, "least difference of luminance of text and background, 0 to 1")
    backgrounds: str = _knob("", "folder of photographs to cut backgrounds from")
    photo: float = _knob(0.5, "probability of a photographic background where a folder is given")
    texture: float = _knob(0.5, "probability of a procedural texture")
    gradient: float = _knob(0.4, "probability of uneven lighting, and of a gradient in the letters")
    shadow: float = _knob(0.25, "probability of a cast shadow or of raised letters")
    outline: float = _knob(0.12, "probability of an outline around the letters")
    accent: float = _knob(0.0, "probability that some letters have a colour of their own")
    grain: float = _knob(0.0, "probability of texture in the letters")
    clutter: float = _knob(0.4, "probability of neighbouring text, part of which enters the crop")

    # Seen from where.
    stretch: float = _knob(0.35, "largest narrowing of the letters; a third of it may widen them")
    rotation: float = _knob(6.0, "largest rotation, in degrees")
    perspective: float = _knob(
        0.15, "largest displacement of a corner, as a share of the shorter side"
    )
    curvature: float = _knob(0.2, "largest rise of a curved baseline, as a share of the height")
    arc: float = _knob(0.0, "probability of a word along a circle, its letters turned with it")
    margin: float = _knob(0.2, "largest margin around the word, as a share of the height")
    crop: float = _knob(0.03, "largest part of the height by which the crop cuts into the word")
    min_height: int = _knob(20, "least height of a crop, in pixels")
    max_height: int = _knob(56, "largest height of a crop, in pixels")

    # Through which camera.
    blur: float = _knob(1.2, "largest standard deviation of the blur, in pixels at 32 of height")
    low_resolution: float = _knob(0.2, "probability that detail was lost to a small picture")
    exposure: float = _knob(0.35, "largest change of exposure, haze and colour cast, 0 to 1")
    noise: float = _knob(8.0, "largest standard deviation of sensor noise, in grey levels")
    min_quality: int = _knob(40, "lowest JPEG quality; the highest is 95")
    encoding: str = _knob("jpeg", "jpeg or png")

    def __post_init__(self) -> None:
        # Config files and command lines hold lists or one string.
        fonts = self.fonts.split(",") if isinstance(self.fonts, str) else self.fonts
        object.__setattr__(self, "fonts", tuple(fonts))
        if self.alphabet_from:
            if not Path(self.alphabet_from).is_file():
                raise ValueError(
                    f"RenderOptions.alphabet_from = {self.alphabet_from!r} is no file; give a text "
                    "file that holds the characters"
                )
            object.__setattr__(self, "alphabet", Charset.from_file(self.alphabet_from).characters)
            # What is stored beside rendered words does not depend on the file.
            object.__setattr__(self, "alphabet_from", "")
        _check(self)

    @classmethod
    def preset(cls, difficulty: str = "medium", **changes: Any) -> RenderOptions:
        """Options of a difficulty ("easy", "medium", "hard", "scene") with some fields changed."""
        if difficulty not in _PRESETS:
            raise ValueError(
                f"difficulty = {difficulty!r} is unknown; choose one of {', '.join(DIFFICULTIES)}"
            )
        return cls(**{**_PRESETS[difficulty], **changes})


# Steps away from the defaults. "easy" is flat print for first experiments; "hard" is what
# incidental scene text asks for.
_PRESETS: dict[str, dict[str, Any]] = {
    "easy": {
        "plain_fonts": 1.0,
        "spacing": 0.08,
        "jitter": 0.0,
        "contrast": 0.4,
        "texture": 0.2,
        "gradient": 0.2,
        "shadow": 0.0,
        "outline": 0.0,
        "clutter": 0.0,
        "photo": 0.0,
        "stretch": 0.1,
        "rotation": 2.0,
        "perspective": 0.04,
        "curvature": 0.0,
        "margin": 0.15,
        "crop": 0.0,
        "min_height": 32,
        "max_height": 40,
        "blur": 0.5,
        "low_resolution": 0.0,
        "exposure": 0.1,
        "noise": 3.0,
        "min_quality": 75,
    },
    "medium": {},
    "hard": {
        "plain_fonts": 0.5,
        "spacing": 0.3,
        "jitter": 0.06,
        "contrast": 0.2,
        "texture": 0.65,
        "gradient": 0.5,
        "shadow": 0.35,
        "outline": 0.18,
        "clutter": 0.5,
        "stretch": 0.45,
        "rotation": 12.0,
        "perspective": 0.3,
        "curvature": 0.45,
        "margin": 0.3,
        "crop": 0.06,
        "min_height": 14,
        "blur": 1.8,
        "low_resolution": 0.35,
        "exposure": 0.5,
        "noise": 13.0,
        "min_quality": 22,
    },
    # Fitted to crops of photographs (docs/synthetic.md).
    "scene": {
        "codes": 0.1,
        "cut_words": 0.15,
        "typical_length": 4.8,
        "numbers": 0.08,
        "palette": 0.85,
        "contrast": 0.25,
        "plain_fonts": 0.55,
        "accent": 0.06,
        "grain": 0.3,
        "gradient": 0.3,
        "photo": 0.5,
        "arc": 0.06,
        "rotation": 9.0,
        "perspective": 0.22,
        "crop": 0.05,
        "min_height": 16,
        "exposure": 0.1,
        "blur": 1.2,
        "low_resolution": 0.2,
        "noise": 7.0,
        "min_quality": 30,
    },
}

_SHARES = (
    "random_words", "codes", "cut_words", "numbers", "punctuation", "plain_fonts", "palette",
    "paper", "photo", "texture", "gradient", "shadow", "outline", "accent", "grain", "clutter",
    "arc", "low_resolution", "exposure",
)  # fmt: skip


def _check(o: RenderOptions) -> None:
    def need(name: str, good: bool, remedy: str) -> None:
        if not good:
            raise ValueError(f"RenderOptions.{name} = {getattr(o, name)!r}: {remedy}")

    need("alphabet", bool(o.alphabet), "give at least one character")
    need("alphabet", not any(c.isspace() for c in o.alphabet), "leave out white space")
    need("alphabet", len(set(o.alphabet)) == len(o.alphabet), "give every character once")
    need("min_length", o.min_length >= 1, "give at least 1")
    need("max_length", o.max_length >= o.min_length, f"give at least min_length = {o.min_length}")
    need("lexicon_size", o.lexicon_size >= 1, "give at least 1")
    need("typical_length", o.typical_length >= 0, "give a number of characters, or 0")
    need("frequency_power", o.frequency_power >= 0, "give 0 or more")
    need("case", o.case in CASES, f"choose one of {', '.join(CASES)}")
    need("split", o.split in SPLITS, f"choose one of {', '.join(SPLITS)}")
    need("looks", o.looks in SPLITS, f"choose one of {', '.join(SPLITS)}")
    need("encoding", o.encoding in ENCODINGS, f"choose one of {', '.join(ENCODINGS)}")
    need("holdout", 0 < o.holdout < 1, "give a share between 0 and 1")
    need("fonts", bool(o.fonts), 'name at least one source, for example "packaged"')
    need("num_fonts", o.num_fonts >= 0, "give 0 (all) or a count")
    for name in _SHARES:
        need(name, 0 <= getattr(o, name) <= 1, "give a value from 0 to 1")
    for name in ("spacing", "jitter", "margin", "blur", "noise", "curvature"):
        need(name, getattr(o, name) >= 0, "give 0 or more")
    need("contrast", 0 <= o.contrast <= 0.5, "give a value from 0 to 0.5")
    need("stretch", 0 <= o.stretch <= 0.7, "give a value from 0 to 0.7")
    need("rotation", 0 <= o.rotation <= 45, "give 0 to 45 degrees")
    need("perspective", 0 <= o.perspective <= 0.45, "give a value from 0 to 0.45")
    need("crop", 0 <= o.crop <= 0.2, "give a value from 0 to 0.2")
    need("min_height", o.min_height >= 8, "give at least 8 pixels")
    need("max_height", o.max_height >= o.min_height, f"give at least min_height = {o.min_height}")
    need("min_quality", 1 <= o.min_quality <= 95, "give a JPEG quality from 1 to 95")
