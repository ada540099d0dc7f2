"""Checkpoints of other programs, and every contradiction in them."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab import EMA
from diffusion_lab.checkpoint import load_denoiser, read_checkpoint
from diffusion_lab.commands.checkpoint import main
from tests.checkpoint.contents import AVERAGED, RAW, same, settings, tree, under
from tests.checkpoint.hostile import WRONG, places, replaced

BARE = AVERAGED.network.state_dict()


def of_ema() -> dict[str, Any]:
    ema = EMA(RAW, decay=0.99, further_decays=[0.9])
    ema.load_state_dict(AVERAGED.state_dict())
    return ema.state_dict()


LAYOUTS: dict[str, Any] = {
    "our EMA's own": of_ema(),
    "a model state dict": AVERAGED.state_dict(),
    "a shadow dict": dict(BARE),
    "a shadow dict with decay and count": {**BARE, "decay": 0.9999, "num_updates": 70},
    "nested": {"decay": torch.tensor(0.9999), "shadow": AVERAGED.state_dict(), "num_updates": torch.tensor(70)},
    "nested in shadow_params": {"decay": 0.9999, "shadow_params": AVERAGED.state_dict(), "collected_params": None},
    "a list": {"decay": 0.9999, "num_updates": 70, "shadow_params": list(BARE.values()), "collected_params": None},
    "of a wrapped model": under("module._orig_mod.denoiser.network.", BARE),
    "of a wrapped network": under("network.module.", BARE),
}


def content(ema: Any = None, **more: Any) -> dict[str, Any]:
    whole = {"model_state_dict": RAW.state_dict(), "ema_state_dict": ema, "num_classes": 2, "epoch": 3}
    return {**whole, "optimizer_state_dict": {}, "loss": 0.5, **more}


def without_conditioning() -> dict[str, Any]:
    model = tree()
    del model["conditioning"]
    return model


def conditioned(**conditioning: Any) -> dict[str, Any]:
    return {**tree(), "conditioning": conditioning}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_averages_are_found_in_all_layouts(saved, layout) -> None:
    path = saved(content(LAYOUTS[layout]), "old.pt")
    denoiser = load_denoiser(path, model=without_conditioning())
    assert same(denoiser, AVERAGED)
    assert (denoiser.weights, denoiser.num_classes) == ("ema", 2)
    assert same(load_denoiser(path, use_ema=False, model=without_conditioning()), RAW)


@pytest.mark.parametrize(
    "prefix", ["", "network.", "module.", "_orig_mod.", "denoiser.", "denoiser.network._orig_mod."]
)
def test_weights_are_found_under_any_wrapper(saved, prefix) -> None:
    path = saved(content(model_state_dict=under(prefix, RAW.network.state_dict())), "old.pt")
    assert same(load_denoiser(path, use_ema=False, model=settings()), RAW)


def test_decay_in_the_file_can_be_chosen(saved) -> None:
    path = saved(content(LAYOUTS["nested"]), "old.pt")
    assert read_checkpoint(path).decays == [0.9999]
    assert same(load_denoiser(path, model=settings(), ema_decay=0.9999), AVERAGED)


@pytest.mark.parametrize(
    ("ema", "fault"),
    [
        ("text", "is of type str, not a dict"),
        (5, "is of type int"),
        ({"decay": 0.9}, "holds no weights"),
        ({"shadow": {}}, "holds no weights"),
        ({"a": torch.zeros(1)}, "does not belong to the weights next to it: it has network.a, which they lack"),
        ({**BARE, "hook": "x"}, "something other than weights, 'hook' of type str"),
        ({name: torch.zeros(7) for name in BARE}, "in another shape"),
        ({name: BARE[name] for name in list(BARE)[1:]}, "lacks network.embed_time"),
        ({"shadow_params": list(BARE.values())[1:]}, "is a list of"),
    ],
)
def test_invalid_average_is_reported_and_raw_weights_still_load(saved, ema, fault) -> None:
    path = saved(content(ema), "old.pt")
    with pytest.raises(
        ValueError, match=rf"old\.pt cannot be sampled with averaged weights: its ema_state_dict .*{fault}"
    ):
        load_denoiser(path, model=settings())
    assert same(load_denoiser(path, use_ema=False, model=settings()), RAW)


@pytest.mark.parametrize("ema", [None, {}], ids=str)
def test_missing_average_is_a_warning(saved, ema) -> None:
    path = saved(content(ema), "old.pt")
    with pytest.warns(UserWarning, match="holds no EMA weights"):
        assert load_denoiser(path, model=settings()).weights == "raw"


class TestClasses:
    """File, weights and settings; the weights are those of a model of two classes."""

    def test_file_against_weights(self, saved) -> None:
        for num_classes, words in ((3, "3"), (None, "None")):
            path = saved(content(num_classes=num_classes), "old.pt")
            with pytest.raises(
                ValueError, match=rf"contradicts itself: its num_classes is {words}, .* model of 2 classes"
            ):
                load_denoiser(path, use_ema=False, model=settings())

    def test_file_against_settings(self, saved) -> None:
        path = saved(content(), "old.pt")
        with pytest.raises(
            ValueError, match=r"model\.conditioning\.num_classes must be 2.*by its num_classes, 2, .* got 3"
        ):
            load_denoiser(path, use_ema=False, model=conditioned(type="class", num_classes=3))

    def test_settings_against_weights(self, saved) -> None:
        path = saved({"model_state_dict": RAW.state_dict()}, "old.pt")
        with pytest.raises(ValueError, match=r"num_classes must be 2, or left out: the weights in .* are .* got 3"):
            load_denoiser(path, use_ema=False, model=conditioned(type="class", num_classes=3))
        with pytest.raises(ValueError, match=r"num_classes must be 2, .* got 3"):
            load_denoiser(path, use_ema=False, model=conditioned(num_classes=3))

    def test_an_unconditional_model(self, saved) -> None:
        weights = {name: weight for name, weight in RAW.state_dict().items() if "embed_label" not in name}
        path = saved({"model_state_dict": weights, "num_classes": None}, "old.pt")
        assert load_denoiser(path, use_ema=False, model=without_conditioning()).num_classes is None
        with pytest.raises(ValueError, match=r"model\.conditioning\.type must be null .* got 'class'"):
            load_denoiser(path, use_ema=False, model=conditioned(type="class", num_classes=2))

    @pytest.mark.parametrize(
        "given",
        [{}, {"type": "class"}, {"type": None}, {"type": None, "num_classes": None}, {"num_classes": 2}],
        ids=str,
    )
    @pytest.mark.parametrize("in_file", [True, False])
    def test_missing_values_are_filled_in(self, saved, given, in_file) -> None:
        whole = content()
        if not in_file:
            del whole["num_classes"]
        denoiser = load_denoiser(saved(whole, "old.pt"), use_ema=False, model=conditioned(**given))
        assert denoiser.num_classes == 2

    @pytest.mark.parametrize(
        "classes", [0, -1, 1.5, "2", True, [2], torch.tensor(2), 1 << 2000], ids=lambda value: type(value).__name__
    )
    def test_invalid_number_of_classes_is_refused(self, saved, classes) -> None:
        with pytest.raises(
            ValueError, match=r"old\.pt has num_classes .* must be an integer from 1 to 1,000,000,000, or None"
        ):
            load_denoiser(saved(content(num_classes=classes), "old.pt"), model=settings())


def test_a_model_section_with_faults_is_listed_by_key(saved) -> None:
    model = without_conditioning()
    model["architecture"]["image_size"] = -8
    model["diffusion"]["betas"] = 1
    with pytest.raises(ValueError, match=r"model\.architecture\.image_size = -8") as caught:
        load_denoiser(saved(content(), "old.pt"), model=model)
    assert "model.diffusion.betas" in str(caught.value)


def test_argument_that_is_not_a_model_section_is_refused(saved) -> None:
    path = saved(content(), "old.pt")
    with pytest.raises(ValueError, match=r"model must be the section model .* take settings\['model'\]"):
        load_denoiser(path, model={"model": tree()})
    with pytest.raises(TypeError, match="model must be the section model of the settings, as a dict, got str"):
        load_denoiser(path, model="unet_small")


@pytest.mark.parametrize("layout", ["a shadow dict", "nested", "a list", "our EMA's own"])
def test_any_field_of_a_wrong_type_is_one_error(saved, layout) -> None:
    """The error names the file, and the raw weights load even if the average does not."""
    whole = content(copy.copy(LAYOUTS[layout]))
    draw, found = random.Random(layout), list(places(whole))
    shallow = [place for place in found if len(place) == 1]
    for number in range(20):
        place = draw.choice(shallow if number % 2 else found)
        path = saved(replaced(whole, place, WRONG[draw.choice(list(WRONG))]), "hostile.pt")
        averaged, raw = (refusal(path, use_ema) for use_ema in (True, False))
        assert averaged is None or "hostile.pt" in averaged
        unreadable = raw is not None and ("not a checkpoint" in raw or "tensor" in raw)
        assert raw is None or unreadable or place[0] in ("model_state_dict", "num_classes"), raw


def refusal(path: Path, use_ema: bool) -> str | None:
    """Return why a file is refused, None if it is loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load_denoiser(path, use_ema=use_ema, model=tree())
        except ValueError as error:
            return str(error)
    return None


