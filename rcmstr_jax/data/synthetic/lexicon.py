"""What is written: words by frequency, numbers, random strings, letter case and punctuation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rcmstr_jax.data.synthetic.fontfiles import INSTALL
from rcmstr_jax.data.synthetic.options import RenderOptions

_TRIES = 2000
_WORDFREQ = "wordfreq"
# Letter case of text in view: signs prefer capitals.
_CASE_SHARES = (("upper", 0.5), ("title", 0.28), ("lower", 0.22))
# Spread of the logarithm of the lengths about `typical_length`, as words of signs have it.
_LENGTH_SPREAD = 0.42
_TAILS = (".", ",", "!", "?", ":", ";", "'s", "...", "-", "%", "&")
_BRACKETS = ("()", '""', "''", "[]", "<>", "**", "//", "--")


def word_share(text: str) -> float:
    """A stable number in [0, 1) for a word, the same for every letter case and punctuation.

    Words below `holdout` form the test split. The hash does not depend on the process, the
    machine or the Python version.

    Args:
      text: the word, in any case.
    """
    core = "".join(re.findall(r"\w", text.casefold())) or text
    digest = hashlib.blake2b(core.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def in_part(name: str, part: str, holdout: float) -> bool:
    """Whether a word or a name belongs to a part: all of them, or a train or test split."""
    return part == "all" or (word_share(name) < holdout) == (part == "test")


class Lexicon:
    """Draws texts that satisfy the alphabet, the lengths and the split of `RenderOptions`.

    Args:
      options: the fields alphabet to holdout are used.

    Raises:
      ValueError: no word is left after the filters, or `words_from` cannot be read.
    """

    def __init__(self, options: RenderOptions):
        self._options = options
        self._allowed = frozenset(options.alphabet)
        self.words: list[str] = []
        self._cumulative = np.zeros(0)
        self._of_length: dict[int, tuple[list[int], np.ndarray]] = {}
        if max(options.random_words, options.numbers) < 1:
            self._load()

    def draw(self, rng: np.random.Generator) -> str:
        """One text."""
        o = self._options
        if o.random_words and rng.random() < o.random_words:
            return self._until_fits(rng, self._random_string, "random_words")
        if o.codes and rng.random() < o.codes:
            return self._until_fits(rng, self._code, "codes")
        if o.numbers and rng.random() < o.numbers and any(c.isdigit() for c in o.alphabet):
            return self._until_fits(rng, self._number, "numbers")
        if not self.words:
            raise ValueError(
                "numbers need digits in the alphabet, and no lexicon words are left over; "
                "add digits to alphabet or set numbers=0"
            )
        cut = bool(o.cut_words) and rng.random() < o.cut_words
        text = self._with_case(self._word(rng, cut), rng)
        if cut:
            text = self._piece(rng, text)
        if o.punctuation and rng.random() < o.punctuation:
            text = self._with_punctuation(text, rng)
        return text

    # How texts are made.

    def _word(self, rng: np.random.Generator, cut: bool) -> str:
        """A word of the list: by frequency, or first by length and then by frequency."""
        if not self._options.typical_length or cut:
            place = rng.random() * self._cumulative[-1]
            index = int(np.searchsorted(self._cumulative, place, side="right"))
            return self.words[min(index, len(self.words) - 1)]
        if not self._of_length:
            self._sort_by_length()
        wanted = self._length(rng)
        # Lengths that the list lacks are few, and rare: the nearest one stands in.
        length = min(self._of_length, key=lambda known: (abs(known - wanted), known))
        indices, cumulative = self._of_length[length]
        place = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        return self.words[indices[min(place, len(indices) - 1)]]

    def _sort_by_length(self) -> None:
        weights = np.diff(self._cumulative, prepend=0.0)
        lengths = np.array([len(word) for word in self.words])
        for length in np.unique(lengths):
            indices = np.flatnonzero(lengths == length)
            self._of_length[int(length)] = (indices.tolist(), np.cumsum(weights[indices]))

    def _length(self, rng: np.random.Generator) -> int:
        """A number of characters; around `typical_length`, or evenly from all that are allowed."""
        o = self._options
        if not o.typical_length:
            return int(rng.integers(o.min_length, o.max_length + 1))
        drawn = o.typical_length * np.exp(_LENGTH_SPREAD * rng.standard_normal())
        return int(np.clip(np.rint(drawn), o.min_length, o.max_length))

    def _piece(self, rng: np.random.Generator, word: str) -> str:
        length = self._length(rng)
        if length >= len(word):
            return word
        start = int(rng.integers(len(word) - length + 1))
        piece = word[start : start + length]
        # A piece is a text of its own: it must not cross over to the other split.
        return piece if self._fits(piece) and self._in_split(piece) else word

    def _code(self, rng: np.random.Generator) -> str:
        """Letters and digits that spell nothing."""
        allowed = [c for c in self._options.alphabet if c.isascii() and c.isalnum()]
        kinds = (str.isupper, str.islower, str.isdigit, lambda c: not c.islower())
        kind = kinds[int(np.searchsorted((0.45, 0.7, 0.85), rng.random(), side="right"))]
        characters = [c for c in allowed if kind(c)] or allowed or list(self._options.alphabet)
        return "".join(characters[i] for i in rng.integers(len(characters), size=self._length(rng)))

    def _random_string(self, rng: np.random.Generator) -> str:
        o = self._options
        length = int(rng.integers(o.min_length, o.max_length + 1))
        return "".join(o.alphabet[i] for i in rng.integers(len(o.alphabet), size=length))

    def _number(self, rng: np.random.Generator) -> str:
        kind = int(rng.integers(9))
        digits = "".join(str(d) for d in rng.integers(10, size=12))
        if kind <= 2:
            count = int(rng.integers(1, 6))
            return str(int(digits[:count]))
        if kind == 3:
            return str(int(rng.integers(1850, 2031)))
        if kind == 4:
            mark = "$£€"[int(rng.integers(3))] if rng.random() < 0.6 else ""
            return f"{mark}{int(digits[:2])}.{digits[2]}{'9' if rng.random() < 0.5 else digits[3]}"
        if kind == 5:
            return f"{int(rng.integers(0, 24))}:{int(rng.integers(0, 60)):02d}"
        if kind == 6:
            return f"{digits[:3]}-{digits[3:7]}"
        if kind == 7:
            return f"{int(rng.integers(1, 101))}%"
        return digits[: int(rng.integers(3, 11))]

    def _with_case(self, word: str, rng: np.random.Generator) -> str:
        case = self._options.case
        if case == "mixed" and word != word.lower():
            case = "as_given"  # the list spells names its own way
        elif case == "mixed":
            place = rng.random()
            case = "lower"
            for name, share in _CASE_SHARES:
                place -= share
                if place < 0:
                    case = name
                    break
        spelt = (_spell(word, wanted) for wanted in (case, "lower", "upper", "title"))
        return next((text for text in spelt if self._fits(text)), word)

    def _with_punctuation(self, text: str, rng: np.random.Generator) -> str:
        if rng.random() < 0.75:
            tail = _TAILS[int(rng.integers(len(_TAILS)))]
            changed = text + tail
        else:
            pair = _BRACKETS[int(rng.integers(len(_BRACKETS)))]
            changed = pair[0] + text + pair[1]
        # "cat's" counts as another word than "cat": it must not cross over to the other split.
        return changed if self._fits(changed) and self._in_split(changed) else text

    # What is allowed.

    def _fits(self, text: str) -> bool:
        o = self._options
        return o.min_length <= len(text) <= o.max_length and self._allowed.issuperset(text)

    def _in_split(self, text: str) -> bool:
        o = self._options
        return in_part(text, o.split, o.holdout)

    def _until_fits(
        self, rng: np.random.Generator, make: Callable[[np.random.Generator], str], name: str
    ) -> str:
        for _ in range(_TRIES):
            text = make(rng)
            if self._fits(text) and self._in_split(text):
                return text
        o = self._options
        raise ValueError(
            f"RenderOptions.{name} = {getattr(o, name)}: no such text of {o.min_length} to "
            f"{o.max_length} characters over {o.alphabet!r} in split {o.split!r} after {_TRIES} "
            f"tries; widen the lengths or the alphabet, or set {name}=0"
        )

    def _load(self) -> None:
        o = self._options
        where, _, language = o.words_from.partition(":")
        if not o.words_from or (where == _WORDFREQ and language):
            entries = _frequent_words(language or "en", o.lexicon_size)
        else:
            entries = _read_words(o.words_from)
        spelt = ("as_given",) if o.case == "as_given" else ("as_given", "lower", "upper", "title")
        weights = []
        for word, frequency in entries:
            if not any(self._fits(_spell(word, case)) for case in spelt):
                continue
            if self._in_split(word):
                self.words.append(word)
                weights.append(frequency**o.frequency_power)
        if not self.words:
            raise ValueError(
                f"no word is left of {len(entries)} from {o.words_from or 'wordfreq'} with "
                f"alphabet={o.alphabet!r}, lengths {o.min_length} to {o.max_length}, "
                f"case={o.case}, split={o.split}, holdout={o.holdout}; widen them or set "
                "random_words=1"
            )
        self._cumulative = np.cumsum(np.asarray(weights, np.float64))


def _spell(word: str, case: str) -> str:
    if case == "lower":
        return word.lower()
    if case == "upper":
        return word.upper()
    if case == "title":
        return word[:1].upper() + word[1:].lower()
    return word


def _frequent_words(language: str, count: int) -> list[tuple[str, float]]:
    try:
        from wordfreq import available_languages, get_frequency_dict, top_n_list
    except ImportError as error:
        raise ValueError(
            f"words_from = '' takes the words of wordfreq, which is not installed: {INSTALL}, or "
            "name a text file, one word per line"
        ) from error

    known = sorted(available_languages("best"))
    if language not in known:
        raise ValueError(f"words_from = 'wordfreq:{language}': wordfreq has {', '.join(known)}")
    frequencies = get_frequency_dict(language, "best")
    # Tokens with digits are left out: wordfreq counts them with zeros for the digits.
    words = [word for word in top_n_list(language, count) if not any(map(str.isdigit, word))]
    return [(word, frequencies[word]) for word in words if word in frequencies]


def _read_words(path: str) -> list[tuple[str, float]]:
    """Words of a text file, most frequent first by assumption: rank r weighs 1/(r + 10)."""
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"words_from = {path!r} is no file; give a text file, one word per line")
    try:
        lines = unicodedata.normalize("NFC", file.read_text(encoding="utf-8")).split()
    except UnicodeDecodeError as error:
        raise ValueError(f"words_from = {path!r} is not UTF-8 ({error}); convert it") from error
    return [(word, 1.0 / (rank + 10)) for rank, word in enumerate(dict.fromkeys(lines))]
