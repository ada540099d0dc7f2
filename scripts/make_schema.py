"""Write schema/, the JSON Schema with which editors check and complete conf/ and V2 files (`make schema`)."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.editor_schema import schema_files

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "schema"


def contents() -> dict[Path, str]:
    """Return the content of each file."""
    return {
        FOLDER / name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n"
        for name, schema in schema_files(ROOT / "conf").items()
    }


def main() -> None:
    """Write the files and remove obsolete ones."""
    files = contents()
    for path in FOLDER.rglob("*.schema.json"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(files)} files in {FOLDER.relative_to(ROOT)}/")


if __name__ == "__main__":
    main()
