"""Muon, momentum orthogonalised by a Newton-Schulz iteration.

Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/ and https://github.com/KellerJordan/Muon (MIT licence).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

# The quintic's coefficients and five steps are the paper's: they bring every singular value near 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def orthogonalise(matrix: torch.Tensor) -> torch.Tensor:
    """Give the nearest semi-orthogonal matrix, roughly, to a matrix (rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix  # the product below is then the smaller of the two
    x = x.div(x.norm() + 1e-12)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x.matmul(x.T)
        x = x.mul(a).add((b * gram + c * gram @ gram).matmul(x))
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose step is orthogonalised, for weights of two or more dimensions."""

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float, momentum: float = 0.9) -> None:
        """Take the weights; a weight (out, in, ...) is seen as a matrix (out, in * ...)."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient by one orthogonalised step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_weight(weight, group["lr"], group["momentum"])

    def _step_weight(self, weight: torch.Tensor, lr: float, momentum: float) -> None:
        """Move one weight: lr bounds the spectral norm of the change, scaled as the source does."""
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        nesterov = weight.grad.lerp(state["momentum"], momentum)
        matrix = nesterov.reshape(nesterov.shape[0], -1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        weight.add_(orthogonalise(matrix).reshape(weight.shape), alpha=-lr * scale)
