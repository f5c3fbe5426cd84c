"""A study's results for people: a page to open in a browser, a table for the terminal, figures for notebooks."""

from quickstudy.reports.page import write_report
from quickstudy.reports.terminal import table

__all__ = ["table", "write_report"]
