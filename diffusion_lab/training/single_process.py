"""A run on one device is one process, whatever the environment says of ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_only


class SingleProcessEnvironment(LightningEnvironment):
    """Lightning's view of the machine without the variables of Slurm, torchrun and others.

    Lightning would otherwise take its rank from leftovers of another launcher, or end with an error of its own in a
    batch job that asked for several tasks and starts one.
    """

    @property
    def creates_processes_externally(self) -> bool:
        return False

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return 0

    def teardown(self) -> None:
        """Leave the environment as it is."""


@contextlib.contextmanager
def as_rank_zero() -> Iterator[None]:
    """Let this process write what Lightning lets only rank 0 write.

    Lightning decides who that is when it is imported, from RANK, LOCAL_RANK, SLURM_PROCID or JSM_NAMESPACE_RANK.
    """
    before: int = rank_zero_only.rank  # type: ignore[attr-defined]
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        yield
    finally:
        rank_zero_only.rank = before  # type: ignore[attr-defined]
