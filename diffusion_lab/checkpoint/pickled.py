"""Inspecting the pickle inside a checkpoint before it is loaded.

``torch.load(weights_only=True)`` runs no foreign code, but a few kilobytes can still make it allocate terabytes, hash
for years, or read beyond a storage. This module follows the instructions of the pickle without creating its objects.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable, Mapping
from typing import Any

from diffusion_lab.checkpoint.pickled_numbers import NUMBER_CALLS, check_call, check_filling

ITEM_BYTES = {
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage", "UntypedStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
"""Bytes per element of each kind of storage."""

CALLABLE = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch.Size",
    "torch.device",
    "_codecs.encode",
    "builtins.set",
    "__builtin__.set",
    *NUMBER_CALLS,
}
"""Functions that a checkpoint may call: they create containers, tensors and NumPy numbers from bytes in the file."""

MAX_VALUES, MAX_DEPTH = 5_000_000, 100
"""Maximum values in a checkpoint, each counted once per reference, and maximum nesting levels of containers."""

MAX_PICKLE_BYTES = 2**28

Node = Any
"""A leaf as in the pickle, or the list of the parts of a container or call."""


CONTAINERS = (list, tuple, dict, set)


class Global(str):
    """The dotted name of a class or function."""

    __slots__ = ()


class Storage(str):
    """The key of a storage."""

    __slots__ = ()


class ForeignObjectError(ValueError):
    """Raised for a value of a class that is not created from a file, since that may run code."""


MARK = object()

LEAVES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NEW_CONTAINERS = ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET")
CONSTANTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def check_pickle(content: bytes, records: Mapping[str, int]) -> None:
    """Follow a pickle's instructions, and refuse anything that no legitimate checkpoint contains.

    Args:
        content: The pickle.
        records: Size in bytes of each storage in the file, by its key.

    Raises:
        ValueError: It is not a valid pickle, calls something that creates neither containers nor tensors, refers to
            itself or to shared values without end, uses containers as keys, or declares storages larger than they are.
    """
    check_expansion(_Reader(records).read(content))


def check_expansion(root: Node, most: int = MAX_VALUES) -> None:
    """Refuse nested values that are small in memory but take forever to traverse.

    Args:
        root: Nested lists, tuples and dicts.
        most: Maximum number of values with all repeats expanded.

    Raises:
        ValueError: There are more than ``most``, more than ``MAX_DEPTH`` levels, or a container contains itself.
    """
    sizes: dict[int, tuple[int, int]] = {}  # for finished containers: values with repeats, levels
    open_: set[int] = set()
    waiting: list[tuple[Node, bool]] = [(root, False)] if isinstance(root, CONTAINERS) else []
    while waiting:
        node, seen = waiting.pop()
        if id(node) in sizes:
            continue
        children = [child for child in _children(node) if isinstance(child, CONTAINERS)]
        if not seen:
            if id(node) in open_:
                raise ValueError("it contains itself")
            open_.add(id(node))
            waiting.append((node, True))
            waiting.extend((child, False) for child in children if id(child) not in sizes)
            continue
        open_.discard(id(node))
        below = [sizes[id(child)] for child in children]
        total = 1 + len(node) * (2 if isinstance(node, dict) else 1) + sum(size for size, _ in below)
        levels = 1 + max((depth for _, depth in below), default=0)
        if total > most or levels > MAX_DEPTH:
            raise ValueError(
                f"it holds more than {most} values, shared ones counted each time, or more than {MAX_DEPTH} levels"
            )
        sizes[id(node)] = total, levels


def _children(node: Node) -> Iterable[Node]:
    return [*node.keys(), *node.values()] if isinstance(node, dict) else node


class _Reader:
    """Stack machine like the unpickler's, whose objects are lists of their parts."""

    def __init__(self, records: Mapping[str, int]) -> None:
        self.records = records
        self.stack: list[Node] = []
        self.memo: dict[int, Node] = {}
        self.bytes_left = 0

    def read(self, content: bytes) -> Node:
        self.bytes_left = len(content)
        try:
            for opcode, argument, _ in pickletools.genops(content):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._follow(opcode.name, argument)
        except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError("its description of the content is damaged") from error
        raise ValueError("its description of the content is truncated")

    def _follow(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in CONSTANTS:
            stack.append(argument)
        elif name in LEAVES:
            stack.append(LEAVES[name])
        elif name in NEW_CONTAINERS:
            stack.append([])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MARK":
            stack.append(MARK)
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [stack[-count:]]
        elif name == "TUPLE":
            stack.append(self._since_mark())
        elif name == "GLOBAL":
            stack.append(Global(argument.replace(" ", ".", 1)))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack.append(_called(stack.pop(), arguments))
        elif name != "PROTO":
            self._fill(name)

    def _fill(self, name: str) -> None:
        """Put values into the container below them on the stack."""
        if name == "SETITEMS":
            items = self._since_mark()
            _check_keys(items[::2])
        elif name == "SETITEM":
            items = [self.stack.pop(-2), self.stack.pop()]
            _check_keys(items[:1])
        elif name == "APPENDS":
            items = self._since_mark()
        elif name in ("APPEND", "BUILD"):
            items = [self.stack.pop()]
        else:
            raise ValueError(f"it uses the instruction {name}, which no checkpoint needs")
        target = self.stack[-1]
        if target and isinstance(target[0], Global) and target[0] in NUMBER_CALLS:
            if name != "BUILD":
                raise ValueError(f"it fills {target[0]} with something other than plain numbers")
            self.bytes_left -= check_filling(target, items[0])
            if self.bytes_left < 0:
                raise ValueError("its arrays share their bytes")
        target.extend(items)

    def _since_mark(self) -> list[Node]:
        mark = len(self.stack) - 1
        while self.stack[mark] is not MARK:
            mark -= 1
            if mark < 0:
                raise IndexError
        items = self.stack[mark + 1 :]
        del self.stack[mark:]
        return items

    def _storage(self, declared: Node) -> Storage:
        kind, type_, key, _, count = declared
        item = ITEM_BYTES.get(str(type_).removeprefix("torch.").removeprefix("storage."))
        known = isinstance(type_, Global) and isinstance(key, str) and isinstance(count, int)
        if kind != "storage" or item is None or not known:
            raise ValueError(f"it declares a storage of an unknown kind, {type_}")
        if self.records.get(key) != count * item:
            raise ValueError(f"it declares {count * item} bytes for storage {key}, which has {self.records.get(key)}")
        return Storage(key)


def _called(function: Node, arguments: Node) -> list[Node]:
    if not isinstance(function, Global) or function not in CALLABLE or not isinstance(arguments, list):
        raise ForeignObjectError(f"it calls {function if isinstance(function, Global) else 'something'}")
    if function.endswith("set"):
        _check_keys(arguments[0] if arguments else [])
    if function == "_codecs.encode" and arguments[1:] != ["latin1"]:
        raise ValueError("it calls _codecs.encode")
    if function in NUMBER_CALLS:
        check_call(function, arguments)
    return [function, *arguments]


def _check_keys(keys: Iterable[Node]) -> None:
    """Refuse containers as keys: hashing nested tuples with shared parts takes exponential time."""
    if any(isinstance(key, list) for key in keys):
        raise ValueError("it has containers as keys")
