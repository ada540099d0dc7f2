"""Redacting secrets, and names of users and machines, in everything that is written or sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

REDACTED = "[redacted]"
"""Placeholder for a secret."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS = frozenset({"password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials"})
_JOINED = ("password", "passwd", "passphrase", "secret", "apikey", "accesskey", "secretkey", "privatekey")
_IF_TEXT = frozenset({"key", "keys", "token", "tokens", "auth", "authorization", "bearer"})
_MAKES_A_SECRET = frozenset({"api", "access", "private", "auth", "ssh", "encryption", "signing"})
_SHORTEST_SECRET = 4
"""Minimum characters; replacing shorter ones in text would change unrelated words."""

_SHORTEST_ELSEWHERE = 6
"""Minimum characters of a secret that is searched for in other settings, which must stay usable."""

_IN_TEXT = re.compile(r"""([\w.-]+)(["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^\s,}\]]+)""")
_IN_QUERY = re.compile(r"([?&])([\w.-]+)=([^&#\s'\"]+)")
_IN_URL = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")


def names_secret(name: str, value: object = "text") -> bool:
    """Return whether a key of this name holds a secret, by the words in its name.

    Counts and sizes (``num_tokens=64``) are not secrets: a number is one only if the name is unambiguous.

    >>> names_secret("WANDB_API_KEY"), names_secret("data.hfToken"), names_secret("monkey")
    (True, True, False)
    >>> names_secret("token_dim", 64)
    False
    """
    if value is None or isinstance(value, bool):
        return False
    words = [word.lower() for word in _WORDS.findall(name)]
    if any(word in _ALWAYS or word.endswith(_JOINED) for word in words):
        return True
    named = any(word in _IF_TEXT or word.endswith("token") for word in words)
    return named and (not isinstance(value, int | float) or not _MAKES_A_SECRET.isdisjoint(words))


def redacted(tree: Any, secrets: Collection[str] = ()) -> Any:
    """Return a copy of plain containers with every secret replaced by ``REDACTED``.

    Secrets are the values of keys that ``names_secret``, at any depth below them, passwords and tokens in URLs, and any
    occurrence of these and of ``secrets`` in other strings.
    """
    known = {*secrets, *secret_values(tree)}
    return _redacted(tree, [secret for secret in known if len(secret) >= _SHORTEST_ELSEWHERE])


def _redacted(tree: Any, secrets: Collection[str]) -> Any:
    if isinstance(tree, Mapping):
        return {
            key: _hide(value) if names_secret(str(key), value) else _redacted(value, secrets)
            for key, value in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [_redacted(value, secrets) for value in tree]
    return without_values(tree, secrets) if isinstance(tree, str) else tree


def holds_redacted(tree: Any) -> bool:
    """Return whether a value in plain containers was redacted."""
    return any(isinstance(value, str) and REDACTED in value for _, value in _leaves(tree))


def redacted_command(arguments: Sequence[str]) -> list[str]:
    """Return a command line with secrets replaced: ``key=VALUE``, ``--key VALUE``, and keys within a value.

    >>> redacted_command(["train.py", "data.api_key=abc", "--token", "abc", "data={root: x, password: abc}"])
    ['train.py', 'data.api_key=[redacted]', '--token', '[redacted]', 'data={root: x, password: [redacted]}']
    """
    secrets = [secret for secret in secret_values({}, arguments) if len(secret) >= _SHORTEST_ELSEWHERE]
    redacted_arguments = []
    is_value = False
    for argument in arguments:
        hidden = REDACTED if is_value and not argument.startswith("-") else _redacted_argument(argument)
        redacted_arguments.append(without_values(hidden, secrets))
        is_value = _announces_secret(argument)
    return redacted_arguments


def secret_values(tree: Any, arguments: Sequence[str] = ()) -> frozenset[str]:
    """Return the strings that ``redacted`` and ``redacted_command`` hide, to hide them in running text as well."""
    leaves = list(_leaves(tree))
    named = [str(value) for secret, value in leaves if secret and value is not None]
    for text in [value for _, value in leaves if isinstance(value, str)] + list(arguments):
        named += [inside.partition(":")[2] for inside in _IN_URL.findall(text)]
        named += [match[3] for match in _IN_QUERY.finditer(text) if names_secret(match[2])]
    for argument, following in zip(arguments, [*arguments, "-"][1:], strict=True):
        key, _, value = argument.partition("=")
        if names_secret(key, value):
            named.append(value)
        named += [match[3] for match in _IN_TEXT.finditer(value) if names_secret(match[1])]
        if _announces_secret(argument) and not following.startswith("-"):
            named.append(following)
    bare = (value.strip("'\"") for value in named)
    return frozenset(value for value in bare if len(value) >= _SHORTEST_SECRET and value != REDACTED)


def without_values(text: str, secrets: Collection[str]) -> str:
    """Return running text with each of the secrets replaced by ``REDACTED``."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    text = _IN_QUERY.sub(lambda match: f"{match[1]}{match[2]}={REDACTED}" if names_secret(match[2]) else match[0], text)
    return _IN_URL.sub(REDACTED, text)


def without_folders(tree: Any) -> Any:
    """Return a copy of plain containers with absolute and home paths reduced to their last part.

    For data that leaves the machine, since such paths name users and hosts.

    >>> without_folders({"train": "/home/anna/flowers", "base_dir": "outputs/mine"})
    {'train': 'flowers', 'base_dir': 'outputs/mine'}
    """
    if isinstance(tree, Mapping):
        return {key: without_folders(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_folders(value) for value in tree]
    if isinstance(tree, str) and (path := _absolute_path(tree)) is not None:
        return path.name
    return tree


def _absolute_path(text: str) -> PurePath | None:
    """Return a string as a path if it starts at a root or a home folder, else None."""
    if text.startswith("~") or PurePosixPath(text).is_absolute():
        return PurePosixPath(text)
    return PureWindowsPath(text) if PureWindowsPath(text).is_absolute() else None


def _announces_secret(argument: str) -> bool:
    """Return whether the next argument is a secret: ``--token VALUE``."""
    return argument.startswith("--") and "=" not in argument and names_secret(argument)


def _redacted_argument(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if equals and names_secret(key, value):
        return f"{key}={REDACTED}"
    within = _IN_TEXT.sub(
        lambda match: f"{match[1]}{match[2]}{REDACTED}" if names_secret(match[1]) else match[0], value
    )
    return f"{key}{equals}{_IN_URL.sub(REDACTED, within)}"


def _hide(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hide(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_hide(inner) for inner in value]
    return value if value is None or isinstance(value, bool) else REDACTED


def _leaves(tree: Any, secret: bool = False) -> Iterator[tuple[bool, Any]]:
    """Yield whether it is a secret, and the value, of each leaf."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, secret or names_secret(str(key), value))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value, secret)
    else:
        yield secret, tree
