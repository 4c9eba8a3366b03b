"""Characters and the tokens the decoders read and write (method section 8, `decoders.npz`).

Attention decoder: [PAD] [UNK] [SOS] [EOS], space, then the characters. CTC decoder: blank, then
[PAD] [UNK], space, then the characters. Both orders are those of the published code, so that its
decoders load.
"""

from __future__ import annotations

import dataclasses
import functools
import string
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

_DIGITS, _LOWER, _UPPER = string.digits, string.ascii_lowercase, string.ascii_uppercase
PRESETS: dict[int, str] = {
    36: _DIGITS + _LOWER,
    62: _DIGITS + _LOWER + _UPPER,
    68: _DIGITS + _LOWER + string.punctuation,
    94: _DIGITS + _LOWER + _UPPER + string.punctuation,
}
ATTENTION_SPECIALS = ("[PAD]", "[UNK]", "[SOS]", "[EOS]", " ")
CTC_SPECIALS = ("[BLANK]", "[PAD]", "[UNK]", " ")
# What a predicted [UNK] reads as; no label holds it, and the metrics' filters drop it.
UNKNOWN_CHARACTER = "\ufffd"

# Typographic punctuation that NFKC leaves alone, and what keyboards have for it.
_PLAIN = str.maketrans("‘’‚‛“”„‟‐‑‒–—―−", "''''\"\"\"\"-------")


