"""The rules on the shape of the code that no linter knows."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "src" / "quickstudy"


def part(name: str) -> Any:
    """A module of the library, or a skip while it isn't written; a module that breaks on import fails."""
    if not ((LIBRARY / f"{name}.py").exists() or (LIBRARY / name / "__init__.py").exists()):
        pytest.skip(f"quickstudy.{name} is not written yet")
    return importlib.import_module(f"quickstudy.{name}")


def method_classes() -> list[type[nn.Module]]:
    """Every class that quickstudy.methods exports and defines."""
    methods = part("methods")
    exported = [getattr(methods, name) for name in methods.__all__]
    return [c for c in exported if isinstance(c, type) and issubclass(c, nn.Module)]


def python_files() -> list[Path]:
    """The Python files that git tracks."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_the_core_names_no_method() -> None:
    """Adding a method is one file and one export line, so nothing that runs methods may know one by name."""
    names = {name for c in method_classes() for name in (c.__name__, c.__module__)}
    named = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\b")
    core = [p for place in ("core", "training", "evaluation", "cli")
            for p in (LIBRARY / f"{place}.py", *(LIBRARY / place).rglob("*.py")) if p.exists()]  # fmt: skip
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in core
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in named.finditer(line)
    ]
    assert not found, "\n".join(found)


def test_methods_are_abstract_or_final() -> None:
    """A method is Method's child, or its grandchild through one abstract class: tweak by wrapping."""
    deep = {}
    for method in method_classes():
        line = [c.__name__ for c in method.__mro__[1:] if issubclass(c, nn.Module) and c is not nn.Module]
        if len(line) > 2:
            deep[method.__name__] = line
    assert not deep, f"Expected at most two classes between a method and nn.Module, found {deep}"


def test_the_package_exposes_few_names() -> None:
    """At most 20 names, all of which exist."""
    if not (LIBRARY / "__init__.py").exists():
        pytest.skip("quickstudy is not written yet")
    quickstudy = importlib.import_module("quickstudy")
    names = getattr(quickstudy, "__all__", None)
    assert names is not None, "quickstudy/__init__.py should list its public names in __all__"
    assert len(names) <= 20
    assert [name for name in names if not hasattr(quickstudy, name)] == []


def test_help_imports_nothing_heavy() -> None:
    """`quickstudy --help` answers at once because it imports only what it prints."""
    if not (LIBRARY / "cli.py").exists():
        pytest.skip("quickstudy.cli is not written yet")
    script = """
import contextlib, io, sys
from quickstudy.cli import main
sys.argv = ["quickstudy", "--help"]
printed = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
    main()
assert printed.getvalue().strip(), "--help printed nothing"
print(*{"torch", "sklearn", "pandas", "matplotlib"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"--help imports {done.stdout.strip()}; import it where it is used"


def forbidden_calls(source: str) -> list[tuple[int, str]]:
    """Calls that could run a stranger's code, or that pin a tensor to one kind of device, with their lines."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name, keywords = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
        unpickles = re.fullmatch(r"(?:pickle|cloudpickle|dill|joblib)\.(?:loads?|Unpickler)", name)
        unsafe = name == "torch.load" and keywords.get("weights_only") != "True"
        unsafe |= name.endswith((".load", ".read_pickle")) and keywords.get("allow_pickle", "False") != "False"
        if unpickles or unsafe or name.endswith((".cuda", ".read_pickle")):
            found.append((call.lineno, name))
    return found


def test_no_forbidden_calls() -> None:
    """Nothing from outside is unpickled; the device is an argument."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in python_files()
        for line, name in forbidden_calls(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source, forbidden",
    [
        ("pickle.load(f)", True),
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=False)", True),
        ("torch.load(f, weights_only=True)", False),
        ("np.load(f, allow_pickle=True)", True),
        ("np.load(f)", False),
        ("pd.read_pickle(f)", True),
        ("net.to(device).cuda()", True),
        ("'pickle.load(f)'", False),
    ],
)
def test_the_search_for_forbidden_calls(source: str, forbidden: bool) -> None:
    """The search finds what it should and no more."""
    assert bool(forbidden_calls(source)) == forbidden
