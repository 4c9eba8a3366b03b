"""RenderOptions: presets, checks with a remedy, and that every field has an effect."""

from __future__ import annotations

import dataclasses

import pytest

from rcmstr_jax.data.synthetic import RenderOptions, SyntheticSource

# What a field is set to, from what, to see its effect. Fields that choose words or fonts have
# tests of their own.
EFFECTS = {
    "frequency_power": 0.0,
    "lexicon_size": 500,
    "random_words": 1.0,
    "codes": 1.0,
    "cut_words": 1.0,
    "typical_length": 3.0,
    "palette": 1.0,
    "accent": 1.0,
    "grain": 1.0,
    "arc": 1.0,
    "numbers": 0.0,
    "punctuation": 0.0,
    "case": "upper",
    "split": "train",
    "looks": "test",
    "plain_fonts": 0.0,
    "num_fonts": 3,
    "spacing": 0.0,
    "jitter": 0.0,
    "paper": 1.0,
    "contrast": 0.5,
    "texture": 0.0,
    "gradient": 0.0,
    "shadow": 0.0,
    "outline": 0.0,
    "clutter": 0.0,
    "stretch": 0.0,
    "rotation": 0.0,
    "perspective": 0.0,
    "curvature": 0.0,
    "margin": 0.0,
    "crop": 0.0,
    "min_height": 40,
    "max_height": 24,
    "blur": 0.0,
    "low_resolution": 0.0,
    "exposure": 0.0,
    "noise": 0.0,
    "min_quality": 95,
    "encoding": "png",
    "alphabet": "abcdefghijklmnopqrstuvwxyz0123456789",
    "min_length": 9,
    "max_length": 3,
}
ELSEWHERE = {"alphabet_from", "words_from", "holdout", "fonts", "backgrounds", "photo"}


def first_images(**changes: object) -> list[bytes]:
    options = RenderOptions(**{"num_fonts": 8, **changes})  # type: ignore[arg-type]
    source = SyntheticSource(seed=3, options=options)
    return [source[index].image for index in range(40)]


@pytest.fixture(scope="module")
def reference() -> list[bytes]:
    return first_images()


def test_every_field_is_tested_here_or_named_as_tested_elsewhere() -> None:
    fields = {field.name for field in dataclasses.fields(RenderOptions)}
    assert fields == set(EFFECTS) | ELSEWHERE


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_every_field_changes_the_words(name: str, reference: list[bytes]) -> None:
    assert first_images(**{name: EFFECTS[name]}) != reference


def test_every_field_has_a_help_text() -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(RenderOptions))


def test_presets_grow_harder() -> None:
    easy, medium, hard = (RenderOptions.preset(name) for name in ("easy", "medium", "hard"))
    assert medium == RenderOptions()
    for name in ("rotation", "perspective", "curvature", "blur", "noise", "clutter", "exposure"):
        assert getattr(easy, name) < getattr(medium, name) < getattr(hard, name)
    assert easy.contrast > medium.contrast > hard.contrast


def test_preset_takes_changes_and_a_comma_separated_list_of_fonts() -> None:
    options = RenderOptions.preset("easy", noise=1.5, fonts="packaged,system")
    assert options.noise == 1.5 and options.fonts == ("packaged", "system")
    assert RenderOptions(fonts=["packaged"]) == RenderOptions()  # type: ignore[arg-type]


def test_unknown_difficulty_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="difficulty = 'brutal' is unknown; choose one of easy"):
        RenderOptions.preset("brutal")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("alphabet", "", "at least one character"),
        ("alphabet", "ab c", "white space"),
        ("alphabet", "aba", "once"),
        ("min_length", 0, "at least 1"),
        ("max_length", 0, "at least min_length"),
        ("case", "camel", "choose one of mixed"),
        ("split", "val", "choose one of all"),
        ("holdout", 1.0, "between 0 and 1"),
        ("shadow", 1.5, "from 0 to 1"),
        ("numbers", -0.1, "from 0 to 1"),
        ("contrast", 0.9, "from 0 to 0.5"),
        ("rotation", 90.0, "0 to 45"),
        ("max_height", 10, "at least min_height"),
        ("min_quality", 100, "1 to 95"),
        ("encoding", "gif", "jpeg, png"),
        ("num_fonts", -1, "a count"),
        ("fonts", (), "packaged"),
    ],
)
def test_bad_values_name_field_value_and_remedy(name: str, value: object, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as raised:
        RenderOptions(**{name: value})  # type: ignore[arg-type]
    assert f"RenderOptions.{name} = {value!r}" in str(raised.value)