@dataclasses.dataclass(frozen=True)
class Charset:
    """An ordered set of characters with the token indices of both decoders.

    Attributes:
      characters: the characters in index order, without space (which every charset knows).

    Raises:
      ValueError: if there is no character, one twice, or white space among them.
    """

    characters: str

    pad_token = ATTENTION_SPECIALS.index("[PAD]")
    sos_token = ATTENTION_SPECIALS.index("[SOS]")
    eos_token = ATTENTION_SPECIALS.index("[EOS]")
    blank_token = CTC_SPECIALS.index("[BLANK]")

    def __post_init__(self) -> None:
        if not self.characters:
            raise ValueError("characters is empty: a charset needs at least one character")
        twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
        if twice:
            raise ValueError(f"characters holds {twice} more than once: give each character once")
        space = sorted({c for c in self.characters if c.isspace()})
        if space:
            raise ValueError(
                f"characters holds white space {space}: leave it out, space has its own token"
            )

    @classmethod
    def preset(cls, size: int) -> Charset:
        """The charset of 36 (digits, lower case), 62 (+ upper case) or 94 (+ punctuation), or of 68
        (digits, lower case, punctuation).

        Raises:
          ValueError: for any other size.
        """
        if size not in PRESETS:
            raise ValueError(f"charset of {size} characters: choose from {sorted(PRESETS)}")
        return cls(PRESETS[size])

    @classmethod
    def from_file(cls, path: str | Path) -> Charset:
        """Reads the characters of a UTF-8 text file in order; line ends do not count.

        Raises:
          ValueError: if the file is not UTF-8 or its characters are no charset.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"charset file {path} is not UTF-8 text: {error}") from error
        try:
            return cls("".join(text.splitlines()))
        except ValueError as error:
            raise ValueError(f"charset file {path}: {error}") from error

    def __len__(self) -> int:
        return len(self.characters)

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset((*self.characters, " "))

    @functools.cached_property
    def _has_upper_case(self) -> bool:
        return any(character.isupper() for character in self.characters)

    def normalize(self, text: str) -> str:
        """The form in which a label is trained on, and held against the charset.

        Rule: Unicode NFKC (full-width letters, ligatures and combining accents become plain or
        composed ones); no white space around the word; lower case where the charset has no upper
        case; and what the charset lacks becomes its plain form where the charset has that: a
        letter without its accents (`é` -> `e`), a straight quote, a hyphen.

        Returns:
          The label. Characters that are still not in the charset are left for `lacks`.
        """
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        text = text.strip()
        if not self._has_upper_case:
            text = unicodedata.normalize("NFKC", text.lower())
        return text if text.isascii() else "".join(map(self._plain, text))

    def _plain(self, character: str) -> str:
        if character in self.characters:
            return character
        plain = unicodedata.normalize("NFKD", character)[0].translate(_PLAIN)
        return plain if plain in self.characters else character

    def lacks(self, text: str) -> bool:
        """Whether a text holds a character that is neither in the charset nor a space."""
        return not self._known.issuperset(text)

    @property
    def num_ctc_classes(self) -> int:
        """Classes of a CTC decoder, blank among them."""
        return len(CTC_SPECIALS) + len(self.characters)

    @property
    def num_attention_classes(self) -> int:
        """Classes of an attention decoder."""
        return len(ATTENTION_SPECIALS) + len(self.characters)

    def encode_attention(
        self, texts: Sequence[str], max_length: int = 25
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turns words into [SOS] … [EOS] [PAD] … for teacher forcing.

        Args:
          texts: words; characters outside the charset become [UNK].
          max_length: longest word allowed, in characters.

        Returns:
          Tokens, int32 (n, max_length + 2), and lengths with [EOS] but without [SOS], int32 (n,).

        Raises:
          ValueError: if a word is longer than `max_length`.
        """
        tokens = np.full((len(texts), max_length + 2), self.pad_token, np.int32)
        tokens[:, 0] = self.sos_token
        lengths = self._fill(tokens[:, 1:], texts, max_length, ATTENTION_SPECIALS)
        tokens[np.arange(len(texts)), lengths + 1] = self.eos_token
        return tokens, lengths + 1

    def encode_ctc(
        self, texts: Sequence[str], max_length: int = 25
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turns words into CTC labels padded with [PAD].

        Returns:
          Tokens, int32 (n, max_length), and lengths, int32 (n,).

        Raises:
          ValueError: if a word is longer than `max_length`.
        """
        tokens = np.full((len(texts), max_length), CTC_SPECIALS.index("[PAD]"), np.int32)
        return tokens, self._fill(tokens, texts, max_length, CTC_SPECIALS)

    def _fill(
        self, rows: np.ndarray, texts: Sequence[str], max_length: int, specials: Sequence[str]
    ) -> np.ndarray:
        indices = {c: i for i, c in enumerate([*specials, *self.characters])}
        unknown = indices["[UNK]"]
        for row, text in zip(rows, texts, strict=True):
            if len(text) > max_length:
                raise ValueError(
                    f"word {text!r} has {len(text)} characters, max_length={max_length}: "
                    "leave it out or raise max_length"
                )
            row[: len(text)] = [indices.get(c, unknown) for c in text]
        return np.array([len(text) for text in texts], np.int32)

    def decode_ctc(
        self, tokens: Iterable[Sequence[int]] | np.ndarray, *, specials: bool = False
    ) -> list[str]:
        """Greedy CTC: joins repeats, then drops blanks.

        Args:
          tokens: (n, T) most likely classes of every frame.
          specials: spell [PAD] and [UNK] out as the published code does; otherwise [PAD] is
            dropped and [UNK] reads as U+FFFD.
        """
        alphabet = self.ctc_alphabet(specials=specials)
        words = []
        for row in np.asarray(tokens):
            first = np.r_[True, row[1:] != row[:-1]] if len(row) else np.zeros(0, bool)
            words.append("".join(alphabet[i] for i in row[first]))
        return words

    def ctc_alphabet(self, *, specials: bool = False) -> list[str]:
        """What each class of a CTC decoder reads as, "" for those that write nothing."""
        return self._alphabet(CTC_SPECIALS, specials)

    def attention_alphabet(self) -> list[str]:
        """What each class of an attention or transformer decoder reads as."""
        return self._alphabet(ATTENTION_SPECIALS, spell_out=False)

    def _alphabet(self, special_tokens: Sequence[str], spell_out: bool) -> list[str]:
        hidden = {"[BLANK]": "", "[PAD]": "", "[SOS]": "", "[UNK]": UNKNOWN_CHARACTER}
        if spell_out:
            hidden = {"[BLANK]": ""}
        return [*(hidden.get(s, s) for s in special_tokens), *self.characters]
