"""Error for damaged checkpoints, with advice for the user."""

from __future__ import annotations

from pathlib import Path

from diffusion_lab.console.command_line import command


class DamagedCheckpointError(ValueError):
    """Raised if the content of a checkpoint is not what was written.

    Args:
        fault: What is wrong, with the path.
        advice: What to do about it.

    Attributes:
        fault: The argument ``fault``, for messages that add different advice.
    """

    def __init__(self, fault: str, advice: str = "") -> None:
        super().__init__(f"{fault}. {advice}" if advice else fault)
        self.fault = fault


def damaged_error(path: Path, what: str) -> DamagedCheckpointError:
    """Return the error for an unusable checkpoint, with a command that finds usable ones.

    Args:
        path: The checkpoint, or its manifest.
        what: What is wrong, as a predicate to follow the path.
    """
    search = command("checkpoint", "verify", path.parent)
    return DamagedCheckpointError(
        f"{path} {what}", f"Take another checkpoint of its folder; this command shows which are valid:\n  {search}"
    )
