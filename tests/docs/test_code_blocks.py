"""Every code block of the README and the docs runs, read from the very file that people read."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(ROOT.glob("README.md")) + sorted(ROOT.glob("docs/**/*.md"))
RUN = {"python", "bash", "console"}
SHOWN = {"text", "json", "toml", "yaml", "bibtex", "html", "mermaid", "math"}  # output and data
MOST_NOT_RUN = 12

FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\s`]*)[^\n`]*\n(?P<code>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"<!--\s*not run:(?P<reason>(?:(?!-->).)*)-->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced code block, the line its code starts on and, if it is not to be run, why."""

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, code = len(match["indent"]), match["code"]
        code = "".join(line[indent:] if line.strip() else "\n" for line in code.splitlines(keepends=True))
        reason = NOT_RUN.search(text[: match.start()])
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], code, reason["reason"].strip() if reason else None))
    return found


def shell_script(code: str) -> str:
    """The commands of a block: the lines after `$ ` and their continuations, or all lines where there is no `$ `."""
    if not re.search(r"^\$ ", code, re.MULTILINE):
        return code
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", code, re.MULTILINE)
    return "\n".join(re.sub(r"\\\n> ?", "\\\\\n", command) for command in commands)


def run_python(block: Block, namespace: dict[str, object]) -> None:
    """Run a block so that a traceback shows the line of the page."""
    exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), namespace)


def run_shell(block: Block, folder: Path) -> None:
    """Run a block as a user would, with the environment's own commands first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell_script(block.code)],
        cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, f"{block} exited with {done.returncode}:\n{block.code}\n{done.stdout}{done.stderr}"


@pytest.mark.uses_global_rng  # a page may do what its readers do
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page run in order in one folder; its Python blocks share a namespace."""
    for folder in ("examples", "recipes", "benchmarks"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # a reader's Python finds the files beside it
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language in RUN and block.not_run is None:
            if block.language == "python":
                run_python(block, namespace)
            else:
                run_shell(block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_name_a_known_language(page: Path) -> None:
    """A block with a misspelt language would never run."""
    unknown = [f"{block} ({block.language or 'none'})" for block in blocks(page) if block.language not in RUN | SHOWN]
    assert not unknown, f"Expected one of {sorted(RUN | SHOWN)} after the fence; found {unknown}"


def test_few_blocks_are_not_run() -> None:
    """Each block that is not run says why, and they stay few."""
    left_out = [block for page in PAGES for block in blocks(page) if block.not_run is not None]
    listed = "\n".join(f"{block}: {block.not_run or 'NO REASON'}" for block in left_out)
    print(f"{len(left_out)} code blocks are not run\n{listed}")  # noqa: T201 - shown by pytest -rP
    assert all(block.not_run for block in left_out), f"`not run:` without a reason\n{listed}"
    assert len(left_out) <= MOST_NOT_RUN, f"{len(left_out)} blocks are not run, at most {MOST_NOT_RUN} may be\n{listed}"


EXAMPLE = """\
```python
x = 1
```

<!-- not run: takes
ten minutes -->
```bash
make demo
```

1. In a list:
   ```console
   $ echo a \\
   > b
   a b
   $ echo c
   ```

````text
```python
not code
```
````

<!-- not run: -->

```python title="t"
```
"""


def test_the_reader_of_blocks(tmp_path: Path) -> None:
    """The reader finds languages, lines, reasons and commands."""
    page = tmp_path / "page.md"
    page.write_text(EXAMPLE)
    found = blocks(page)
    assert [b.language for b in found] == ["python", "bash", "console", "text", "python"]
    assert [b.line for b in found] == [2, 8, 13, 20, 28]
    assert [b.not_run for b in found] == [None, "takes\nten minutes", None, None, ""]
    assert shell_script(found[2].code) == "echo a \\\nb\necho c"
    assert shell_script(found[1].code) == "make demo\n"


def test_a_failing_block_fails(tmp_path: Path) -> None:
    """The error of a Python block names the page's line, a failing first command fails the whole block."""
    page = tmp_path / "page.md"
    with pytest.raises(ZeroDivisionError) as error:
        run_python(Block(page, 7, "python", "x = 1\nx / 0\n", None), {})
    assert error.traceback[-1].lineno == 7  # pytest counts from 0
    with pytest.raises(AssertionError, match="exited with 1"):
        run_shell(Block(page, 7, "console", "$ false\n$ true\n", None), tmp_path)
