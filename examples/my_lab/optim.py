from collections.abc import Callable, Iterable

import torch
from torch import nn


class Lion(torch.optim.Optimizer):
    """Steps by the sign of a running average of the gradient (arXiv:2302.06675, algorithm 2)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()  # Lightning computes the gradients here
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                weight.mul_(1 - rate * group["weight_decay"])
                weight.sub_(average.lerp(weight.grad, 1 - beta1).sign(), alpha=rate)
                average.lerp_(weight.grad, 1 - beta2)
        return loss
