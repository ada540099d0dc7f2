"""The HTML page: everything in one file, which loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from diffusion_lab.files.writing import atomic_write
from diffusion_lab.reports.images import ImageStore

PARTS = Path(__file__).resolve().parent / "page"
"""Folder of the template, the style, the scripts and the library of the charts."""

CHARTS = "echarts.min.js"
SCRIPTS = ("base.js", "images.js", "charts.js", "run.js", "table.js", "compare.js", "main.js")
"""Own scripts, in the order in which they use each other."""

PICTURES = ("pictures", "nearest", "sampled")
"""Keys of a run under which the content names images."""


def write_page(file: Path, content: Mapping[str, Any], images: ImageStore) -> None:
    """Write the page, replacing an earlier one atomically.

    Args:
        file: The HTML file.
        content: What ``payload`` returned.
        images: The images that it names; others of an earlier version of the page are left out.

    Raises:
        OSError: It cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file, durable=False) as partial, partial.open("w", encoding="utf-8") as out:
        out.writelines(page_parts(content, images))


def page_parts(content: Mapping[str, Any], images: ImageStore) -> Iterator[str]:
    """Yield the page in parts; the images come last, so that the rest is shown before they are read."""
    charts, script = _part(CHARTS), "\n" + "\n".join(_part(name) for name in SCRIPTS)
    before, after = _part("report.html").split("$images")
    yield Template(before).substitute(
        allowed=" ".join(map(_source, (charts, script))),
        title=html.escape(str(content["title"])),
        style=_part("report.css"),
        content=script_json(content),
        charts=charts,
        script=script,
    )
    for number in _shown_images(content):
        image = images.images[number]
        yield f'<script type="text/plain" id="image-{number}" data-mime="{image.mime}">{image.content}</script>\n'
    yield after


def _shown_images(content: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the images that any run shows, ascending."""
    shown = (entry for run in content["runs"] for part in PICTURES for entry in run[part])
    return sorted({entry["image"] for entry in shown})


def _source(script: str) -> str:
    """Return the name of a script in the page's content security policy, which allows no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def script_json(value: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it ends the element or starts a comment.

    >>> script_json({"name": "</script><!--"})
    '{"name":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    escaped = re.sub(r"[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates in names of files


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")
