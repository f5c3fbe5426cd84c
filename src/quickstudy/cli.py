"""The command line. Each command is a function: its signature is its options, its docstring their help."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from quickstudy import __version__
from quickstudy.progress import Watch

T = TypeVar("T")

# None stands for "not said": on --resume it is what the study or the run began with
Name = Annotated[str | None, arg(metavar="COLUMN", help_behavior_hint="")]
Folder = Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")]
Question = Annotated[Literal["have", "meet"] | None, arg(metavar="have|meet", help_behavior_hint="")]
Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="X", help_behavior_hint="")]
Task = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]
Names = Annotated[str | None, arg(metavar="A,B,...", help_behavior_hint="")]
OneName = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")]
Settings = Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY=VALUE")]
Data = Annotated[str, arg(metavar="DATA", help_behavior_hint="")]
MethodName = Annotated[str, arg(metavar="METHOD", help_behavior_hint="")]
RunFolder = Annotated[Path, arg(metavar="RUN")]
ModelFile = Annotated[Path, arg(metavar="MODEL")]
Support = Annotated[Path | None, arg(metavar="SUPPORT", help_behavior_hint="")]
Query = Annotated[Path, arg(metavar="QUERY")]
ModelOut = Annotated[Path, arg(metavar="MODEL", aliases=["-o"])]
TableOut = Annotated[Path | None, arg(metavar="FILE", aliases=["-o"], help_behavior_hint="")]
FilmOut = Annotated[Path | None, arg(metavar="FILE", aliases=["-o"], help_behavior_hint="")]
Device = Annotated[str, arg(metavar="NAME", help_behavior_hint="")]
Flag = Annotated[bool, arg(help_behavior_hint="")]


def compare(
    data: Positional[Data] = "",
    /,
    *,
    target: Name = None,
    task: Name = None,
    group: Name = None,
    out: Folder = None,
    question: Question = None,
    methods: Names = None,
    method: OneName = (),
    seeds: Count = None,
    steps: Count = None,
    shots: Count = None,
    margin: Number = None,
    workers: Count = None,
    resume: Flag = False,
) -> None:
    """Tell which way of learning fits my tasks: each alone, all together, or learning to learn.

    Args:
        data: a known name (see `quickstudy list`), a CSV or Parquet file with a task column, a folder of such files
            (one a task), or a folder of class folders of images
        target: column to predict
        task: column that names the task
        group: column whose equal values stay together when rows are split
        out: where everything is written (default: runs/DATA)
        question: ask only about the tasks I have (held-out examples), or only about tasks I will meet (default: both)
        methods: methods to compare, separated by commas (default: the standard ones that apply, see `quickstudy list`)
        method: one method more, beside those; also my_file.py:MyMethod; may be given again
        seeds: independent repetitions (default: 3)
        steps: training steps of every method (default: 1000; 250 for images and wide tables)
        shots: labelled examples of a new task (default: the data's)
        margin: smallest gain that matters, in units of the score (default: 0.01)
        workers: processes (default: one for each processor)
        resume: go on with a study that was stopped
    """
    out = _folder(out, data and _stem(data), resume)
    stored = _stored(out / "plan.json") if resume else {}
    given = {
        "data": data or None,
        "target": target,
        "task": task,
        "group": group,
        "questions": None if question is None else (question,),
        "methods": _names(methods, method),
        "seeds": seeds,
        "steps": steps,
        "shots": shots,
        "margin": margin,
    }
    from quickstudy.evaluation import compare as comparison
    from quickstudy.reports import table, write_report

    plan = _settle(comparison.Plan, stored, given, out / "plan.json")
    with _resumable(["compare", plan.data, "--out", str(out), "--resume"]):
        with Watch(_stderr()) as watch:
            results = comparison.compare(plan, out, resume=resume, workers=workers or 0, on_progress=watch)
        write_report(results, out / "report.html")
    _stdout().print(table(results))
    _say(f"{out / 'results.json'}\n{out / 'report.html'}")


def train(
    method: Positional[MethodName] = "",
    /,
    *,
    data: Data = "",
    target: Name = None,
    task: Name = None,
    group: Name = None,
    out: Folder = None,
    question: Question = None,
    steps: Count = None,
    seed: Count = None,
    shots: Count = None,
    ways: Count = None,
    set: Settings = (),
    device: Device = "cpu",
    resume: Flag = False,
) -> None:
    """Train one method, and score it on validation tasks.

    Args:
        method: its name (see `quickstudy list`), or my_file.py:MyMethod
        data: as in `quickstudy compare`; for methods that act, an environment (see `quickstudy list`), or
            my_file.py:my_environment
        target: column to predict
        task: column that names the task
        group: column whose equal values stay together when rows are split
        out: the run's folder (default: runs/DATA-METHOD)
        question: the tasks I have, or tasks I will meet (default: meet where the data allow it)
        steps: training steps (default: 1000; 250 for images and wide tables; for methods that act, their loop's)
        seed: of split, first weights and episodes (default: 0)
        shots: labelled examples of a new task (default: the data's)
        ways: classes of a new task (default: the data's)
        set: a setting of the method, such as inner_lr=0.1; may be given again
        device: where to train, such as cuda (default: cpu); environments to act in stay on the processor
        resume: go on with a run that was stopped
    """
    out = _folder(out, data and method and f"{_stem(data)}-{method.rpartition(':')[2]}", resume)
    stored = _stored(out / "config.json").get("run", {}) if resume else {}
    given = {
        "method": method or None,
        "data": data or None,
        "target": target,
        "task": task,
        "group": group,
        "question": question,
        "steps": steps,
        "seed": seed,
        "shots": shots,
        "ways": ways,
        "settings": _settings(set) or None,
    }
    from quickstudy import run

    config = _settle(run.Config, stored, given, out / "config.json")
    again = ["train", config.method, "--data", config.data, "--out", str(out), "--resume"]
    again += ["--device", device] if device != "cpu" else []
    acts = _acts(config.method, config.data)
    with _resumable(again), Watch(_stderr(), every=5 if acts else 20) as watch:
        say = lambda done, total: watch(config.method, done, total)  # noqa: E731
        if acts:
            from quickstudy import acting_run

            _, found = acting_run.train(config, out, resume=resume, device=device, progress=say)
        else:
            _, found = run.train(config, out, resume=resume, device=device, progress=say)
    metric = run.read_json(out / "validation.json")["metric"]
    _say(f"validation {metric} {found} over {found.n} tasks\n{out / 'report.html' if acts else out}")


def evaluate(run: Positional[RunFolder], /, *, episodes: Count = None, shots: Count = None, ways: Count = None) -> None:
    """Score a run on its test tasks.

    Args:
        run: a folder that `quickstudy train` wrote
        episodes: test episodes of class sets (default: 600), new tasks to act in (default: 200); other data have the
            test tasks they have
        shots: labelled examples of a task (default: as trained)
        ways: classes of a task (default: as trained)
    """
    from quickstudy import run as runs

    if _is_acting(run):
        from quickstudy.acting_run import ActingRun
        from quickstudy.core import InputError

        if shots is not None or ways is not None:
            raise InputError(
                f"Expected no --shots and no --ways: {run} acts in an environment, which has no examples. Found one. "
                "Leave it out."
            )
        found = ActingRun.load(run).evaluate(episodes)
    else:
        found = runs.Run.load(run).evaluate(episodes=episodes, shots=shots, ways=ways)
    metric = runs.read_json(run / "evaluation.json")["metric"]
    _say(f"test {metric} {found} over {found.n} tasks (95 % interval)\n{run / 'evaluation.json'}")


def watch(run: Positional[RunFolder], /, *, output: FilmOut = None, tasks: Count = None, seed: Count = None) -> None:
    """Write a film of a trained policy at work.

    Args:
        run: a folder that `quickstudy train` wrote, of a method that acts
        output: the file, .gif or .mp4 (default: watch.gif in the run's folder)
        tasks: how many tasks, side by side (default: 4)
        seed: of the tasks and of all chance in them (default: 0)
    """
    from quickstudy.acting_run import ActingRun, policy_of
    from quickstudy.reports.movie import film

    trained, path = ActingRun.load(run), run / "watch.gif" if output is None else output
    policy = policy_of(trained.method())
    with Watch(_stderr(), every=5) as bar:
        film(
            trained.environment(), policy, path, tasks=4 if tasks is None else tasks, seed=seed or 0,
            progress=lambda done, total: bar("frames", done, total),
        )  # fmt: skip
    _say(str(path))


def adapt(
    run: Positional[RunFolder], support: Positional[Support] = None, /, *, output: ModelOut, task: Task = None
) -> None:
    """Learn one task with a trained run, and write a model of it.

    Args:
        run: a folder that `quickstudy train` wrote
        support: labelled examples: a CSV or Parquet file with the columns of the training data, or a folder of class
            folders of images
        output: the model file to write
        task: in place of examples, the name of one of the tasks that the run was trained on (question have)
    """
    from quickstudy.core import InputError
    from quickstudy.run import Run

    if (support is None) == (task is None):
        raise InputError(
            f"Expected either a file of examples or --task NAME. Found {'neither' if task is None else 'both'}. "
            "Give one of them."
        )
    trained = Run.load(run)
    model = trained.adapt(support) if support is not None else trained.recall(str(task))
    model.save(output)
    _say(str(output))


def predict(model: Positional[ModelFile], query: Positional[Query], /, *, output: TableOut = None) -> None:
    """Answer for new examples of a task.

    Args:
        model: a file that `quickstudy adapt` wrote
        query: a CSV or Parquet file with the columns of the training data, or a folder of images
        output: CSV file to write (default: print)
    """
    from quickstudy.run import answers
    from quickstudy.training.checkpoint import write_atomic

    csv = answers(model, query).to_csv(index=False)
    if output is None:
        sys.stdout.write(csv)
    else:
        write_atomic(output, csv.encode())
        _say(str(output))


def list_all() -> None:
    """Name the methods, the data sets and the environments."""
    from rich.table import Table

    from quickstudy.methods.registry import all_methods
    from quickstudy.tasks.load import NAMES, about
    from quickstudy.tasks.worlds import WORLDS

    methods = [(m.name, m.summary, m.reference) for m in all_methods().values()]
    data = [(name, about(name), "") for name in NAMES]
    worlds = [(name, one.about, "") for name, one in WORLDS.items()]
    for title, rows in (("methods", methods), ("data", data), ("environments", worlds)):
        shown = Table(box=None, padding=(0, 2, 0, 0))
        for head in (title, "", ""):
            shown.add_column(head, no_wrap=head == title)
        for row in rows:
            shown.add_row(*row)
        _stdout().print(shown, highlight=False)
    _say("or your own: a CSV or Parquet file, a folder of them, a folder of class folders of images; for methods that")
    _say("act, my_file.py:my_environment")


def claims(
    *,
    recipes: Annotated[Path, arg(metavar="FOLDER")] = Path("recipes"),
    write: Flag = False,
) -> None:
    """Show what was claimed and what was measured.

    Args:
        recipes: where the recipes' results are
        write: also write the table to docs/claims.md
    """
    from rich.table import Table
    from rich.text import Text

    from quickstudy.core import InputError
    from quickstudy.evaluation.claims import collect
    from quickstudy.training.checkpoint import write_atomic

    found = collect(recipes)
    if not found:
        raise InputError(
            f"Expected recipes with a result.json in {recipes}. Found none. Name their folder by --recipes."
        )
    heads = ("system", "what", "target", "measured", "met")
    rows = [
        (
            row.system,
            f"{row.what} ({row.metric})",
            f"{'at least' if row.better == 'higher' else 'at most'} {row.target:g}",
            f"{row.value:.4g}" + ("" if row.low is None else f" [{row.low:.4g}, {row.high:.4g}]"),
            "yes" if row.met else "no",
        )
        for row in found
    ]
    shown = Table(*heads)
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row), style="bold red" if row[-1] == "no" else "")
    _stdout().print(shown, highlight=False)
    if write:
        lines = [heads, ("---",) * len(heads), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
        page = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        write_atomic(
            Path("docs/claims.md"), f"# Claims\n\nWritten by `quickstudy claims --write`.\n\n{page}\n".encode()
        )
        _say("docs/claims.md")


COMMANDS: dict[str, Callable[..., Any]] = {
    "compare": compare,
    "train": train,
    "evaluate": evaluate,
    "adapt": adapt,
    "predict": predict,
    "watch": watch,
    "list": list_all,
    "claims": claims,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Exit codes: 0, 2 for whatever the caller can mend, 130 for Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        _say(__version__)
        return
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        _fail(f"Expected a command. Found {arguments[0]!r}. {hint}Known: {', '.join(COMMANDS)}.")
    _check_options(arguments)
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="quickstudy",
            description="Learn many tasks, pick up a new one fast.",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
    except KeyboardInterrupt:
        _stderr().print("Stopped.")
        sys.exit(130)
    except Exception as error:
        from quickstudy.core import QuickstudyError

        if not isinstance(error, QuickstudyError | OSError):
            raise
        _fail(str(error))


def _acts(method: str, data: str) -> bool:
    """Whether a run acts in an environment; where neither says so, it learns from examples."""
    from quickstudy.core import Explorer
    from quickstudy.methods.registry import find
    from quickstudy.tasks.load import NAMES
    from quickstudy.tasks.worlds import is_world

    if is_world(data):
        return True
    known = data in NAMES or data.startswith("planted") or Path(data).expanduser().exists()
    return issubclass(find(method), Explorer) and not known


def _is_acting(folder: Path) -> bool:
    """Whether a run's folder is one that acts; what is wrong with the folder is said elsewhere."""
    from quickstudy.tasks.worlds import is_world

    return is_world(str(_stored(folder / "config.json").get("run", {}).get("data", "")))


def _check_options(arguments: Sequence[str]) -> None:
    """An option that the command does not have: name the near one of this very command."""
    if not arguments or arguments[0] not in COMMANDS:
        return
    names = inspect.signature(COMMANDS[arguments[0]]).parameters.values()
    known = ["--help", *(f"--{p.name.replace('_', '-')}" for p in names if p.kind is p.KEYWORD_ONLY)]
    for given in arguments[1:]:
        option = given.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option != "--" and option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            _fail(
                f"Expected an option of `quickstudy {arguments[0]}`. Found {given!r}. {hint}Known: {', '.join(known)}."
            )


def _fail(message: str) -> None:
    _stderr().print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def _say(text: str) -> None:
    _stdout().print(text, markup=False, highlight=False, soft_wrap=True)


def _stdout() -> Console:
    return Console()


def _stderr() -> Console:
    return Console(stderr=True)


@contextlib.contextmanager
def _resumable(command: Sequence[str]) -> Iterator[None]:
    """Ctrl-C says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        _stderr().print(
            f"Stopped; what is finished is kept. Go on with: quickstudy {shlex.join(command)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(130)


def _names(methods: str | None, more: Sequence[str]) -> tuple[str, ...] | None:
    """The methods named; one's own alone goes beside the standard ones. None where nothing is said."""
    if methods is None and more:
        from quickstudy.methods.registry import standard_methods

        return (*standard_methods(), *more)
    return None if methods is None else (*methods.split(","), *more)


def _stem(data: str) -> str:
    """``my/table.csv.gz`` to ``table``; ``planted:0.5`` to ``planted-0.5``, which every file system takes."""
    name = Path(data).resolve().name if Path(data).exists() else Path(data).name
    for ending in (".csv.gz", ".csv", ".parquet"):
        name = name.removesuffix(ending)
    return name.replace(":", "-")


def _folder(out: Path | None, default: str, resume: bool) -> Path:
    if out is not None:
        return out
    if default:
        return Path("runs") / default
    from quickstudy.core import InputError

    raise InputError(
        "Expected data: a known name, a file or a folder. Found none. "
        + ("Name them, or the folder by --out." if resume else "See --help.")
    )


def _stored(path: Path) -> dict[str, Any]:
    """The options with which a study or a run began; none where it has not."""
    if not path.is_file():
        return {}
    from quickstudy.run import read_json

    return read_json(path)


def _settle(make: Callable[..., T], stored: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> T:
    """A plan or a configuration of what is given now, and what was given then for the rest."""
    settled = {**stored, **{key: value for key, value in given.items() if value is not None}}
    try:
        return make(**{key: tuple(value) if isinstance(value, list) else value for key, value in settled.items()})
    except TypeError as error:
        from quickstudy.core import InputError

        missing = [key for key in ("method", "data") if key in given and key not in settled]
        if missing:
            raise InputError(f"Expected {missing[0].upper()}. Found none. See --help.") from error
        raise InputError(f"Expected the options of this release in {path}. Found others ({error}).") from error


def _settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``steps=3`` to a number, ``first_order=true`` to a truth value, everything else to text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            from quickstudy.core import InputError

            raise InputError(f"Expected --set KEY=VALUE. Found {pair!r}.")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


if __name__ == "__main__":
    main()
