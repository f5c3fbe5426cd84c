"""Methods by name. The names come from the classes that ``quickstudy.methods`` exports, or from a user's own file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import torch

from quickstudy.core import InputError, Method, Problem


def all_methods() -> dict[str, type[Method]]:
    """Every exported method, by the name people type."""
    methods = importlib.import_module("quickstudy.methods")
    classes = (getattr(methods, name) for name in methods.__all__)
    return {cls.name: cls for cls in classes}


def standard_methods() -> tuple[str, ...]:
    """Names of what a study compares unless told otherwise: one or two methods of each kind, so that it stays short."""
    return tuple(name for name, cls in all_methods().items() if cls.standard)


def find(name: str) -> type[Method]:
    """A method by its name, or ``my_file.py:MyMethod`` for one of one's own.

    Raises:
        InputError: no such method (names the near one), no such file, or no such class in it.
    """
    if ":" in name:
        return _from_file(name)
    known = all_methods()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"Expected a method's name. Found {name!r}. {hint}Known: {', '.join(known)}; "
        "or my_file.py:MyMethod for one of your own."
    )


def build(cls: type[Method], problem: Problem, seed: int, **settings: object) -> Method:
    """A method with its first weights drawn from a seed.

    Raises:
        InputError: a setting that the method does not have (names the near one).
    """
    known = inspect.signature(cls).parameters
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            names = ", ".join(name for name in known if name != "problem")
            raise InputError(f"Expected a setting of {cls.name!r}. Found {key!r}. {hint}Known: {names}.")
    if "generator" in known:
        settings = {"generator": torch.Generator().manual_seed(seed), **settings}
    return cls(problem, **settings)


def _from_file(name: str) -> type[Method]:
    where, _, what = name.rpartition(":")
    path = Path(where)
    if not path.is_file():
        raise InputError(f"Expected a Python file before the colon. Found {where!r}, which does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"Expected a Python file before the colon. Found {where!r}. Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    cls = getattr(module, what, None)
    if not (isinstance(cls, type) and issubclass(cls, Method)):
        there = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Method)]
        raise InputError(f"Expected a Method called {what!r} in {path}. Found {there or 'none'}.")
    if not cls.name:
        cls.name = what
    return cls
