"""The page: one file that loads nothing, with names from files as text, and every image once."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diffusion_lab.reports.build import Report
from diffusion_lab.reports.images import ImageStore
from diffusion_lab.reports.page_file import PARTS
from tests.reports.synthetic_runs import picture, settings, write_evaluation, write_run

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=hacked=1>\u2028&amp;'\"`${1}"


class Parser(html.parser.HTMLParser):
    """Collects the elements of a page, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.in_script = False

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1] += data


def parsed(file: Path) -> Parser:
    parser = Parser()
    parser.feed(file.read_text(encoding="utf-8"))
    return parser


def content_of(file: Path):
    parser = parsed(file)
    scripts = [attributes for tag, attributes in parser.elements if tag == "script"]
    (index,) = (number for number, attributes in enumerate(scripts) if attributes.get("id") == "content")
    return json.loads(parser.scripts[index])


def report(*targets: Path) -> Path:
    page = Report(targets, targets[0].parent / "page.html")
    page.write()
    return page.file


def test_names_from_files_stay_text(tmp_path):
    name = HOSTILE.replace("/", "⁄")  # the only character that a file name cannot have
    tree = settings() | {"experiment": HOSTILE, HOSTILE: HOSTILE}
    folder = write_run(tmp_path / name, tree, extra={f"val/{HOSTILE}": 1.0}, command=("train.py", HOSTILE))
    (folder / "logs" / "run.log").write_text(HOSTILE)
    (folder / "status.json").write_text(json.dumps({"state": HOSTILE, "why": HOSTILE}))
    write_evaluation(folder)
    file = report(folder)
    parser = parsed(file)
    kinds = [(attributes.get("type"), attributes.get("id")) for tag, attributes in parser.elements if tag == "script"]
    images = [("text/plain", f"image-{number}") for number in range(3)]
    assert kinds == [("application/json", "content"), (None, None), (None, None), *images]
    assert not any(tag == "img" for tag, _ in parser.elements)
    (run,) = content_of(file)["runs"]
    assert run["state"] == HOSTILE
    assert run["log"] == HOSTILE.splitlines()


def test_the_page_loads_nothing(tmp_path):
    file = report(write_run(tmp_path / "run"))
    parser = parsed(file)
    for tag, attributes in parser.elements:
        assert not attributes.keys() & {"src", "srcset"}, tag
        assert attributes.get("href") in (None, "#main", "data:,")
    policy = next(attributes["content"] for _, attributes in parser.elements if attributes.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "url(" not in (PARTS / "report.css").read_text()


def test_only_the_own_scripts_are_allowed(tmp_path):
    parser = parsed(report(write_run(tmp_path / "run")))
    policy = next(str(attributes["content"]) for _, attributes in parser.elements if attributes.get("http-equiv"))
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    scripts = [text for text in parser.scripts if text.startswith(("\n", "/*!"))]
    assert hashes == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]


def stored_images(file: Path) -> list[str | None]:
    ids = [attributes.get("id") for _, attributes in parsed(file).elements]
    return [name for name in ids if name is not None and name.startswith("image")]


def test_a_page_that_is_written_again_drops_images_no_longer_shown(tmp_path):
    folder = write_run(tmp_path / "run", pictures=2)
    page = Report([folder], tmp_path / "page.html")
    page.write(watch=1)
    assert stored_images(page.file) == ["image-0", "image-1"]
    picture(3).save(folder / "samples" / "epoch_0001.png")
    page.write(watch=1)
    assert stored_images(page.file) == ["image-1", "image-2"]
    (run,) = content_of(page.file)["runs"]
    assert [shown["image"] for shown in run["pictures"]] == [2, 1]


def test_equal_images_are_stored_once(tmp_path):
    first = write_run(tmp_path / "a", pictures=2)
    second = write_run(tmp_path / "b", pictures=2)
    file = report(first, second)
    assert stored_images(file) == ["image-0", "image-1"]
    numbers = [[shown["image"] for shown in run["pictures"]] for run in content_of(file)["runs"]]
    assert numbers == [[0, 1], [0, 1]]


