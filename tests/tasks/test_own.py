"""A person's own tables and images: what is understood, and what each mistake says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from quickstudy.core import InputError
from quickstudy.tasks import SplitClasses, Study, TaskTable, load
from quickstudy.tasks.own import from_arrays


def frame(tasks: int = 6, rows: int = 12, **columns: Any) -> pd.DataFrame:
    """A table that makes a study: two inputs, a numeric target; ``columns`` replace or add."""
    n = tasks * rows
    table = {"task": np.repeat([f"t{t}" for t in range(tasks)], rows), "a": np.arange(n), "b": np.arange(n) % 7 - 0.5}
    return pd.DataFrame(table | {"y": np.arange(n) / 3} | columns)


def read(path: Path, data: pd.DataFrame, **options: Any) -> Study:
    data.to_csv(path / "table.csv", index=False)
    return load(str(path / "table.csv"), **options)


def both(study: Study) -> TaskTable:
    assert isinstance(study.have, TaskTable) and study.meet is study.have
    return study.have


# tables: what is understood


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_one_table_with_a_task_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"exams{suffix}"
    data = frame().iloc[::-1]
    data.to_parquet(path) if suffix == ".parquet" else data.to_csv(path, index=False)
    study = load(str(path))
    table = both(study)
    assert study.name == "exams" and study.shots == 10
    assert table.names == ("t5", "t4", "t3", "t2", "t1", "t0")  # as they come
    assert table.count.tolist() == [12] * 6 and table.problem.kind == "regression"
    assert table.x[table.row[5]].tolist() == [[i, i % 7 - 0.5] for i in reversed(range(12))]
    assert torch.allclose(table.y[5, :, 0], torch.arange(11, -1, -1) / 3)


def test_columns_by_name(tmp_path: Path) -> None:
    data = frame(rows=60, person=np.arange(360) // 2).rename(columns={"task": "school", "y": "score"})
    table = both(read(tmp_path, data, task="school", target="score", group="person"))
    assert table.problem.x_shape == (2,) and table.group is not None
    assert table.group.tolist() == (torch.arange(360) // 2).tolist()


def test_a_folder_of_tables(tmp_path: Path) -> None:
    for t, part in frame(3).groupby("task"):
        columns = ["y", "a", "b"] if t == "t1" else ["a", "b", "y"]  # the order of columns is of no account
        part[columns].to_csv(tmp_path / f"{t}.csv", index=False)
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / ".hidden.csv").write_text("passed over")
    study = load(str(tmp_path))
    assert study.have is not None and study.have.names == ("t0", "t1", "t2")
    assert study.have.x[study.have.row[1]].tolist() == [[i, i % 7 - 0.5] for i in range(12, 24)]
    assert study.meet is None and study.missing is not None and "at least 6 tasks" in study.missing["meet"]
    with pytest.raises(InputError, match="at least 6 tasks, and there are 3"):
        study.arena("meet", 0)


def test_numbers_truth_values_and_texts_are_inputs(tmp_path: Path) -> None:
    colour = np.tile(["red", "blue", "green"], 24)
    table = both(read(tmp_path, frame(b=np.arange(72) % 2 == 0, colour=colour)))
    assert table.x[:3].tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0], [2, 1, 0, 1, 0]]  # blue, green, red


@pytest.mark.parametrize(
    "y, kind, labels",
    [
        (np.arange(72) % 11, "regression", ()),
        (np.arange(72) % 10, "classification", tuple("0123456789")),
        (np.arange(72) % 2 * 4.0 - 1, "classification", ("-1", "3")),
        (np.arange(72) % 4 / 2, "regression", ()),
        (np.arange(72) % 2 == 0, "classification", ("False", "True")),
        (np.tile(["no", "yes", "maybe"], 24), "classification", ("maybe", "no", "yes")),
    ],
)
def test_what_is_a_class_and_what_a_number(tmp_path: Path, y: Any, kind: str, labels: tuple[str, ...]) -> None:
    data = frame(y=y)
    study = read(tmp_path, data)
    assert study.have is not None and study.have.problem.kind == kind and study.have.labels == labels
    if labels:
        named = [labels[code] for code in study.have.y[2].tolist()]
        assert named == [f"{v:g}" if data.y.dtype.kind in "if" else str(v) for v in data.y[24:36]]
        assert study.have.problem.shared_labels


def test_saved_row_numbers_are_no_input(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "table.csv")
    assert both(load(str(tmp_path / "table.csv"))).problem.x_shape == (2,)


def test_shots_fit_the_smallest_class(tmp_path: Path) -> None:
    study = read(tmp_path, frame(y=np.tile([0] * 9 + [1] * 3, 6)))
    assert study.shots == 2
    study.arena("meet", 0)
    lone = read(tmp_path, frame(y=np.array([1] + [0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1] + [0] * 11 + [1] + [0, 1] * 24)))
    assert lone.meet is None and lone.missing is not None
    assert "at least 2 examples of each of its classes, and task 't1' has 1" in lone.missing["meet"]


def test_tasks_too_small_to_split_can_still_be_held_out(tmp_path: Path) -> None:
    study = read(tmp_path, frame(8, 7))
    assert study.have is None and study.missing is not None and "at least 8 examples" in study.missing["have"]
    assert study.shots == 6
    study.arena("meet", 0)


def test_the_smallest_tasks_that_are_split_always_can_be() -> None:
    tasks = {name: (np.zeros((8, 1)), np.arange(8) * 0.1) for name in "ab"}
    study = from_arrays(tasks)
    for seed in range(200):
        study.arena("have", seed)


def test_too_few_groups(tmp_path: Path) -> None:
    study = read(tmp_path, frame(person=np.arange(72) // 12), group="person")
    assert study.have is None and study.missing is not None and "too few groups" in study.missing["have"]


# tables: mistakes


def without(*columns: str) -> pd.DataFrame:
    return frame().drop(columns=list(columns))


ERRORS: list[tuple[str, pd.DataFrame, dict[str, str], str]] = [
    ("no target", without("y"), {}, "one column called target or y or label. Found none among: a, b. .*--target"),
    ("two targets", frame(label=1), {}, "Found both y and label among"),
    (
        "near target",
        frame(score=1.0),
        {"target": "Scor"},
        "target column 'Scor'. Found only these: a, b.*mean --target 'score'",
    ),
    ("far target", frame(), {"target": "zzz"}, "'zzz'. Found only these: a, b, y. Give one of them as --target"),
    ("no task", without("task"), {}, "one column called task. Found none among: a, b, y. .*--task COLUMN"),
    ("near task", frame(), {"task": "tasks"}, "the task column 'tasks'.*Did you mean --task 'task'"),
    ("near group", frame(person=1), {"group": "persn"}, "the group column 'persn'.*Did you mean --group 'person'"),
    ("one task", frame(1, 40), {}, r"at least two tasks. Found 1: \['t0'\]"),
    ("empty task name", frame(task=[None] + ["t"] * 71), {}, "a task in every row. Found 1 rows without one"),
    ("empty target", frame(y=[np.nan] * 2 + [0.5] * 70), {}, "a target in every row. Found 2 empty or NaN in 'y'"),
    ("empty group", frame(g=[None] * 3 + ["p"] * 69), {"group": "g"}, "a group in every row. Found 3"),
    ("NaN input", frame(b=[np.nan] + [0.0] * 71), {}, "a value in every row. Found 1 empty or NaN in column 'b'. Fill"),
    ("infinite input", frame(b=[np.inf] + [0.0] * 71), {}, "finite numbers. Found 1 infinite in column 'b'. Drop"),
    ("infinite target", frame(y=[np.inf] + [0.0] * 71), {}, "finite targets. Found infinite ones in 'y'"),
    (
        "mixed labels",
        frame(y=["1", "cat"] * 36),
        {},
        "labels of one type.*Found '1' beside 'cat' in 'y'. Write them all",
    ),
    ("one class", frame(y="same"), {}, "at least two classes. Found one"),
    ("names as target", frame(y=[f"n{i}" for i in range(72)]), {}, "Found 72 different texts in 72 rows of 'y'"),
    ("many texts", frame(b=[f"n{i}" for i in range(72)]), {}, "at most 20 different texts.*Found 72 in column 'b'"),
    ("no inputs", without("a", "b"), {}, "at least one column of inputs beside task, target and group. Found none"),
    (
        "too small",
        frame(3, 4),
        {},
        "tasks that can be split or held out. Found neither in table: .*at least 8 examples",
    ),
]


@pytest.mark.parametrize("data, options, message", [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_tables_that_make_no_study(tmp_path: Path, data: pd.DataFrame, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, data, **options)


def test_dates_are_no_inputs(tmp_path: Path) -> None:
    for column in ("b", "y"):
        frame().assign(**{column: pd.Timestamp("2026-01-01")}).to_parquet(tmp_path / "table.parquet")
        with pytest.raises(InputError, match=f"numbers, truth values or texts.*Found datetime64.*'{column}'"):
            load(str(tmp_path / "table.parquet"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", b"", "Expected a table in .*t.csv. Found that it cannot be read"),
        ("t.csv", b'task,y,a\n"1,2', "cannot be read"),
        ("t.csv", b"task,y,a\n\xff\xfe,1,2\n", "cannot be read.*UTF-8"),
        ("t.csv", b"task,y\n1,2,3\n1,2,3\n", "as many values in a row as names in the header.*Found more"),
        ("t.parquet", b"no parquet", "cannot be read"),
        ("t.xlsx", b"", "a file that ends in .csv, .csv.gz, .parquet. Found 't.xlsx'"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(str(tmp_path / name))


def test_folders_of_tables_that_make_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="either CSV or Parquet files, one a task, or folders.* Found neither"):
        load(str(tmp_path))
    for t, part in frame(2).groupby("task"):
        part.drop(columns="task").to_csv(tmp_path / f"{t}.csv", index=False)
    with pytest.raises(InputError, match="no --task with a folder, where each file is a task. Found --task a"):
        load(str(tmp_path), task="a")
    (tmp_path / "t2.csv").write_text("a,b,y\n")
    with pytest.raises(InputError, match="at least one row in every task. Found none in .*t2.csv. Remove"):
        load(str(tmp_path))
    (tmp_path / "t2.csv").write_text("a,c,y\n1,2,3\n")
    with pytest.raises(InputError, match="same columns in every file.*Found b, c in only one of t0.csv and t2.csv"):
        load(str(tmp_path))
    (tmp_path / "t2.csv").unlink()
    frame(1).to_parquet(tmp_path / "t1.parquet")
    with pytest.raises(InputError, match="one file a task. Found two for task 't1'.*Rename"):
        load(str(tmp_path))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match="one a task, or folders of images in .* Found both"):
        load(str(tmp_path))


# arrays


def test_arrays() -> None:
    images = np.zeros((12, 1, 4, 4), np.uint8)
    texts = from_arrays({name: (images, ["cat", "dog", "cow"] * 4) for name in "abcdef"}, name="pets")
    table = both(texts)
    assert table.labels == ("cat", "cow", "dog") and table.y[0, :3].tolist() == [0, 2, 1]
    assert texts.name == "pets" and table.x.dtype == torch.uint8 and texts.shots == 3
    rated = from_arrays({name: (np.zeros((12, 2)), np.arange(12) % 3) for name in "ab"}, kind="regression")
    assert rated.have is not None and rated.have.problem.kind == "regression"
    several = from_arrays({name: (np.zeros((12, 2)), np.zeros((12, 3))) for name in "ab"})
    assert several.have is not None and several.have.problem.n_outputs == 3
    line = from_arrays({name: (np.arange(12.0), np.arange(12.0)) for name in "ab"})
    assert line.have is not None and line.have.problem.x_shape == (1,)


@pytest.mark.parametrize(
    "tasks, message",
    [
        ({}, "at least two tasks. Found none"),
        ({"a": ([1.0] * 9, [0, 1, 1] * 3)}, "at least two tasks. Found 1"),
        (
            {"a": ([1.0] * 9, [0, 1, 1] * 3), "b": ([], [])},
            "at least one example in every task. Found none in task 'b'",
        ),
        ({"a": ([1.0] * 9, [0, 1, 1] * 3), "b": ([1.0] * 9, ["x", "y", "y"] * 3)}, "labels of one type"),
        ({"a": ([1.0] * 9, [0, 1, 1] * 3), "b": ([1.0] * 8 + [np.nan], [0, 1, 1] * 3)}, "finite numbers.*task 'b'"),
        ({"a": ([1.0] * 9, [0, 1, 1] * 3), "b": ([1.0] * 8, [0, 1, 1] * 3)}, "Found 8 inputs and 9 targets"),
    ],
)
def test_arrays_that_make_no_study(tasks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(tasks)


# images


def picture(path: Path, mode: str = "L", size: tuple[int, int] = (6, 5), value: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else 1 if mode == "1" else (value, 10, 20, 255)[: len(mode)]
    Image.new(mode, size, colour).save(path)


def flat(root: Path, classes: int = 10, images: int = 12, mode: str = "L") -> Path:
    for c in range(classes):
        for i in range(images):
            picture(root / f"class{c}" / f"{i}.png", mode, value=10 * c + 1)
    (root / "class0" / "notes.txt").write_text("passed over")
    (root / ".cache").mkdir()
    return root


def nested(root: Path, classes: Callable[[int], int] = lambda group: 3, images: int = 4, groups: int = 6) -> Path:
    for g in range(groups):
        for c in range(classes(g)):
            for i in range(images):
                picture(root / f"group{g}" / f"class{c}" / f"{i}.png", value=40 * g + 10 * c)
    return root


def test_class_folders_of_images(tmp_path: Path) -> None:
    study = load(str(flat(tmp_path / "birds")))
    assert isinstance(study.meet, SplitClasses) and study.name == "birds" and study.shots == 5
    classes, splits = study.meet.classes, study.meet.splits
    assert classes.x.shape == (10, 12, 1, 5, 6) and classes.x.dtype == torch.uint8
    assert classes.names[3] == "class3" and bool((classes.x[3] == 31).all())
    assert {part: len(members) for part, members in splits.items()} == {"train": 6, "val": 2, "test": 2}
    assert study.meet.ways == 2 and study.meet.queries == 7
    study.arena("meet", 0)
    again, other = load(str(tmp_path / "birds")).meet, load(str(tmp_path / "birds"), seed=3).meet
    assert isinstance(again, SplitClasses) and isinstance(other, SplitClasses)
    assert torch.equal(again.splits["test"], splits["test"]) and not torch.equal(other.splits["test"], splits["test"])
    with pytest.raises(InputError, match="a single group of classes"):
        study.arena("have", 0)


def test_five_ways_where_there_are_classes_enough(tmp_path: Path) -> None:
    meet = load(str(flat(tmp_path, classes=25, images=3))).meet
    assert isinstance(meet, SplitClasses)
    assert [len(meet.splits[part]) for part in ("train", "val", "test")] == [15, 5, 5]
    assert (meet.ways, meet.queries) == (5, 2)


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("RGBA", 3), ("L", 1), ("1", 1)])
def test_colour_or_grey(tmp_path: Path, mode: str, channels: int) -> None:
    meet = load(str(flat(tmp_path, classes=6, images=2, mode=mode))).meet
    assert isinstance(meet, SplitClasses) and meet.classes.x.shape[2:] == (channels, 5, 6)
    if channels == 3:
        assert meet.classes.x[0, 0, :, 0, 0].tolist() == [1, 10, 20]


def test_groups_of_classes_of_their_own(tmp_path: Path) -> None:
    """As alphabets: class folders of the same name in two groups are two classes."""
    study = load(str(nested(tmp_path, lambda group: 2 + group % 2)))
    assert isinstance(study.have, TaskTable) and isinstance(study.meet, SplitClasses)
    assert study.have.names[1] == "group1" and study.have.count.tolist() == [8, 12] * 3
    assert not study.have.problem.shared_labels
    assert study.have.y[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert study.have.x[study.have.row[1]][:, 0, 0, 0].tolist() == [40] * 4 + [50] * 4 + [60] * 4
    assert len(study.meet.classes.names) == 15 and study.meet.classes.names[2] == "group1/class0"
    study.arena("have", 0)
    study.arena("meet", 0)


def test_groups_that_all_have_the_same_classes(tmp_path: Path) -> None:
    """As hospitals: the labels mean the same, so new groups are asked about."""
    study = load(str(nested(tmp_path)))
    table = both(study)
    assert table.problem.shared_labels and table.labels == ("class0", "class1", "class2") and study.shots == 3
    study.arena("have", 0)
    study.arena("meet", 0)


def spoil(path: Path, how: str) -> None:
    if how == "broken":
        path.write_bytes(path.read_bytes()[:40])
    elif how == "no image":
        path.write_text("a page that says: not found")
    elif how == "size":
        picture(path, size=(6, 6))
    elif how == "colour":
        picture(path, "RGB")
    elif how == "16 bit":
        picture(path, "I;16")


@pytest.mark.parametrize(
    "how, message",
    [
        ("broken", "Expected an image in .*class2.*3.png. Found that it cannot be read .*Repair or remove it"),
        ("no image", "Expected an image in .*3.png. Found that it cannot be read"),
        (
            "size",
            r"images to be of one size, 6 x 5 as .*class0.*0.png. Found 6 x 6 in .*class2.*3.png. Resize or remove",
        ),
        ("colour", "all images to be grey as .*0.png. Found .*3.png coloured. Convert or remove it"),
        ("16 bit", "8 bits a channel. Found mode I;16 in .*3.png"),
    ],
)
def test_a_bad_image_is_named(tmp_path: Path, how: str, message: str) -> None:
    flat(tmp_path, classes=6, images=4)
    spoil(tmp_path / "class2" / "3.png", how)
    with pytest.raises(InputError, match=message):
        load(str(tmp_path))


def test_folders_of_images_that_make_no_study(tmp_path: Path) -> None:
    few = flat(tmp_path / "few", classes=5)
    with pytest.raises(InputError, match="classes that can be held out. Found that there are 5 classes, at least 6"):
        load(str(few))
    single = flat(tmp_path / "single", classes=6, images=2)
    (single / "class4" / "1.png").unlink()
    with pytest.raises(InputError, match="class 'class4' has one image, at least 2"):
        load(str(single))
    (single / "class4" / "0.png").unlink()
    with pytest.raises(InputError, match=r"at least one image in .*class4. Found none. Remove that folder"):
        load(str(single))
    with pytest.raises(InputError, match="no --target with images. Found --target y"):
        load(str(few), target="y")
    lone = nested(tmp_path / "lone")
    picture(lone / "group9" / "class0" / "0.png")
    with pytest.raises(InputError, match="two class folders in every group. Found 1 in .*group9"):
        load(str(lone))
    picture(lone / "group1" / "0.png")
    with pytest.raises(InputError, match="class folders of images, or groups of class folders.* Found both"):
        load(str(lone))
