"""What is installed: every folder, the commands, the public names, and nothing before its use."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rcmstr_jax
from rcmstr_jax.data.synthetic import fontfiles, lexicon
from rcmstr_jax.data.synthetic.options import RenderOptions
from rcmstr_jax.recognition.saved import packaged_names

ROOT = Path(__file__).resolve().parent.parent
SLOW_TO_IMPORT = ("grain", "matplotlib", "tensorflow_datasets", "scipy.stats", "wordfreq")


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def python(code: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_listed_packages_are_the_folders() -> None:
    """One that is not listed is missing from the wheel, which an editable install hides."""
    found = set()
    for place, name in (("rcmstr_jax", "rcmstr_jax"), ("configs", "rcmstr_jax.configs"),
                        ("launch", "rcmstr_jax.launch")):  # fmt: skip
        for path in (ROOT / place).rglob("*.py"):
            below = path.parent.relative_to(ROOT / place).parts
            found.add(".".join([name, *below]))
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"
    assert sorted(found) == setup()["options"]["packages"].split()


def test_every_other_file_of_the_package_is_listed() -> None:
    files = [path for place in ("rcmstr_jax", "configs") for path in (ROOT / place).rglob("*")]
    # Weights come with a release, and must not be forgotten where they are not here yet.
    weights = ROOT / "rcmstr_jax/pretrained/compact"
    files += [weights / name for name in ("weights.safetensors", "config.json", "README.md")]
    for path in files:
        if not path.is_dir() and path.suffix not in (".py", ".pyc"):
            assert is_package_data(path), path


def is_package_data(path: Path) -> bool:
    """As setuptools looks for them: from the folder of the package that the file lies in."""
    package = next(folder for folder in path.parents if (folder / "__init__.py").is_file())
    parts = path.relative_to(package).parts
    patterns = (pattern.split("/") for pattern in setup()["options.package_data"]["*"].split())
    return any(
        len(pattern) == len(parts) and all(map(fnmatch.fnmatchcase, parts, pattern))
        for pattern in patterns
    )


def test_commands_are_functions_of_launchers() -> None:
    entries = setup()["options.entry_points"]["console_scripts"].split("\n")
    commands = dict(line.split(" = ") for line in entries if line)
    assert set(commands) == {
        f"rcmstr-{name}"
        for name in ("pretrain", "evaluate", "recognize", "report", "render", "prepare", "convert")
    } | {f"rcmstr-{name}" for name in ("benchmark", "serve", "segment", "enhance")}
    for name, target in commands.items():
        module, _, function = target.partition(":")
        text = (ROOT / "launch" / f"{module.rpartition('.')[2]}.py").read_text(encoding="utf-8")
        assert re.search(rf"^{function} = command_line\.command\(.*\)  # {name}$", text, re.M)


def test_the_container_is_made_of_what_there_is() -> None:
    """It cannot be built here: what it copies, installs and runs exists under these names."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 12
    text = "\n".join(lines)
    (python_version,) = re.findall(r"^FROM python:([\d.]+)-slim$", text, re.M)
    metadata = setup()["metadata"]
    assert f"Python :: {python_version}" in metadata["classifiers"]
    (copied,) = re.findall(r"^COPY (.+) /tmp/$", text, re.M)
    constraints, wheel = copied.split()
    assert (ROOT / constraints).is_file() and f"-c /tmp/{constraints}" in text
    built = f"{metadata['name'].replace('-', '_')}-{rcmstr_jax.__version__}-py3-none-any.whl"
    assert fnmatch.fnmatchcase(built, wheel.removeprefix("dist/"))
    (extra,) = re.findall(r"\$\{wheel\}\[(\w+)\]", text)
    assert extra in setup()["options.extras_require"]
    command, weights, *flags = ast.literal_eval(re.findall(r"^CMD (.+)$", text, re.M)[0])
    assert f"{command} = " in setup()["options.entry_points"]["console_scripts"]
    assert weights in packaged_names()
    launcher = (ROOT / "launch/serve.py").read_text(encoding="utf-8")
    for flag in flags:
        assert f'("{flag.removeprefix("--").partition("=")[0]}", ' in launcher
    assert f"EXPOSE {flags[-1].partition('=')[2]}" in text


@pytest.mark.parametrize("name", rcmstr_jax.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(rcmstr_jax, name) is not None
    assert name in dir(rcmstr_jax)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rcmstr_jax.no_such_name


def test_import_is_light() -> None:
    """`import rcmstr_jax` must not pull in JAX: command lines set its environment afterwards."""
    assert python("import sys, rcmstr_jax; sys.exit('jax' in sys.modules)").returncode == 0


def test_slow_packages_are_not_imported_before_they_are_used() -> None:
    modules = ["pretrain", "evaluate", "recognize", "render_words", "prepare"]
    lines = [f"import rcmstr_jax.launch.{name}; flags.FLAGS.__init__()" for name in modules]
    show = f"print([name for name in {SLOW_TO_IMPORT!r} if name in sys.modules])"
    done = python("\n".join(["import sys", "from absl import flags", *lines, show]))
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["render_words", "prepare"])
def test_what_needs_no_accelerator_does_not_wait_for_jax(name: str) -> None:
    done = python(f"import sys, rcmstr_jax.launch.{name}; sys.exit('jax' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_nothing_inserts_into_the_import_path() -> None:
    for folder in ("rcmstr_jax", "configs", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "sys.path" not in path.read_text(encoding="utf-8"), path


def test_the_extra_render_holds_the_fonts_and_the_word_list() -> None:
    extra = re.findall(r"^[\w-]+", setup()["options.extras_require"]["render"], re.MULTILINE)
    assert sorted([*extra, "matplotlib"]) == sorted([*fontfiles.PACKAGES, "wordfreq"])


def test_without_the_extra_render_the_remedy_is_named(monkeypatch) -> None:
    monkeypatch.setattr(fontfiles, "_fonts_of_package", lambda *_: [])
    with pytest.raises(ValueError, match=r"font-lato.*pip install 'rcmstr-jax\[render\]'"):
        fontfiles.find_fonts(["packaged"])
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    with pytest.raises(ValueError, match=r"wordfreq.*pip install 'rcmstr-jax\[render\]'"):
        lexicon.Lexicon(RenderOptions())
    monkeypatch.undo()
    assert importlib.import_module("wordfreq")
