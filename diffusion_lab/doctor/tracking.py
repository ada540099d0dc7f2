"""Whether W&B would work: its login, the mode of runs, and whether its server answers. Keys are never shown."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffusion_lab.console.command_line import interpreter
from diffusion_lab.doctor.findings import Finding, advice, fact, ok, problem, shown_path
from diffusion_lab.runtime.wandb_environment import from_environment, variable_of

REACH_SECONDS = 3.0
"""Longest wait for an answer of the server."""

MODES = {"online": "runs are sent to W&B", "offline": "runs stay in their folders", "disabled": "W&B does nothing"}


@dataclass(frozen=True)
class Tracking:
    """Facts about W&B.

    Args:
        version: Version of wandb; None: it is not installed.
        error: Why it cannot be imported, or why its login cannot be used; None: it can.
        server: Address of the server.
        login: Where its key is: a variable or a file; None: there is no login.
        mode: Mode of runs without ``logger.mode``.
        variable: Environment variable that sets it; None: it is the default.
        answer: Whether the server answers; None: it was not asked.
        reason: Why it does not, or why it refuses the key.
    """

    version: str | None
    error: str | None = None
    server: str = ""
    login: str | None = None
    mode: str = "offline"
    variable: str | None = None
    answer: bool | None = None
    reason: str = ""


def read_tracking(ask: bool, environ: Mapping[str, str] = os.environ) -> Tracking:
    """Look for a login, and ask the server if that is wanted or runs are sent to it.

    Args:
        ask: Whether to ask the server in any case.
        environ: The environment.
    """
    mode = from_environment("mode", environ) or "offline"
    variable = variable_of("mode", environ)
    try:
        import wandb
        from wandb.sdk import wandb_setup
    except ImportError as error:
        return Tracking(None, str(error), mode=mode, variable=variable)
    # wandb.setup() would start W&B's service
    server = str(wandb_setup.singleton().settings.base_url).rstrip("/")
    login, error_text = _login(server, environ)
    answer, reason = (None, "")
    if ask or mode == "online":
        answer, reason = reach(server)
        if answer and login is not None and error_text is None:
            reason = _refusal()
    return Tracking(wandb.__version__, error_text, server, login, mode, variable, answer, reason)


def tracking_findings(found: Tracking, ask_command: str) -> Iterator[Finding]:
    """Yield findings about W&B.

    Args:
        found: The facts.
        ask_command: Command that asks the server as well.
    """
    if found.version is None:
        yield problem("wandb", f"cannot be imported: {found.error}", f"{interpreter()} -m pip install wandb")
        return
    meaning = MODES.get(found.mode, "no mode of W&B")
    source = f"set by {found.variable}" if found.variable else "the default"
    more = "; logger.mode=online sends them to W&B" if found.mode == "offline" else ""
    yield (ok if found.mode in MODES else advice)("mode", f"{found.mode} ({source}): {meaning}{more}")
    needs_login = found.mode == "online"
    login_command = f"{interpreter()} -m wandb login --host {found.server}"
    if found.error is not None:
        yield (problem if needs_login else advice)("login", found.error, f"{login_command} --relogin")
    elif found.login is None:
        text = f"none for {found.server}, which only logger.mode=online needs"
        yield (problem if needs_login else fact)("login", text, login_command)
    else:
        yield ok("login", f"for {found.server}, in {found.login}")
    if found.answer is None:
        yield fact("server", "not asked whether it answers; this asks it", ask_command)
    elif not found.answer:
        yield (problem if needs_login else advice)("server", f"{found.server} does not answer: {found.reason}")
    elif found.reason:
        yield (problem if needs_login else advice)("server", found.reason, f"{login_command} --relogin")
    else:
        yield ok("server", "answers" + (" and knows the key" if found.login else ""))


def reach(server: str, seconds: float = REACH_SECONDS) -> tuple[bool, str]:
    """Return whether a server answers, and if not, why."""
    try:
        with urllib.request.urlopen(server, timeout=seconds):
            return True, ""
    except urllib.error.HTTPError:
        return True, ""  # it answers, whatever it thinks of the page
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return False, getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _login(server: str, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return where the key for a server is, and why it cannot be used; None where that does not apply."""
    import wandb
    from wandb.sdk.lib import wbauth

    try:
        login = wbauth.authenticate_session(host=server, source="doctor", prompt=False, update_session=False)
    except wandb.Error as error:
        return None, f"the login cannot be used: {error}"
    return (None, None) if login is None else (_source(server, environ), None)


def _source(server: str, environ: Mapping[str, str]) -> str:
    """Return where W&B found the key for a server."""
    from wandb.sdk.lib import wbauth

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environ.get(name):
            return name
    if wbauth.read_netrc_auth(host=server) is None:
        return "W&B's settings"
    named = environ.get("NETRC")
    paths = [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    return shown_path(next((path for path in paths if path.exists()), paths[0]))


def _refusal() -> str:
    """Return why training with ``logger.mode=online`` would be refused; empty if it would not."""
    from diffusion_lab.config.schema import LoggerSettings
    from diffusion_lab.tracking.wandb_server import check_reachable

    try:
        check_reachable(LoggerSettings.model_validate({"backends": ("wandb",), "mode": "online"}))
    except ValueError as error:
        return str(error)
    return ""
