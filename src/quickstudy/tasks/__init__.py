"""Where data come from: class sets and their episodes, tables of tasks, families with a known optimum, data sets."""

from quickstudy.tasks.augment import Augmented
from quickstudy.tasks.classes import ClassEpisodes, ClassSet, check_splits, label_some
from quickstudy.tasks.load import NAMES, load
from quickstudy.tasks.study import Arena, Question, SplitClasses, Study
from quickstudy.tasks.table import Scale, TableTasks, TaskTable
from quickstudy.tasks.toy import GaussianProcesses, Sinusoids, planted

__all__ = [
    "NAMES",
    "Arena",
    "Augmented",
    "ClassEpisodes",
    "ClassSet",
    "GaussianProcesses",
    "Question",
    "Scale",
    "Sinusoids",
    "SplitClasses",
    "Study",
    "TableTasks",
    "TaskTable",
    "check_splits",
    "label_some",
    "load",
    "planted",
]
