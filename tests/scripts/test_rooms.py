"""The picture of the rooms shows the package as it is, apart from the numbers of lines."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from scripts.draw_rooms import PICTURE, picture, rooms_of
from scripts.layers import HEIGHT, project_files


def without_counts(drawn: str) -> str:
    return re.sub(r'(class="count"[^>]*>)[\d,]+', r"\1", drawn)


def test_the_picture_is_current() -> None:
    """Run `make docs` after adding, moving or describing a room."""
    drawn = picture(rooms_of(project_files()))
    assert without_counts(PICTURE.read_text(encoding="utf-8")) == without_counts(drawn)


def test_every_room_has_a_layer_and_a_description() -> None:
    rooms = rooms_of(project_files())
    del rooms["__init__"]  # the package itself
    assert rooms.keys() == HEIGHT.keys()
    assert all(room.description for room in rooms.values())


def test_lines_and_libraries_are_read_from_the_source() -> None:
    sources = {
        "shapes.py": '"""Array types of ``torch``. More."""\nimport torch\n',
        "data/__init__.py": '"""Images\nof a run.\n\nMore."""\n',
        "data/loader.py": "def late():\n    import lightning.pytorch\n",
        "faults.py": '"""Faults."""\nif TYPE_CHECKING:\n    import torch\n',
    }
    rooms = rooms_of(sources)
    assert {name: (room.label, room.description, room.lines, room.kind) for name, room in rooms.items()} == {
        "shapes": ("shapes.py", "Array types of torch", 2, "PyTorch"),
        "data": ("data/", "Images of a run", 6, "Lightning"),
        "faults": ("faults.py", "Faults", 3, "none of these"),
    }


def test_the_picture_is_well_formed() -> None:
    root = ElementTree.fromstring(PICTURE.read_text(encoding="utf-8"))
    names = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text") if text.get("class") == "name"]
    assert sorted(name.rstrip("/").removesuffix(".py") for name in names) == sorted(HEIGHT)
