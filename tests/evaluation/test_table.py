"""Tables and plots: comparable results are shown together, and only these are ranked."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image
from rich.console import Console

from diffusion_lab.evaluation.command import Evaluation, print_evaluation
from diffusion_lab.evaluation.plot import horizontal_axis, plot_curves
from diffusion_lab.evaluation.report import write_results
from diffusion_lab.evaluation.result import Result, comparable_groups
from diffusion_lab.evaluation.table import print_results, results_text


def row(metric: str, value: float, better: str, features: str = "pixels") -> dict[str, Any]:
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1, "standard_error": 0.05, "method": ""}
    null = {"estimate": {**estimate, "value": 0.02}, "n": 100, "reference_n": 500, "source": "held-out images"}
    null |= {"matched": None, "limit": None}
    base = {"name": f"{metric}_{features}", "metric": metric, "estimate": estimate, "n": 100, "reference_n": 500}
    return {**base, "better": better, "null": null, "limit": None, "classes": {}}


def result(kid: float, precision: float, name: str = "run", n: int = 100, **varying: Any) -> Result:
    conditions = {"num_samples": n, "features": "pixels", "features_fingerprint": "f" * 64, "split": "train"}
    conditions |= {"reference": "training images", "reference_images": 500, "reference_fingerprint": "a" * 64}
    rows = [row("kid", kid, "lower"), row("precision", precision, "higher")]
    samples = {"sampler": "ddim", "steps": 10, "guidance_scale": 1.0, "use_ema": True, "ema_decay": 0.99, "seed": 0}
    measurement = {"rows": rows, "skipped": {"label_agreement": "the samples have no labels"}, "notes": []}
    return Result(name, varying, samples, conditions, {"sampling": 3.0}, measurement, {})


def printed(*results: Result, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_results(results, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_one_result_is_shown_in_full() -> None:
    text = printed(result(0.3, 0.7))
    assert "100 images against 500 training images, features pixels" in text
    assert "run, sampler ddim, steps 10, guidance 1, EMA 0.99, seed 0" in text
    assert "kid_pixels" in text
    assert "0.200 – 0.400" in text
    assert "held-out images (100 against 500)" in text
    assert "Skipped: label_agreement, because the samples have no labels." in text
    assert "Seconds: sampling 3" in text


def test_missing_averages_are_noted() -> None:
    base = result(0.3, 0.7)
    lacking = replace(base, samples={**base.samples, "use_ema": False, "ema_missing": True})
    assert "EMA off: run holds no EMA weights, so the raw weights were used." in printed(lacking)
    assert "holds no EMA" not in printed(base)


def test_unknown_seconds_are_explained() -> None:
    base = result(0.3, 0.7, steps=5)
    unknown = replace(base, name="other", seconds={"sampling": None, "features": 1.0})
    assert "Sampling was interrupted, so its seconds are unknown." in printed(unknown)
    assert "Sampling of other was interrupted, so its seconds are unknown." in printed(base, unknown)
    assert "interrupted" not in printed(base) + printed(replace(base, seconds={"features": 1.0}))


def test_an_unreliable_limit_is_not_ranked() -> None:
    results = [result(0.3, 0.7, steps=steps) for steps in (1, 2)]
    for value, each in zip((1.5, 2.5), results, strict=True):
        limit = {"value": value, "low": None, "high": None, "reliable": value > 2}
        each.measurement["rows"].append({**row("fd", value, "lower"), "limit": limit})
    one, two = (each["fd_infinity"] for each in results)
    assert (one.better, two.better) == (None, "lower")
    assert (results[0]["fd"].better, results[0]["kid"].better) == ("lower", "lower")


def test_repr_of_a_result_is_one_line() -> None:
    assert repr(result(0.3, 0.7)) == "<Result of 'run': kid_pixels=0.300, precision_pixels=0.700>"


def test_a_null_row_without_reference_names_one_number() -> None:
    base = result(0.3, 0.7)
    base.measurement["rows"][0]["null"]["reference_n"] = 0
    assert "real images for kid: held-out images (100)." in printed(base)


def test_the_best_of_each_column_is_marked() -> None:
    text = printed(result(0.3, 0.7, steps=5), result(0.2, 0.6, steps=10))
    (five,) = [line for line in text.splitlines() if line.split()[:1] == ["5"]]
    (ten,) = [line for line in text.splitlines() if line.split()[:1] == ["10"]]
    assert ("0.700*" in five, "0.300*" in five) == (True, False)
    assert ("0.200*" in ten, "0.600*" in ten) == (True, False)
    (real,) = [line for line in text.splitlines() if line.startswith(" real images ")]
    assert real.split()[2:] == ["0.0200", "0.0200"]


def test_metrics_and_notes_of_some_results_name_these_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, labelled = result(0.3, 0.7, name="plain"), result(0.2, 0.6, name="labelled")
    labelled.measurement["rows"].insert(0, row("label_agreement", 0.9, "higher"))
    labelled.measurement["skipped"].clear()
    labelled.measurement["notes"].append("One class is rare.")
    text = printed(plain, labelled)
    (heading,) = [line.split() for line in text.splitlines() if "prec." in line]
    assert heading == ["images", "kid", "prec.", "labels", "seconds"]
    (line,) = [line.split() for line in text.splitlines() if line.startswith(" labelled ")]
    assert line[1:4] == ["0.200*", "0.600", "0.900"]
    assert "Skipped for plain: label_agreement, because the samples have no labels." in text
    assert "labelled: One class is rare." in text
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda self, title, **_: titles.append(title))
    plot_curves([plain, labelled], tmp_path / "curves.png")
    assert titles[-1] == "label_agreement_pixels (higher is better)"


def test_a_note_on_one_result_names_its_settings() -> None:
    results = [result(0.3, 0.7, **{"sampler.steps": steps}) for steps in (5, 10)]
    results[1].measurement["notes"].append("3 samples are copies.")
    assert "run (steps 10): 3 samples are copies." in printed(*results)


def test_the_seed_of_a_generated_folder_is_that_of_its_images() -> None:
    base = result(0.3, 0.7)
    generated = replace(base, samples={**base.samples, "seed": 0, "sampling_seed": 7})
    assert "EMA 0.99, seed 7" in printed(generated)


def test_results_under_other_conditions_are_not_ranked_together(tmp_path: Path) -> None:
    results = [result(0.3, 0.7, steps=5), result(0.2, 0.8, n=200, steps=10)]
    assert [len(group) for group in comparable_groups(results)] == [1, 1]
    text = printed(*results)
    assert "Not in one ranking" in text
    assert "(num samples 100)" in text
    assert "(num samples 200)" in text
    assert "*" not in text
    files = write_results(results, tmp_path)
    assert [file.name for file in files] == ["evaluation.json", "evaluation.txt"]


def test_plots_of_an_earlier_command_are_removed_and_other_files_kept(tmp_path: Path) -> None:
    others = ("curves_of_loss.png", "curves_01.png", "curvesof.png", "my_curves.png", "curves_1.png.txt")
    (tmp_path / "curves.png").touch()
    write_results([result(0.3, 0.7)], tmp_path)
    assert (tmp_path / "curves.png").exists(), "no evaluation had been written there"
    for name in (*others, "curves_1.png", "curves_12.png"):
        (tmp_path / name).touch()
    write_results([result(0.3, 0.7)], tmp_path)
    assert {file.name for file in tmp_path.iterdir() if "curves" in file.name} == set(others)


@pytest.mark.parametrize(
    "change", [{"features_fingerprint": "0" * 64}, {"split": "val"}, {"reference_fingerprint": "b"}]
)
def test_features_split_and_images_are_conditions(change: dict[str, str]) -> None:
    first = result(0.3, 0.7)
    assert len(comparable_groups([first, replace(first, conditions={**first.conditions, **change})])) == 2


def test_the_text_file_has_tables_by_class() -> None:
    base = result(0.3, 0.7)
    null = {"value": 0.95, "low": 0.8, "high": 1.0, "n": 30, "reference_n": 90, "matched": None}
    base.measurement["rows"][1]["classes"] = {
        "rose": {"value": 0.9, "n": 60, "null": null},
        "tulip": {"value": 0.5, "n": 40, "null": None},
    }
    text = results_text([base])
    assert re.search(r"rose +60 +0\.900 \(0\.950\)", text)
    assert re.search(r"tulip +40 +0\.500 *\n", text)
    assert "n: samples of the class; in parentheses: real images of the class in their place." in text
    assert "If there are fewer real images" not in text
    null["matched"] = 0.91
    assert "If there are fewer real images or a smaller reference, matched values are" in results_text([base])
    assert "rose" not in printed(base)


def test_a_narrow_console_gets_several_tables() -> None:
    text = printed(result(0.3, 0.7, steps=5), result(0.2, 0.6, steps=10), width=34)
    assert "…" not in text.partition("real images:")[0]
    assert text.count(" real images ") == 2


def test_tables_in_a_pipe_fit_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    metrics = ("fd", "kid", "is", "precision", "recall", "density", "coverage", "label_agreement", "memorization")
    results = [result(0.3, 0.7, name="run of 2026-01-01_10-00-00", steps=steps, guidance_scale=1.5) for steps in (1, 2)]
    for each in results:
        each.measurement["rows"][:] = [row(metric, 0.12345, "lower", "efflite0@96") for metric in metrics]
    for shown in (results[:1], results):
        print_evaluation(Evaluation(tuple(shown), ()))
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text


def test_names_of_files_are_escaped_for_the_terminal() -> None:
    text = printed(result(0.3, 0.7, name="a\x1b[2Jb"), result(0.2, 0.6, name="c"))
    assert "\x1b" not in text
    assert "\\x1b[2J" in text


@pytest.mark.parametrize("null", [1.0, 0.5])
def test_the_label_of_real_images_stays_inside_the_panel(
    null: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[Any] = []
    annotate = Axes.annotate
    monkeypatch.setattr(Axes, "annotate", lambda *args, **kw: labels.append(annotate(*args, **kw)) or labels[-1])
    results = [result(0.3, precision, steps=steps) for steps, precision in ((5, 0.95), (10, 0.97))]
    for each in results:
        each.measurement["rows"][1]["null"]["estimate"]["value"] = null
    plot_curves(results, tmp_path / "curves.png")
    label = labels[1]
    box, panel = label.get_window_extent(), label.axes.get_window_extent()
    assert panel.y0 < box.y0 < box.y1 < panel.y1


@pytest.mark.parametrize(
    ("results", "axis"),
    [
        ([result(0.3, 0.7, steps=5, guidance=1.0), result(0.2, 0.6, steps=10, guidance=1.0)], "steps"),
        ([result(0.3, 0.7, **{"generation.checkpoint": name}) for name in ("a", "b")], "generation.checkpoint"),
        ([result(0.3, 0.7, use_ema=value) for value in (True, False)], "use_ema"),
    ],
)
def test_the_horizontal_axis_is_the_setting_with_the_most_values(
    results: list[Result], axis: str, tmp_path: Path
) -> None:
    assert horizontal_axis(results) == axis
    plot_curves(results, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as plot:
        plot.load()
        assert plot.format == "PNG"
