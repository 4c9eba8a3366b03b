"""Checks shapes and types in annotations at every call, with jaxtyping and beartype.

`jaxtyping.install_import_hook` does so for every function of a package while it is imported, which
takes twelve seconds for this one. Here a function's check is made at its first call, and only where
an annotation has a name of jaxtyping in it.
"""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import beartype
import jaxtyping

# An int where a float is asked for is right, as for mypy.
_typechecker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its arguments and what it returns held against their annotations."""
    check = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        if check is None:
            check = jaxtyping.jaxtyped(function, typechecker=_typechecker)
        return check(*args, **kwargs)

    return call


def _decorate(tree: ast.Module) -> None:
    """Puts `checked` innermost on every function whose annotations name shapes."""
    named = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        annotations = [node.returns, *(argument.annotation for argument in every)]
        names = {x.id for a in annotations if a for x in ast.walk(a) if isinstance(x, ast.Name)}
        if names & named:
            decorator = ast.parse(f"__import__('{__name__}', fromlist=['x']).checked", mode="eval")
            node.decorator_list.append(ast.copy_location(decorator.body, node))
    ast.fix_missing_locations(tree)


class _Loader(importlib.machinery.SourceFileLoader):
    """Never reads or writes compiled files: those are of the code as it stands."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        _decorate(tree)
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds what the other finders find, and has the package's own files loaded as above."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._package and not name.startswith(f"{self._package}."):
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)):
                if type(spec.loader) is importlib.machinery.SourceFileLoader:
                    spec.loader = _Loader(name, spec.loader.path)
                return spec
        return None


def check_calls(package: str) -> None:
    """Has the calls of every module of the package checked that is imported from now on.

    Raises:
      RuntimeError: a module of it is imported already.
    """
    if package in sys.modules:
        raise RuntimeError(f"{package} was imported before its calls could be checked")
    sys.meta_path.insert(0, _Finder(package))
