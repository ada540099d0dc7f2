import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Residual 3×3 convolutions with embeddings of time and label."""

    def __init__(self, in_channels: int, num_classes: int | None, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.last = nn.Conv2d(width, in_channels, 3, padding=1)
        self.embed_time = nn.Linear(1, width)
        self.embed_label = None if num_classes is None else nn.Embedding(num_classes + 1, width)

    def forward(self, images: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self.embed_time(times[:, None])
        if self.embed_label is not None:
            embedding = embedding + self.embed_label(labels)
        x = self.first(images) + embedding[:, :, None, None]
        for block in self.blocks:
            x = x + block(torch.relu(x))
        output: Tensor = self.last(x)
        return output
