"""The public conformance kit: does my method, my task family, my way to combine losses keep the rules?

``check_method(MyMethod)`` takes seconds and raises an error that lists every broken law in words; ``laws`` gives
the same laws one by one for pytest. ``check_consistent``, ``check_uncertain`` and ``check_expressive`` measure
what does not follow from one look. How to write a method: ``docs/new_method.md``.
"""

from quickstudy.testing._law import ConformanceError
from quickstudy.testing.combines import check_combine
from quickstudy.testing.explorers import check_explorer
from quickstudy.testing.families import check_task_family
from quickstudy.testing.methods import check_method, laws
from quickstudy.testing.properties import check_consistent, check_expressive, check_uncertain

__all__ = [
    "ConformanceError",
    "check_combine",
    "check_consistent",
    "check_explorer",
    "check_expressive",
    "check_method",
    "check_task_family",
    "check_uncertain",
    "laws",
]
