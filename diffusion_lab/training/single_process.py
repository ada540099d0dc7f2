"""Single-process training, regardless of rank variables in the environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only


class SingleProcessEnvironment(LightningEnvironment):
    """Cluster environment that ignores the variables of Slurm, torchrun and others.

    Lightning would otherwise take its rank from variables left by another launcher, or raise an error in a batch job
    that requested several tasks and starts one.
    """

    @property
    def creates_processes_externally(self) -> bool:
        return False

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return 0

    def teardown(self) -> None:
        """Leave the environment unchanged."""


@contextlib.contextmanager
def as_rank_zero() -> Iterator[None]:
    """Make this process rank 0 for Lightning, which lets only rank 0 write files.

    Lightning sets the rank on import, from RANK, LOCAL_RANK, SLURM_PROCID or JSM_NAMESPACE_RANK.
    """
    before: int = rank_zero_only.rank  # type: ignore[attr-defined]
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        yield
    finally:
        rank_zero_only.rank = before  # type: ignore[attr-defined]
