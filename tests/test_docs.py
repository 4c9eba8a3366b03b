"""The pages: what they name exists, they are short, the tour goes through the rooms in order."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from rcmstr_jax.runtime.command_line import shipped_configs

ROOT = Path(__file__).resolve().parent.parent
MAX_WORDS = 9_000
# Pages of later capabilities, which the budget does not count.
LATER = (
    "docs/accelerators.md",
    "docs/dense.md",
    "docs/recipes.md",
    "docs/results/compact.md",
    "docs/serving.md",
    "docs/your_data.md",
)
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)
# Lists wrong command lines; tests/launch/test_mistakes.py runs them.
CHECKED = [page for page in PAGES if page != "docs/mistakes.md"]
# Stations of the tour, and the room of the file that each names first.
TOUR = (
    ("Config", "configs"),
    ("Plan", "training"),
    ("Source", "data"),
    ("Pipeline", "data"),
    ("Views", "augment"),
    ("Rearranged and masked inputs", "ssl"),
    ("Encoder", "models"),
    ("Projector", "models"),
    ("Align", "ssl"),
    ("Hierarchy", "models"),
    ("Losses", "ssl"),
    ("Objective", "ssl"),
    ("Gradients averaged", "training"),
    ("Optimiser", "training"),
    ("EMA", "ssl"),
    ("Queues", "ssl"),
    ("Checkpoint", "runtime"),
    ("Recogniser: the same loop, another step", "recognition"),
    ("Metrics", "metrics"),
    ("Typed results", "evaluation"),
    ("Report", "reporting"),
)


def text_of(page: str) -> str:
    """A page of the checkout."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def file_names() -> frozenset[str]:
    """Names of all Python files, without their folders."""
    folders = ("rcmstr_jax", "configs", "launch", "tests")
    return frozenset(path.name for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_all_pages_together_keep_to_the_budget() -> None:
    words = {page: len(text_of(page).split()) for page in PAGES if page not in LATER}
    total = sum(words.values())
    assert total <= MAX_WORDS, f"{total} words, {MAX_WORDS} allowed: {words}"


@pytest.mark.parametrize("page", CHECKED)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = text_of(page)
    paths = re.findall(r"(?<![\w/.])((?:rcmstr_jax|configs|launch|docs|tests)/[\w./-]*[\w/])", text)
    missing = {path for path in paths if not (ROOT / path).exists()}
    missing |= set(re.findall(r"`(\w+\.py)`", text)) - file_names()
    assert not missing, f"{page} names files that are not there: {sorted(missing)}"


@pytest.mark.parametrize("page", CHECKED)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text_of(page)) if "://" not in link]
    folder = (ROOT / page).parent
    missing = [link for link in links if not (folder / link.partition("#")[0]).exists()]
    assert not missing, f"{page} links to nothing: {missing}"


@pytest.mark.parametrize("page", CHECKED)
def test_configs_that_a_page_names_are_shipped(page: str) -> None:
    given = re.findall(r"--config=([a-z]\w*)(?![\w/.])", text_of(page))
    unknown = sorted(set(given) - shipped_configs().keys())
    assert not unknown, f"{page} names configs that are not shipped: {unknown}"


def test_the_tour_follows_an_image_through_the_rooms_in_order() -> None:
    stations = re.split(r"^\d+\. ", text_of("docs/tour.md").partition("\n## ")[0], flags=re.M)[1:]
    found = []
    for station in stations:
        name = re.match(r"\*\*(.+?)\.\*\*", station)
        path = re.search(r"`(?:rcmstr_jax/)?(\w+)/[\w/]*\w+\.py`", station)
        assert name and path, f"no name or no file: {station}"
        found.append((name[1], path[1]))
    assert tuple(found) == TOUR


# Word accuracies published for the ancestor's rungs, frozen encoder, CTC and attention decoder.
PUBLISHED = r"(?<![\d.])(32\.2|33\.6|40\.0|43\.1|46\.0|41\.3|48\.2|50\.9|53\.3)(?![\d.])"


def test_published_figures_stand_beside_the_recipe_they_belong_to() -> None:
    """In the paragraph of `recipe=ancestor` alone; what is measured here stands in docs/results."""
    files = [*(ROOT / "configs").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    files += [ROOT / page for page in PAGES if not page.startswith("docs/results/")]
    beside = {
        (str(path.relative_to(ROOT)), "`recipe=ancestor`" in paragraph)
        for path in files
        for paragraph in path.read_text(encoding="utf-8").split("\n\n")
        if re.search(PUBLISHED, paragraph)
    }
    assert beside == {("configs/pretrain/ablation.py", True)}


# Averages of other works, of recipes that no file here is (METHOD.md 10).
OTHERS = r"(?<![\d.])(95\.5|95\.1|95\.6|96\.1|97\.0|97\.5|85\.21?|80\.5|79\.9|94\.5|91\.3)(?![\d.])"
# How a cost or result is known: where it was measured, or that it was not, or whose it is.
KNOWN_BY = (
    *("README", "docs/", "cores", "one core", "logged", "published", "predict"),
    *("not measured", "not yet measured", "no published figure", "what the recogniser's own"),
)


@pytest.mark.parametrize("name", sorted(set(shipped_configs()) - {"common"}))
def test_a_recipe_says_how_its_cost_and_its_result_are_known(name: str) -> None:
    for folder in ("pretrain", "evaluate"):
        path = ROOT / "configs" / folder / f"{name}.py"
        if not path.exists():
            continue
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert not re.search(OTHERS, text)
        said = [part for part in text.split("\n\n") if re.match("Cost|Expected", part)]
        both = any(part.startswith("Cost and result") for part in said)
        assert both or {part[0] for part in said} == {"C", "E"}, f"{path} lacks cost or result"
        for part in said:
            words = " ".join(part.split())
            assert any(source in words for source in KNOWN_BY), f"{path}: {part}"
