"""Text from file names, checkpoints and other people's files, made safe to print on a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    r"""Return ``text`` with control characters escaped, so that no escape code in it reaches the terminal.

    Line breaks and tabs stay; letters of any script stay.

    >>> printable("weights\x1b[2J.ckpt")
    'weights\\x1b[2J.ckpt'
    """
    return "".join(_escaped(character) for character in str(text))


def _escaped(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
