"""Ridge regression in closed form, which several attacks begin with."""

import torch
from torch import Tensor

RIDGE = 1e-3


def ridge(values: Tensor, goals: Tensor) -> Tensor:
    """The map [D + 1, G] from values [m, D], about as large as 1, to goals [m, G]; its last row is
    what is added.
    """
    rows = torch.cat([values, torch.ones_like(values[:, :1])], dim=1).double()
    eye = torch.eye(rows.shape[1], dtype=torch.float64)
    gram = rows.T @ rows + RIDGE * len(rows) * eye
    found: Tensor = torch.linalg.solve(gram, rows.T @ goals.double()).to(values)
    return found
