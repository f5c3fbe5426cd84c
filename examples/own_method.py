"""A method of your own, in one file: a class is the median of its examples' features.

python examples/own_method.py [STEPS]
quickstudy compare digits --question meet --method prototypical --method examples/own_method.py:Medians --out runs/mine
"""

import sys
from typing import ClassVar

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.core import Predictor
from quickstudy.testing import check_method


class Medians(qs.Method):
    """Nearest class median in a learned embedding, less moved by a single odd example than the mean is."""

    name: ClassVar[str] = "medians"
    summary: ClassVar[str] = "nearest class median in a learned embedding"
    label_equivariant: ClassVar[bool] = True

    def __init__(self, problem: qs.Problem) -> None:
        super().__init__(problem)
        self.encoder = qs.nets.encoder_for(problem)[0]

    @classmethod
    def refuses(cls, problem: qs.Problem) -> str:
        return "" if problem.kind == "classification" else "needs classes; these tasks predict numbers"

    def adapt(self, support: qs.Batch, task: Tensor | None = None) -> Predictor:
        features = self.embed(support.x)
        real = support.weights > 0
        centres = []
        for label in range(self.problem.n_outputs):
            mine = (real & (support.y == label)).unsqueeze(-1)
            centres.append(features.where(mine, torch.nan).nanmedian(1).values)
        centre = torch.stack(centres, 1)  # [T, N, features], NaN where a class has no example
        missing = centre.isnan().any(-1).unsqueeze(1)
        centre = centre.nan_to_num()

        def predict(x: Tensor) -> Tensor:
            distance = (self.embed(x).unsqueeze(2) - centre.unsqueeze(1)).square().sum(-1)
            return (-distance).masked_fill(missing, -1e4)

        return predict

    def embed(self, x: Tensor) -> Tensor:
        """Shape: ``[T, n, *x]`` to ``[T, n, features]``."""
        features: Tensor = self.encoder(x.flatten(0, 1))
        return features.unflatten(0, x.shape[:2])


if __name__ == "__main__":
    check_method(Medians)  # raises if a rule of methods is broken, and says which
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    arena = qs.load("digits").arena("meet", seed=0, shots=5)
    for method in (Medians(arena.problem), qs.methods.Prototypical(arena.problem)):
        qs.fit(method, arena.train, validation=arena.validation, steps=steps, every=max(1, steps // 5))
        print(method.name, qs.evaluate(method, arena.test))
