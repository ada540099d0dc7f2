from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class CooldownLR(LambdaLR):
    """Constant learning rate that falls linearly to zero in the last part of the training (arXiv:2405.18392)."""

    by_step = True  # stepped after each optimizer step, and given their total number

    def __init__(self, optimizer: Optimizer, total_steps: int, fraction: float = 0.2) -> None:
        length = max(1, round(fraction * total_steps))
        super().__init__(optimizer, lambda step: min(1.0, max(0.0, (total_steps - step) / length)))
