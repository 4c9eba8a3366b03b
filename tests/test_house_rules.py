"""The rules of the house that a machine can check: layers, sizes, config fields, the README."""

from __future__ import annotations

import ast
import configparser
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import ml_collections
import pytest

from rcmstr_jax.augment import make_view
from rcmstr_jax.dense.heads import make_head as make_dense_head
from rcmstr_jax.recognition.heads import make_head
from rcmstr_jax.ssl.objective import ContrastOptions
from rcmstr_jax.training import dense_plan, plan

ROOT = Path(__file__).resolve().parent.parent
# About 300 lines are the rule; more where cutting would make two files that only call each other.
MAX_LINES = 420

# Rooms that another project may lift out: they know no other room but these, and no config.
PURE = {"ssl": set(), "models": {"ssl"}, "augment": set(), "metrics": set()}
NO_CONFIG = ("ml_collections", "absl")
# All rooms from low to high: imports go down, so that there are no circles.
ROOMS = (
    *(*PURE, "runtime", "data", "plotting", "training", "recognition", "evaluation", "dense"),
    *("interop", "serving", "verification", "benchmarking", "reporting", "configs", "launch"),
)

# Where configs become plans, section by section.
PRETRAIN: dict[str, tuple[type, ...]] = {
    "": (plan.PretrainPlan, plan.LoopPlan),
    "data": (plan.DataPlan,),
    "model": (plan.ModelPlan,),
    "views": (plan.ViewPlan,),
    "rearrange": (plan.RearrangePlan,),
    "contrast": (ContrastOptions,),
    "mim": (plan.MaskPlan,),
    "momentum": (plan.MomentumPlan,),
    "optimizer": (plan.OptimizerPlan,),
}
EVALUATE: dict[str, tuple[type, ...]] = {
    "": (plan.EvaluationPlan,),
    "model": (plan.ModelPlan,),
    "decoder": (plan.DecoderPlan,),
    "train": (plan.LabelPlan, plan.LoopPlan),
}
DENSE: dict[str, tuple[type, ...]] = {
    "": (dense_plan.DensePlan,),
    "model": (plan.ModelPlan,),
    "head": (dense_plan.DenseHeadPlan,),
    "train": (plan.LabelPlan, plan.LoopPlan),
}
# What reads a config beside them; the first make and check plans.
PLAN_MAKERS = ("training/plan.py", "training/dense_plan.py", "training/plan_checks.py")
CONFIG_READERS = (*PLAN_MAKERS, "evaluation/runs.py")
# Plans that go as a whole to a function.
WHOLE_PLANS = {plan.ViewPlan: make_view, plan.DecoderPlan: make_head}
WHOLE_PLANS[dense_plan.DenseHeadPlan] = make_dense_head
# Sections that go as a whole to a dataclass, which refuses what it lacks.
WHOLE = ("synthetic", "ranges", "colour")