def test_inspect_shows_a_checkpoint_of_another_program(saved, capsys) -> None:
    optimizer = torch.optim.Adam(RAW.parameters()).state_dict()
    path = saved(content(LAYOUTS["nested"], optimizer_state_dict=optimizer), "old.pt")
    assert main(["inspect", str(path)]) == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    facts = {name: value.strip() for name, value in facts.items()}
    assert (facts["written by"], facts["epoch"], facts["classes"]) == ("another program", "3", "2")
    assert (facts["averages"], facts["to resume"]) == ("0.9999", "optimizer")
    assert main(["inspect", str(saved(content("x"), "old.pt"))]) == 0
    assert "none: its ema_state_dict is of type str, not a dict" in capsys.readouterr().out


@pytest.mark.parametrize("process", ["edm", "flow"])
def test_process_without_default_prediction_needs_one(saved, process) -> None:
    model = tree()
    model["diffusion"] = {**model["diffusion"], "type": process}
    model["diffusion"].pop("prediction", None)
    path = saved(content(), "old.pt")
    message = rf"old\.pt does not say what its network predicts.*model\.diffusion\.prediction={process}"
    with pytest.raises(ValueError, match=message):
        load_denoiser(path, use_ema=False, model=model)
    model["diffusion"]["prediction"] = "x0"
    assert load_denoiser(path, use_ema=False, model=model).num_classes == 2
