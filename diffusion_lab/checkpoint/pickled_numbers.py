"""NumPy values that a checkpoint may hold: scalars and arrays of plain numbers, whose bytes are in the file.

Training loops save them unintentionally: ``numpy.float64`` for the best loss, an array of losses. With other arguments
the same NumPy functions allocate any amount of memory or run code, so the arguments are checked one by one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Node = Any
"""Same type as in ``checkpoint.pickled``."""

ITEM_BYTES = {
    **dict.fromkeys(("b1", "i1", "u1"), 1),
    **dict.fromkeys(("i2", "u2", "f2"), 2),
    **dict.fromkeys(("i4", "u4", "f4"), 4),
    **dict.fromkeys(("i8", "u8", "f8", "c8"), 8),
    "c16": 16,
}
"""Bytes per element of each kind of number."""

MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")
"""Module in NumPy 2 and 1."""

DTYPE, NDARRAY, BYTES = "numpy.dtype", "numpy.ndarray", ("builtins.bytes", "__builtin__.bytes")
SCALAR = tuple(f"{module}.scalar" for module in MODULES)
ARRAY = tuple(f"{module}._reconstruct" for module in MODULES)

NUMBER_CALLS = {DTYPE, *SCALAR, *ARRAY, *BYTES}
"""Functions that may be called with arguments accepted by ``check_call``."""

MAX_DIMENSIONS = 32


def safe_globals() -> list[Any]:
    """Return the functions that ``torch.load(weights_only=True)`` must allow, after ``check_call`` checked the file."""
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    return [
        np.dtype,
        np.ndarray,
        *(type(np.dtype(code)) for code in ITEM_BYTES),
        *((scalar, name) for name in SCALAR),
        *((reconstruct, name) for name in ARRAY),
        *((bytes, name) for name in BYTES),
    ]


def check_call(function: str, arguments: list[Node]) -> None:
    """Raise ValueError if a call of ``NUMBER_CALLS`` creates anything other than a plain number or its dtype."""
    if function in SCALAR:
        item = _item_bytes(arguments[0]) if len(arguments) == 2 else None
        is_valid = item is not None and item == _length(arguments[1])
    elif function in ARRAY:  # no shape yet: it comes with the bytes
        is_valid = len(arguments) == 3 and arguments[:2] == [NDARRAY, [0]] and _length(arguments[2]) == 1
    elif function == DTYPE:  # a copy, so that filling it changes no dtype of this process
        is_valid = len(arguments) == 3 and arguments[1] is False and arguments[2] is True
        is_valid = is_valid and isinstance(arguments[0], str) and arguments[0] in ITEM_BYTES
    else:
        is_valid = not arguments
    if not is_valid:
        raise ValueError(f"it calls {function} for something other than plain numbers")


def check_filling(node: list[Node], state: Node) -> int:
    """Check the state that is set on a new dtype or array.

    Returns:
        The number of bytes that it uses.

    Raises:
        ValueError: It is anything other than the byte order, or the shape and the bytes for that shape.
    """
    if node[0] == DTYPE and len(node) == 4:
        orders = ("|",) if ITEM_BYTES[node[1]] == 1 else ("<", ">")
        if any(state == [3, order, None, None, None, -1, -1, 0] for order in orders):
            return 0
    elif node[0] in ARRAY and len(node) == 4 and isinstance(state, list) and len(state) == 5:
        version, shape, dtype, by_columns, content = state
        item, length = _item_bytes(dtype), _length(content)
        is_valid = version == 1 and isinstance(by_columns, bool) and _is_shape(shape)
        if is_valid and item is not None and length is not None and math.prod(shape) * item == length:
            return length
    raise ValueError(f"it fills {node[0]} with something other than plain numbers")


def _is_shape(shape: Node) -> bool:
    sizes = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
    return sizes and all(type(size) is int and 0 <= size < 2**48 for size in shape)


def _item_bytes(dtype: Node) -> int | None:
    """Return the bytes per element of a complete dtype; None for anything else."""
    if isinstance(dtype, list) and len(dtype) == 5 and isinstance(dtype[0], str) and dtype[0] == DTYPE:
        return ITEM_BYTES.get(dtype[1])
    return None


def _length(content: Node) -> int | None:
    """Return the number of bytes in a bytes object in the pickle; None for anything else."""
    match content:
        case ["_codecs.encode", str(text), "latin1"]:
            return len(text)
        case [str(name)] if name in BYTES:
            return 0
    return None