def python_files(*folders: str) -> list[Path]:
    """All Python files below the named folders of the checkout, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_names(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import in a file of `package`; as `a.b` for `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def room_of(names: tuple[str, ...]) -> str:
    """Room of a module by its dotted name, "" for the names of the package itself."""
    if names[0] == "rcmstr_jax":
        names = names[1:] if names[1:] and (ROOT / "rcmstr_jax" / names[1]).is_dir() else ("",)
        if names[0] == "":
            return ""
    return names[0] if names[0] in ROOMS else ""


def imports_between_rooms() -> Iterator[tuple[str, str, str]]:
    """(place, own room, imported room) of every import of another room, within functions too."""
    for path in python_files("rcmstr_jax", "configs", "launch"):
        package = path.relative_to(ROOT).parts[:-1]
        own = room_of(package)
        for line, name in imported_names(syntax(path), package):
            if (other := room_of(tuple(name.split(".")))) not in ("", own):
                yield f"{relative(path)}:{line} imports {name}", own, other


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in (ROOT / "rcmstr_jax").glob("*/__init__.py")}
    assert rooms | {"configs", "launch"} == set(ROOMS)


def test_imports_go_down_through_the_rooms() -> None:
    found = list(imports_between_rooms())
    wrong = [place for place, own, other in found if ROOMS.index(other) > ROOMS.index(own)]
    assert not wrong, "\n".join(wrong)
    assert ("training", "runtime") in {(own, other) for _, own, other in found}


def test_pure_rooms_know_no_other_room_and_no_config() -> None:
    wrong = [
        place
        for place, own, other in imports_between_rooms()
        if own in PURE and other not in PURE[own]
    ]
    wrong += [
        f"{relative(path)}:{line} imports {name}"
        for path in python_files(*(f"rcmstr_jax/{room}" for room in PURE))
        for line, name in imported_names(syntax(path), path.relative_to(ROOT).parts[:-1])
        if name.partition(".")[0] in NO_CONFIG
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_are_seen_through_their_relative_form() -> None:
    tree = ast.parse("from ..data import lmdb\nfrom . import layers\nimport jax.numpy as jnp\n")
    names = [name for _, name in imported_names(tree, ("rcmstr_jax", "models"))]
    assert names == ["rcmstr_jax.data.lmdb", "rcmstr_jax.models.layers", "jax.numpy"]


def test_no_file_outgrows_its_room() -> None:
    long = {
        relative(path): lines
        for path in python_files("rcmstr_jax", "configs", "launch", "tests")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines, split by subject: {long}"


def test_no_file_is_named_utils() -> None:
    wrong = [
        relative(path)
        for path in python_files("rcmstr_jax", "configs", "launch", "tests")
        if path.stem in ("util", "utils", "helpers", "misc")
    ]
    assert not wrong, f"name these after what they hold: {wrong}"


def test_only_parallel_uses_pmap() -> None:
    """Names in code count; comments and docstrings may speak of it."""
    wrong = []
    for path in python_files("rcmstr_jax", "configs", "launch"):
        with tokenize.open(path) as source:
            tokens = tokenize.generate_tokens(io.StringIO(source.read()).readline)
            if any(token.type == tokenize.NAME and token.string == "pmap" for token in tokens):
                wrong.append(relative(path))
    assert wrong == ["rcmstr_jax/runtime/parallel.py"]


def declared_distributions() -> set[str]:
    """Normalised names of everything setup.cfg installs, extras included."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"].values()
    lines = "\n".join([setup["options"]["install_requires"], *extras])
    return {canonical(name) for name in re.findall(r"^[\w.-]+", lines, re.MULTILINE)}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_import_is_declared_in_setup_cfg() -> None:
    """What arrives only with another package's dependencies goes when that package changes."""
    own = {"rcmstr_jax", "configs", "launch", "tests"} | set(sys.stdlib_module_names)
    installed = importlib.metadata.packages_distributions()
    declared = declared_distributions()
    missing = set()
    for path in python_files("rcmstr_jax", "configs", "launch", "tests"):
        for _, name in imported_names(syntax(path), path.relative_to(ROOT).parts[:-1]):
            top = name.partition(".")[0]
            if top not in own and not declared & set(map(canonical, installed.get(top, [top]))):
                missing.add(f"{relative(path)}: {top}")
    assert not missing, sorted(missing)


def load_config(path: Path) -> ml_collections.ConfigDict:
    """The config that a file's `get_config` gives without a variant."""
    spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def leaves(config: ml_collections.ConfigDict, section: str = "") -> Iterator[tuple[str, str]]:
    """(name of the holding section or "", field) of every field that is no section itself."""
    for name, value in config.items(preserve_field_references=True):
        if isinstance(value, ml_collections.ConfigDict):
            yield from leaves(value, name)
        else:
            yield section, name


def last_name(node: ast.expr) -> str:
    """`c` of `a.b.c`, `a` of `a`; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def short_names(scope: ast.AST) -> dict[str, str]:
    """{"m": "model"} after `m = config.model` or `m, other = config.model, 1` within the scope."""
    names = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=False))
            for left, right in pairs:
                if isinstance(left, ast.Name) and isinstance(right, ast.Attribute):
                    names[left.id] = right.attr
    return names


def reads(scope: ast.AST) -> Iterator[tuple[str, str]]:
    """(holder, field) of every `holder.field`, `getattr`, `get`, `["field"]` or `**holder`."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield last_name(node.value), node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield last_name(node.value), str(node.slice.value)
        elif isinstance(node, ast.Call) and last_name(node.func) in ("getattr", "get"):
            arguments = [a for a in node.args if isinstance(a, ast.Constant)]
            if arguments:
                holder = node.func.value if isinstance(node.func, ast.Attribute) else node.args[0]
                yield last_name(holder), str(arguments[0].value)
        elif isinstance(node, ast.keyword) and node.arg is None:
            yield last_name(node.value), "**"


def fields_read(*paths: Path) -> set[tuple[str, str]]:
    """(holder, field) of every read in these files, short names written out."""
    found: set[tuple[str, str]] = set()
    for path in paths:
        functions = [n for n in ast.walk(syntax(path)) if isinstance(n, ast.FunctionDef)]
        for scope in [syntax(path), *functions]:
            short = short_names(scope) if scope in functions else {}
            found.update((short.get(holder, holder), field) for holder, field in reads(scope))
    return found


