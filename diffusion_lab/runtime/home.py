"""Home folder for users without one, as in containers that run under a numeric user id."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def ensure_home() -> None:
    """Set HOME and USER if neither the environment nor the user database contains them.

    Libraries look for settings and caches in the home folder, and many fail without one. It is then a private folder
    inside the temporary folder.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_own_folder())
        os.environ.setdefault("USER", str(os.getuid()))


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"home-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="home-"))
    private = state.st_uid == os.getuid() and not state.st_mode & 0o022 and not folder.is_symlink()
    return folder if private else Path(tempfile.mkdtemp(prefix="home-"))
