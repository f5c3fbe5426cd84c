"""School: exam scores of 15,362 pupils of 139 London schools, the oldest data set of multi-task learning."""

from __future__ import annotations

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from quickstudy.core import InputError
from quickstudy.tasks.download import locate
from quickstudy.tasks.study import Study
from quickstudy.tasks.table import TaskTable

SCHOOLS, PUPILS, FEATURES = 139, 15_362, 28


def table() -> TaskTable:
    """139 tasks of 22 to 251 pupils: predict the exam score (1 to 70) from 27 numbers.

    Three columns tell the year of the exam, two are shares of pupils in the school (who get free meals, who are in the
    upper ability band), the rest are 0 or 1: the pupil's sex, ability band and ethnic group, the school's sex and
    denomination. The file's last column is 1 throughout and is left out.

    Raises:
        InputError: the file does not hold these schools.

    Reference:
        Bakker and Heskes 2003, Task clustering and gating for Bayesian multitask learning, JMLR 4.
    """
    path = locate("multitask_tables/school.mat")
    try:
        content = scipy.io.loadmat(path)
        xs, ys = content["X"].ravel(), content["Y"].ravel()
        found = (len(xs), sum(map(len, xs)), {x.shape[1] for x in xs}, all(bool((x[:, -1] == 1).all()) for x in xs))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, MatReadError) as error:
        raise InputError(
            f"Expected a MATLAB file with cells X and Y at {path}. Found one that cannot be read ({error!r}). "
            "Get another copy."
        ) from error
    if found != (SCHOOLS, PUPILS, {FEATURES}, True):
        raise InputError(
            f"Expected {SCHOOLS} schools, {PUPILS:,} pupils and {FEATURES} columns, the last one constant, in {path}. "
            f"Found {found[0]} schools, {found[1]:,} pupils, {sorted(found[2])} columns. Get another copy."
        )
    return TaskTable.from_arrays(
        {
            f"school {i + 1}": (x[:, :-1].astype(np.float32), y.ravel().astype(np.float32))
            for i, (x, y) in enumerate(zip(xs, ys, strict=True))
        },
        "regression",
    )


def study() -> Study:
    """Held-out pupils of known schools, and new schools with 10 pupils."""
    data = table()
    return Study(
        "school",
        data,
        data,
        shots=10,
        about="School, 139 schools, 15,362 pupils; Inner London Education Authority, from MALSAR. For research.",
    )