CONFIG_FILES = [
    path
    for path in [ROOT / "configs/pretrain/common.py", *python_files("configs/evaluate")]
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("path", CONFIG_FILES, ids=relative)
def test_every_config_field_is_read(path: Path) -> None:
    """It is a field of a plan, or what makes the plans reads it off the config or its section."""
    plans = PRETRAIN if path.parent.name == "pretrain" else EVALUATE
    config = load_config(path)
    plans = DENSE if "task" in config else plans
    read = fields_read(*(ROOT / "rcmstr_jax" / reader for reader in CONFIG_READERS))
    unread = [
        f"{section}.{field}".lstrip(".")
        for section, field in leaves(config)
        if not any(field in names_of(kind) for kind in plans.get(section, ()))
        and section not in WHOLE
        and (section or "config", field) not in read
    ]
    assert not unread, f"neither a plan nor what makes it has {unread}: remove or use them"


def names_of(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


PLANS = {
    kind for plans in (PRETRAIN, EVALUATE, DENSE) for kinds in plans.values() for kind in kinds
}


@pytest.mark.parametrize("kind", sorted(PLANS, key=lambda kind: kind.__name__))
def test_every_field_of_a_plan_is_read(kind: type) -> None:
    """Outside the files that make and check plans; `ModelPlan.size` is resolved there."""
    above = (room for room in ROOMS if ROOMS.index(room) >= ROOMS.index("training"))
    folders = [room if room == "launch" else f"rcmstr_jax/{room}" for room in above]
    folders += ["rcmstr_jax/ssl"] if kind is ContrastOptions else []
    makers = {ROOT / "rcmstr_jax" / reader for reader in PLAN_MAKERS}
    files = [path for path in python_files(*folders) if path not in makers]
    read = {field for _, field in fields_read(*files)}
    if kind in WHOLE_PLANS:
        read |= set(inspect.signature(WHOLE_PLANS[kind]).parameters)
    unread = names_of(kind) - read
    assert not unread, f"{kind.__name__} has fields that nothing reads: {sorted(unread)}"


def test_reads_are_seen_through_short_names() -> None:
    tree = ast.parse("def f(config):\n  m, n = config.mim, 1\n  return m.kind, g(**config.views)\n")
    assert short_names(tree) == {"m": "mim"}
    assert {("m", "kind"), ("config", "mim"), ("views", "**")} <= set(reads(tree))


def test_every_flag_is_read() -> None:
    unread = []
    for path in python_files("launch"):
        tree = syntax(path)
        reads_of_tree = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        loads = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        for node in ast.walk(tree):
            value = node.value if isinstance(node, (ast.Assign, ast.Expr)) else None
            if not (isinstance(value, ast.Call) and "DEFINE_" in ast.unparse(value.func)):
                continue
            flag = value.args[0]
            holders = {ast.unparse(t) for t in getattr(node, "targets", [])}
            if not isinstance(flag, ast.Constant):  # defined in a loop: read as FLAGS[that name]
                read = f"FLAGS[{ast.unparse(flag)}]" in ast.unparse(tree)
            else:
                read = bool(holders & loads) or flag.value in reads_of_tree
            if not read:
                unread.append(f"{relative(path)}: {ast.unparse(flag)}")
    assert not unread, f"flags that nothing reads: {unread}"


def readme_snippet() -> str:
    """The Python block after the comment `<!-- tested: reuse -->` of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- tested: reuse -->\s*```python\n(.*?)```", text, re.DOTALL)
    assert match, "README.md has no ```python block after <!-- tested: reuse -->"
    return match.group(1)


@pytest.mark.slow
def test_readme_reuse_snippet_runs_outside_the_checkout(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", readme_snippet()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) >= 2 and losses[-1] < losses[0], done.stdout


@pytest.mark.slow
def test_the_notebook_runs_and_learns() -> None:
    """Its code cells, one after the other; losses fall, and so do those that were kept in it."""
    notebook = json.loads((ROOT / "docs/reuse.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    kept = "".join("".join(out["text"]) for cell in cells for out in cell["outputs"])
    said, names = io.StringIO(), {"__name__": "notebook"}
    with contextlib.redirect_stdout(said):
        for cell in cells:
            exec("".join(cell["source"]), names)
    for text in (said.getvalue(), kept):
        losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", text)]
        assert len(losses) >= 3 and losses[-1] < 0.8 * losses[0], text


def test_paths_named_in_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])((?:rcmstr_jax|configs|launch|docs|tests)/[\w./-]*[\w/])", text)
    missing = sorted({path for path in named if not (ROOT / path).exists()})
    assert not missing, f"README.md names files that are not there: {missing}"