def test_evaluations_of_sweeps_belong_to_their_own_jobs(tmp_path):
    for sweep, value in (("a", 1.5), ("b", 2.5), ("c", None)):
        write_run(tmp_path / sweep / "job-1", pictures=0)
        if value is not None:
            write_evaluation(tmp_path / sweep, "job-1/step_00000080.ckpt", value)
    named = [tmp_path / "a", tmp_path / "b" / "job-1", tmp_path / "c"]
    for targets in ([tmp_path], named):
        runs = content_of(report(*targets))["runs"]
        assert [[row["value"][0] for row in run["quality"]] for run in runs] == [[1.5], [2.5], []]


class TestImages:
    def test_large_images_are_shrunk(self, tmp_path):
        picture(1, (800, 400)).save(tmp_path / "large.png")
        store = ImageStore(most_pixels=200)
        assert store.add_all([tmp_path / "large.png"]) == {tmp_path / "large.png": 0}
        (image,) = store.images
        assert (image.width, image.height, image.mime) == (200, 100, "image/webp")
        assert len(image.content) < (tmp_path / "large.png").stat().st_size / 4

    def test_transparency_is_kept(self, tmp_path):
        Image.new("RGBA", (300, 300), (255, 0, 0, 0)).save(tmp_path / "clear.png")
        store = ImageStore(most_pixels=100)
        store.add_all([tmp_path / "clear.png"])
        import io

        with Image.open(io.BytesIO(base64.b64decode(store.images[0].content))) as image:
            assert image.mode == "RGBA"

    def test_unchanged_files_are_not_decoded_again(self, tmp_path, monkeypatch):
        picture(1).save(tmp_path / "image.png")
        store = ImageStore()
        first = store.add_all([tmp_path / "image.png"])
        monkeypatch.setattr(ImageStore, "_read", None)
        assert store.add_all([tmp_path / "image.png"]) == first

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text", b"GIF89a"])
    def test_a_damaged_image_is_a_note(self, tmp_path, content):
        folder = write_run(tmp_path / "run", pictures=2)
        (folder / "samples" / "epoch_0002.png").write_bytes(content)
        (run,) = content_of(report(folder))["runs"]
        assert [shown["epoch"] for shown in run["pictures"]] == [1]
        (note,) = run["notes"]
        assert note.startswith("epoch_0002.png cannot be shown: ")

    def test_half_an_image_is_a_note(self, tmp_path):
        folder = write_run(tmp_path / "run", pictures=1)
        file = folder / "samples" / "epoch_0001.png"
        file.write_bytes(file.read_bytes()[:-500])
        (run,) = content_of(report(folder))["runs"]
        assert run["pictures"] == []
        assert len(run["notes"]) == 1


def test_runs_without_settings_and_metrics_have_a_page(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "status.json").write_text('{"state": "running"}')
    other = write_run(tmp_path / "other")
    assert [run["name"] for run in content_of(report(tmp_path / "empty", other))["runs"]] == ["empty", "other"]
    assert content_of(report(tmp_path / "empty"))["charts"] == []


def test_the_content_has_no_nan(tmp_path):
    folder = write_run(tmp_path / "run")
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(
        json.dumps(summary | {"best_value": float("nan"), "images_per_second": float("inf")})
    )
    (run,) = content_of(report(folder))["runs"]
    assert math.isfinite(run["best"]["value"])  # that of the curve
    assert "images_per_second" not in run["facts"] or math.isfinite(run["facts"]["images_per_second"])


def test_a_report_needs_no_torch(tmp_path):
    write_run(tmp_path / "run")
    code = (
        "import sys; from diffusion_lab.commands.report import main; "
        f"assert main([{str(tmp_path / 'run')!r}]) == 0; assert not {{'torch', 'lightning'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_scripts_are_valid():
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    check = (
        "const [fs, vm] = ['fs', 'vm'].map(require);"
        "for (const file of process.argv.slice(1)) new vm.Script(fs.readFileSync(file))"
    )
    subprocess.run([node, "-e", check, *map(str, sorted(PARTS.glob("*.js")))], check=True, capture_output=True)
