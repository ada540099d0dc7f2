from torch import Tensor


class Sharpness:
    """Mean absolute difference of neighbouring pixels, for images in [0, 1]; the interface is that of torchmetrics."""

    def __init__(self) -> None:
        self.reset()

    def update(self, images: Tensor) -> None:
        self.total += images.diff(dim=-1).abs().mean().item() * len(images)
        self.count += len(images)

    def compute(self) -> float:
        return self.total / self.count

    def reset(self) -> None:
        self.total, self.count = 0.0, 0
