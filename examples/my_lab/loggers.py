from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger


class TableLogger(Logger):
    """Writes one line of tab-separated step, name and value for each metric."""

    def __init__(self, save_dir: str | Path, digits: int = 6):
        super().__init__()
        self.path = Path(save_dir) / "table.tsv"
        self.digits = digits

    @property
    def name(self) -> str:
        return "table"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # config.yaml has them

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a") as file:
            for name, value in metrics.items():
                file.write(f"{step}\t{name}\t{value:.{self.digits}g}\n")
