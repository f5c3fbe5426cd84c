"""Loops, and runs that survive: fit a method to tasks, keep the best on validation, resume where it stopped."""

from quickstudy.training.fit import History, fit, task_scores

__all__ = ["History", "fit", "task_scores"]
