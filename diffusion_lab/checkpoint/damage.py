"""The error that a damaged checkpoint is answered with, and what its user can do."""

from __future__ import annotations

from pathlib import Path

from diffusion_lab.command_line import command


class DamagedCheckpointError(ValueError):
    """The bytes of a checkpoint are not those that were written.

    Args:
        fault: What is wrong, with the path.
        advice: What to do about it.

    Attributes:
        fault: As given, for messages that go on with advice of their own.
    """

    def __init__(self, fault: str, advice: str = "") -> None:
        super().__init__(f"{fault}. {advice}" if advice else fault)
        self.fault = fault


def damaged(path: Path, what: str) -> DamagedCheckpointError:
    """Return the error for a checkpoint that cannot be used, which says where to find one that can.

    Args:
        path: The checkpoint, or its manifest.
        what: What is wrong, as it follows the path.
    """
    search = command("-m diffusion_lab.checkpoint", "verify", path.parent)
    return DamagedCheckpointError(
        f"{path} {what}", f"Take another checkpoint of its folder; this command tells which are whole:\n  {search}"
    )
