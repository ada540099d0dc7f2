"""Draw docs/rooms.svg, the rooms of the package by layer, from the source (`make docs`)."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap

from scripts.layers import FLOORS, PACKAGE, ROOT, Import, imports_of, project_files, room_of

PICTURE = ROOT / "docs" / "rooms.svg"

WIDTH, LEFT, GAP = 1000, 132, 8  # pixels: of the picture, of the column with the floors' names, between boxes
NAME, TEXT, CHARACTER = 14, 12.5, 6.3  # font sizes, and the average width of a character of the descriptions
NAME_COLUMN, COUNT_COLUMN = 118, 30  # widths inside a box that fills a line
LINE, PADDING = 17, 10  # height of a line of text, and the space around it
FLOOR_GAP = 20

KINDS = {
    "Lightning": ("lightning", "#fbe3d6", "#c8591a"),
    "Hydra": ("hydra", "#fdf0c4", "#a67c00"),
    "PyTorch": ("torch", "#dfeafa", "#3b6fb6"),
    "none of these": ("", "#eceff1", "#6b7785"),
}
"""Groups of rooms by the libraries they import: the first that fits, with the colours of its boxes and borders."""

INK, FAINT, OUTSIDE = "#1b1f24", "#57606a", "#7a828c"  # in boxes; counts in boxes; outside, on a light or dark page


@dataclass(frozen=True)
class Room:
    """Folder or module directly inside the package.

    Args:
        name: Its name as it is imported.
        label: Its name in the picture.
        description: First sentence of its docstring.
        lines: Lines of its Python files.
        kind: Name of its group in KINDS.
    """

    name: str
    label: str
    description: str
    lines: int
    kind: str


def rooms_of(sources: Mapping[str, str]) -> dict[str, Room]:
    """Return the rooms by name.

    Args:
        sources: Text of each file by its path inside the package.
    """
    imports = imports_of(sources)
    rooms = {}
    for name in dict.fromkeys(Path(file).with_suffix("").parts[0] for file in sources):
        files = {file: text for file, text in sources.items() if Path(file).with_suffix("").parts[0] == name}
        is_folder = f"{name}.py" not in files
        text = files[f"{name}/__init__.py" if is_folder else f"{name}.py"]
        label = f"{name}/" if is_folder else f"{name}.py"
        lines = sum(text.count("\n") for text in files.values())
        rooms[name] = Room(name, label, _first_sentence(text), lines, _kind(name, imports))
    return rooms


def _first_sentence(text: str) -> str:
    """Return the first sentence of a module's docstring as plain text."""
    paragraph = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].replace("``", "")
    return " ".join(paragraph.split()).partition(". ")[0].rstrip(".")


def _kind(name: str, imports: Mapping[str, Sequence[Import]]) -> str:
    libraries = {
        imported.library
        for module, imported_modules in imports.items()
        if room_of(module) == name
        for imported in imported_modules
        if not imported.for_types_only
    }
    return next(kind for kind, (library, *_) in KINDS.items() if library in libraries or not library)


def picture(rooms: Mapping[str, Room]) -> str:
    """Return the picture as SVG, the top layer first."""
    shapes: list[str] = []
    top = _legend(shapes)
    for floor, layers in reversed(FLOORS.items()):
        begin = top
        for layer in reversed(layers):
            top += _row(shapes, [rooms[name] for name in layer], top) + GAP
        end = top - GAP
        shapes.append(f'<path d="M{LEFT - 14} {begin}V{end}" stroke="{OUTSIDE}" stroke-width="2"/>')
        words = wrap(floor, 14)
        first = (begin + end) / 2 - LINE * (len(words) - 1) / 2 + 4
        shapes += [_text(0, first + LINE * number, word, "floor") for number, word in enumerate(words)]
        top += FLOOR_GAP
    height = top - FLOOR_GAP
    return "\n".join([_head(height), *shapes, "</svg>", ""])


def _legend(shapes: list[str]) -> int:
    """Draw what the picture shows, and return where the rooms begin."""
    note = "Each room imports only from the lines below its own. The number: lines of code. The colour: it imports"
    shapes.append(_text(LEFT, 16, note, "note"))
    x = LEFT
    for kind, (_, fill, border) in KINDS.items():
        shapes.append(f'<rect x="{x}" y="27" width="14" height="14" rx="3" fill="{fill}" stroke="{border}"/>')
        shapes.append(_text(x + 21, 38.5, kind, "note"))
        x += 120
    return 58


def _row(shapes: list[str], rooms: Sequence[Room], top: float) -> int:
    """Draw the rooms of a layer side by side, and return the height of their row."""
    width = (WIDTH - LEFT - GAP * (len(rooms) - 1)) / len(rooms)
    is_alone = len(rooms) == 1
    room_for_text = width - 2 * PADDING - (NAME_COLUMN + COUNT_COLUMN if is_alone else 0)
    descriptions = [wrap(room.description, int(room_for_text / CHARACTER)) for room in rooms]
    text_lines = max(map(len, descriptions)) + (not is_alone)
    height = text_lines * LINE + 2 * PADDING - 4
    for number, (room, description) in enumerate(zip(rooms, descriptions, strict=True)):
        x = LEFT + number * (width + GAP)
        _, fill, border = KINDS[room.kind]
        shapes.append(
            f'<rect x="{x:g}" y="{top:g}" width="{width:g}" height="{height}" rx="6" fill="{fill}" stroke="{border}"/>'
        )
        first = top + PADDING + 10
        shapes.append(_text(x + PADDING, first, room.label, "name"))
        shapes.append(_text(x + width - PADDING, first, f"{room.lines:,}", "count"))
        indent, below = (NAME_COLUMN, 0) if is_alone else (0, LINE)
        for line, words in enumerate(description):
            shapes.append(_text(x + PADDING + indent, first + below + line * LINE, words, "text"))
    return height


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _head(height: float) -> str:
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 1} {height + 1:g}" fill="none">
<title>The rooms of {PACKAGE}, by layer</title>
<style>
text {{ font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; font-size: {TEXT}px; }}
.name {{ font-family: ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; font-size: {NAME}px;
  font-weight: 600; fill: {INK}; }}
.text {{ fill: {INK}; }}
.count {{ fill: {FAINT}; font-size: 11px; text-anchor: end; }}
.floor {{ fill: {OUTSIDE}; font-weight: 600; font-size: 13px; }}
.note {{ fill: {OUTSIDE}; }}
</style>"""


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(picture(rooms_of(project_files())), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
