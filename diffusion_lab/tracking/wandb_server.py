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
    if "wandb" not in settings.backends or settings.mode != "online":
        return
    wandb = wandb_library()
    from wandb.sdk.lib import wbauth

    server = str(wandb.setup().settings.base_url).rstrip("/")
    try:
        login = wbauth.authenticate_session(host=server, source="logger.mode=online", prompt=False)
    except wandb.Error as error:
        raise ValueError(
            f"logger.mode=online: the W&B login cannot be used: {error} (wandb login --relogin)"
        ) from error
    if login is None:
        raise ValueError(
            f"logger.mode=online needs a login for {server}, and there is none: run `wandb login`, set WANDB_API_KEY, "
            "or use logger.mode=offline"
        )
    key = getattr(login, "api_key", None)
    if key is not None:  # W&B itself exchanges the other kind of login for a token
        _check_server(server, key)


def _check_server(server: str, key: str) -> None:
    """Raise ValueError if the server does not answer or does not know the key."""
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
        is_known = response["data"]["viewer"] is not None
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise ValueError(_unreachable(server, f"it answers {error.code} {error.reason}")) from error
        is_known = False
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise ValueError(_unreachable(server, text)) from error
    if not is_known:
        raise ValueError(
            f"logger.mode=online: {server} does not know the W&B key in use: run `wandb login --relogin`, "
            "or use logger.mode=offline"
        )


def _unreachable(server: str, reason: str) -> str:
    return (
        f"logger.mode=online: the W&B server {server} cannot be reached ({reason}): try again, "
        "or use logger.mode=offline and send the run later with `wandb sync`"
    )
