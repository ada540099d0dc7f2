"""The W&B server: checked before a run starts, so that nothing is written if it cannot be used."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request

from diffusion_lab.config.schema import LoggerSettings
from diffusion_lab.tracking.wandb_run import wandb_library

REACH_SECONDS = 10.0
"""Longest wait for the server's first answer."""


def check_reachable(settings: LoggerSettings) -> None:
    """Check that W&B answers and knows the account if ``logger.mode=online``; nothing is written.

    Raises:
        ValueError: There is no login, the server does not answer within ``REACH_SECONDS``, or it refuses the key.
    """
    if "wandb" in settings.backends and settings.mode == "online":
        check_account("logger.mode=online", "use logger.mode=offline", " and send the run later with `wandb sync`")


def check_account(purpose: str, otherwise: str, later: str = "") -> None:
    """Check that W&B answers and knows the account.

    Args:
        purpose: What needs it, at the start of messages.
        otherwise: What can be done without it.
        later: What to add to that if W&B only does not answer now.

    Raises:
        ValueError: There is no login, the server does not answer within ``REACH_SECONDS``, or it refuses the key.
    """
    wandb = wandb_library()
    from wandb.sdk.lib import wbauth

    server = str(wandb.setup().settings.base_url).rstrip("/")
    try:
        login = wbauth.authenticate_session(host=server, source=purpose, prompt=False)
    except wandb.Error as error:
        raise ValueError(f"{purpose}: the W&B login cannot be used: {error} (wandb login --relogin)") from error
    if login is None:
        raise ValueError(
            f"{purpose} needs a login for {server}, and there is none: run `wandb login`, set WANDB_API_KEY, "
            f"or {otherwise}"
        )
    key = getattr(login, "api_key", None)
    if key is None:  # W&B itself exchanges the other kind of login for a token
        return
    try:
        is_known = _knows(server, key)
    except ConnectionError as error:
        raise ValueError(
            f"{purpose}: the W&B server {server} cannot be reached ({error}): try again, or {otherwise}{later}"
        ) from error
    if not is_known:
        raise ValueError(
            f"{purpose}: {server} does not know the W&B key in use: run `wandb login --relogin`, or {otherwise}"
        )


def _knows(server: str, key: str) -> bool:
    """Return whether the server knows the key; raise ConnectionError if it does not answer."""
    request = urllib.request.Request(
        f"{server}/graphql",
        json.dumps({"query": "query Viewer { viewer { username } }"}).encode(),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(f'api:{key}'.encode()).decode()}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=REACH_SECONDS) as answer:
            response = json.loads(answer.read(2**20))
        return response["data"]["viewer"] is not None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return False
        raise ConnectionError(f"it answers {error.code} {error.reason}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(getattr(reason, "strerror", None) or str(reason) or type(reason).__name__) from error
