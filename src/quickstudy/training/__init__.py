"""Loops, and runs that survive: fit a method to tasks, keep the best on validation, resume where it stopped."""

from quickstudy.training.fit import History, default_steps, fit, task_scores
from quickstudy.training.fit_imitation import fit_imitation
from quickstudy.training.fit_off_policy import fit_off_policy
from quickstudy.training.fit_offline import fit_offline
from quickstudy.training.fit_poses import fit_poses
from quickstudy.training.fit_rl import collect, first_episode, first_returns, fit_rl
from quickstudy.training.fit_stream import StreamScores, fit_stream

__all__ = [
    "History",
    "StreamScores",
    "collect",
    "default_steps",
    "first_episode",
    "first_returns",
    "fit",
    "fit_imitation",
    "fit_off_policy",
    "fit_offline",
    "fit_poses",
    "fit_rl",
    "fit_stream",
    "task_scores",
]
