"""Checkpoints: every kind of file that loads, and every kind that must not."""

from __future__ import annotations

import pickle
import random
import sys
import warnings
from pathlib import Path

import pytest
import torch

from diffusion_lab.checkpoint import (
    FORMAT,
    file_hash,
    find_checkpoint,
    load_denoiser,
    load_tensors,
    load_weights,
    read_checkpoint,
)
from diffusion_lab.config import get_default_config
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_denoiser


@pytest.fixture(autouse=True)
def no_surprises():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def tree(**architecture):
    model = get_default_config()["model"]
    model["architecture"] |= {
        "image_size": 8,
        "in_channels": 1,
        "model_channels": 8,
        "channel_multipliers": [1],
        "use_attention": [False],
        "num_res_blocks": 1,
    } | architecture
    model["diffusion"] |= {"num_timesteps": 20, "prediction": "v"}
    model["conditioning"] |= {"type": "class", "num_classes": 2}
    return model


def settings(**architecture) -> ModelSettings:
    return parse_section(ModelSettings, tree(**architecture), "model")


def denoiser_of(seed: int):
    torch.manual_seed(seed)
    return create_denoiser(settings(), ("cat", "dog"))


RAW, AVERAGED, SLOWER, SLOWEST = (denoiser_of(seed) for seed in range(4))


def under(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def own_format(model=None, averaged=AVERAGED, **about):
    state = under("denoiser.", RAW.state_dict())
    if averaged is not None:
        state |= under("ema.average.", averaged.state_dict()) | {"ema.updates": torch.tensor(5)}
    own = {"format": FORMAT, "config": {"model": model or tree(), "experiment": "cats"}}
    own |= {"class_names": ["cat", "dog"], "step": 70, "epoch": 3}
    return {"state_dict": state, "diffusion_lab": own | about, "optimizer_states": [{"state": {}}]}


@pytest.fixture
def saved(tmp_path):
    def save(content, name="last.ckpt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
        return path

    return save


def same(denoiser, other) -> bool:
    pairs = zip(denoiser.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == other_name and torch.equal(one, two) for (name, one), (other_name, two) in pairs)


def test_our_own_checkpoint_tells_all_that_sampling_needs(saved):
    path = saved(own_format())
    checkpoint = read_checkpoint(path)
    assert (checkpoint.step, checkpoint.class_names, checkpoint.config["experiment"]) == (70, ("cat", "dog"), "cats")
    denoiser = load_denoiser(path)
    assert (denoiser.image_shape, denoiser.num_classes, denoiser.class_names) == ((1, 8, 8), 2, ("cat", "dog"))
    assert denoiser.schedule.num_timesteps == 20
    assert type(denoiser.parameterization) is type(RAW.parameterization)
    assert not any(module.training for module in denoiser.modules())


def test_averaged_and_raw_weights_are_both_there(saved):
    path = saved(own_format())
    assert same(load_denoiser(path), AVERAGED)
    assert same(load_denoiser(path, use_ema=False), RAW)


def test_without_averaged_weights_the_raw_ones_are_used_with_a_warning(saved):
    path = saved(own_format(averaged=None))
    with pytest.warns(UserWarning, match="holds no EMA weights: the raw weights are used"):
        assert same(load_denoiser(path), RAW)
    assert same(load_denoiser(path, use_ema=False), RAW)


def of_several_decays(further=(0.99, 0.9999), averages=(SLOWER, SLOWEST)):
    """The format of a run with further averages."""
    content = own_format()
    for index, average in enumerate(averages):
        content["state_dict"] |= under(f"ema.further.{index}.", average.state_dict())
    ema = {"enabled": True, "decay": 0.9, "warmup": True, "further_decays": list(further)}
    content["diffusion_lab"]["config"]["training"] = {"ema": ema, "epochs": 3}
    return content


def test_an_average_is_chosen_by_its_decay(saved):
    path = saved(of_several_decays())
    assert read_checkpoint(path).decays == [0.9, 0.99, 0.9999]
    chosen = {None: AVERAGED, 0.9: AVERAGED, 0.99: SLOWER, 0.9999: SLOWEST}
    for decay, expected in chosen.items():
        assert same(load_denoiser(path, ema_decay=decay), expected)
    assert same(load_denoiser(path, use_ema=False), RAW)


def test_a_decay_that_is_not_there_is_refused_with_those_that_are(saved):
    path = saved(of_several_decays())
    rule = r"generation\.sampling\.ema_decay must be one of the averages in .*last\.ckpt"
    with pytest.raises(ValueError, match=rule + r" \(0\.9, 0\.99, 0\.9999\), got 0\.5"):
        load_denoiser(path, ema_decay=0.5)
    with pytest.raises(ValueError, match=r"ema_decay needs generation\.sampling\.use_ema, got 0\.99"):
        load_denoiser(path, use_ema=False, ema_decay=0.99)


def test_checkpoints_from_before_there_were_several_averages_load(saved):
    content = of_several_decays(averages=())
    del content["diffusion_lab"]["config"]["training"]["ema"]["further_decays"]
    path = saved(content)
    assert read_checkpoint(path).decays == [0.9]
    assert same(load_denoiser(path), AVERAGED)
    assert same(load_denoiser(path, ema_decay=0.9), AVERAGED)


@pytest.mark.parametrize("content", [own_format(), {"model_state_dict": RAW.state_dict()}], ids=["own", "plain"])
def test_a_decay_that_the_file_does_not_tell_cannot_be_chosen(saved, content):
    with pytest.raises(ValueError, match=r"averages in .*last\.ckpt \(none that it tells\), got 0\.9"):
        load_denoiser(saved(content), model=settings(), ema_decay=0.9)


def test_averages_lost_from_the_file_cannot_be_chosen(saved):
    path = saved(of_several_decays(averages=(SLOWER,)))
    with pytest.raises(ValueError, match=r"\(0\.9, 0\.99\), got 0\.9999"):
        load_denoiser(path, ema_decay=0.9999)


def test_damaged_settings_of_the_averages_are_listed_by_key(saved):
    with pytest.raises(ValueError, match=r"training\.ema\.further_decays\[1\] = 1\.5"):
        read_checkpoint(saved(of_several_decays(further=(0.99, 1.5))))


def test_the_checkpoints_own_architecture_wins(saved):
    path = saved(own_format())
    assert same(load_denoiser(path, model=settings(model_channels=16)), AVERAGED)


@pytest.mark.parametrize("named", ["denoiser", "network"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model_state_dict": weights, "epoch": 3},
        lambda weights: {"state_dict": weights},
    ],
    ids=["plain", "model_state_dict", "state_dict"],
)
def test_state_dicts_load_with_the_architecture_from_the_settings(saved, wrap, named):
    path = saved(wrap((RAW if named == "denoiser" else RAW.network).state_dict()), "weights.pt")
    assert same(load_denoiser(path, use_ema=False, model=settings()), RAW)
    with pytest.warns(UserWarning, match="no EMA weights"):
        assert same(load_denoiser(path, model=settings()), RAW)
    with pytest.raises(ValueError, match=r"does not say of which architecture: give it in the settings"):
        load_denoiser(path, use_ema=False)


def test_a_dict_with_both_kinds_of_weights_gives_either(saved):
    content = {"model_state_dict": RAW.state_dict(), "ema_state_dict": AVERAGED.network.state_dict()}
    path = saved(content, "weights.pt")
    assert same(load_denoiser(path, model=settings()), AVERAGED)
    assert same(load_denoiser(path, use_ema=False, model=settings()), RAW)


def test_weights_of_another_architecture_are_listed(saved):
    path = saved(RAW.state_dict(), "weights.pt")
    with pytest.raises(ValueError, match="weights of another architecture") as caught:
        load_denoiser(path, use_ema=False, model=settings(model_channels=16, use_attention=[True]))
    assert "missing network." in str(caught.value)
    assert "and " in str(caught.value)
    assert " more. Give the model settings" in str(caught.value)


def test_a_wrong_shape_and_an_unknown_name_are_told():
    denoiser = denoiser_of(2)
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    name = next(iter(before))
    with pytest.raises(ValueError, match="unknown extra") as caught:
        load_weights(denoiser, {**RAW.state_dict(), name: torch.zeros(3), "extra": torch.zeros(1)}, Path("x.pt"))
    assert f"{name} is (3,), the model's is" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in denoiser.state_dict().items())  # all or none


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.ckpt does not exist: give a checkpoint file or a run folder"
    ):
        load_denoiser(tmp_path / "nothing.ckpt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_tensors(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", bytes(range(256)), b"PK\x03\x04" + bytes(50), b"\x80\x02K\x01.", b"\x80\x04"]
)
def test_a_file_that_is_no_checkpoint_says_so(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt (is no checkpoint|holds no weights)"):
        load_denoiser(path)


def test_damaged_checkpoints_never_raise_anything_but_a_clear_error(saved):
    """Cut anywhere, or with some bytes changed; what still reads is not told from a whole one."""
    path = saved({"a": torch.zeros(3), "b": torch.ones(2)}, "weights.pt")
    whole = path.read_bytes()
    legacy = saved({"a": torch.zeros(3)}, "legacy.pt")
    torch.save({"a": torch.zeros(3)}, legacy, _use_new_zipfile_serialization=False)
    draw = random.Random(0)
    refused = 0
    for source in (whole, legacy.read_bytes(), pickle.dumps({"a": 1})) * 60:
        damaged = bytearray(source[: draw.randrange(len(source))] if draw.random() < 0.5 else source)
        for _ in range(draw.randrange(1, 10)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_checkpoint(path)
            except ValueError as error:
                refused += 1
                assert "weights.pt" in str(error)  # noqa: PT017 - some damage goes unseen
    assert refused > 150


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        torch.zeros(2),
        {},
        {"epoch": 3},
        {"model_state_dict": {}},
        {"model_state_dict": [1]},
        {"model_state_dict": {"a": torch.zeros(1)}, "ema_state_dict": {"decay": 0.9}},
    ],
)
def test_a_file_without_weights_says_so(saved, content):
    with pytest.raises(ValueError, match=r"weights\.pt (holds no weights|is no checkpoint: it holds a)"):
        read_checkpoint(saved(content, "weights.pt"))


@pytest.mark.parametrize("state", [{}, {"loss.scale": torch.zeros(1)}, None])
def test_our_own_format_without_weights_was_not_written_whole(saved, state):
    with pytest.raises(ValueError, match="holds no weights of a denoiser"):
        read_checkpoint(saved({**own_format(), "state_dict": state}))


def test_our_own_format_with_a_part_missing_is_damaged(saved):
    content = own_format()
    del content["diffusion_lab"]["config"], content["diffusion_lab"]["step"]
    with pytest.raises(ValueError, match="damaged checkpoint: its diffusion_lab part lacks config, step"):
        read_checkpoint(saved(content))


def test_a_newer_format_asks_for_an_update(saved):
    with pytest.raises(ValueError, match=f"has format {FORMAT + 1}, this version reads {FORMAT}: update"):
        read_checkpoint(saved(own_format(format=FORMAT + 1)))


def test_a_damaged_model_section_is_listed_by_key(saved):
    with pytest.raises(ValueError, match=r"model\.architecture\.image_size = -8"):
        read_checkpoint(saved(own_format(model=tree(image_size=-8))))


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("where", ["alone", "beside weights"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, kind, where):
    trace, path = tmp_path / "trace", tmp_path / "last.ckpt"
    content = Bomb(trace) if where == "alone" else {**own_format(), "callbacks": Bomb(trace)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match=r"last\.ckpt is no checkpoint, or a damaged one, or one that runs code"):
        load_denoiser(path)
    assert not trace.exists()


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """A module of the user's own that leaves a trace when it is imported."""
    (tmp_path / "my_lab_checkpoint.py").write_text(
        "from pathlib import Path\n"
        "from diffusion_lab.networks import UNet\n"
        f"Path({str(tmp_path / 'trace')!r}).touch()\n"
        "class Net(UNet):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "trace"
    sys.modules.pop("my_lab_checkpoint", None)


def test_a_class_that_only_the_checkpoint_names_is_not_imported(saved, own_network):
    path = saved(own_format(model=tree(type="my_lab_checkpoint.Net")))
    assert read_checkpoint(path).model.architecture.type == "my_lab_checkpoint.Net"
    for model in (None, settings()):  # "unet" is no consent to import something else
        with pytest.raises(ValueError, match=r"names the class 'my_lab_checkpoint\.Net'.*model\.architecture\.type"):
            load_denoiser(path, model=model)
    assert not own_network.exists()


def test_a_class_that_the_user_names_as_well_is_imported(saved, own_network):
    path = saved(own_format(model=tree(type="my_lab_checkpoint.Net")))
    denoiser = load_denoiser(path, model=settings(type="my_lab_checkpoint.Net", model_channels=32))
    assert own_network.exists()
    assert type(denoiser.network).__name__ == "Net"
    assert same(denoiser, AVERAGED)  # all else is still the checkpoint's


def test_a_run_folder_means_its_best_else_its_last(saved, tmp_path):
    last = saved(own_format(), "run/checkpoints/last.ckpt")
    assert find_checkpoint(tmp_path / "run") == last
    best = saved(own_format(), "run/checkpoints/best.ckpt")
    assert find_checkpoint(tmp_path / "run") == best
    assert find_checkpoint(tmp_path / "run" / "checkpoints") == best
    assert find_checkpoint(tmp_path / "run", prefer="last") == last
    assert find_checkpoint(last) == last
    last.unlink()
    assert find_checkpoint(tmp_path / "run", prefer="last") == best
    assert same(load_denoiser(tmp_path / "run"), AVERAGED)


def test_checkpoints_are_found_in_a_subfolder_of_any_name(saved, tmp_path):
    last = saved(own_format(), "run/weights/last.ckpt")
    assert find_checkpoint(str(tmp_path / "run")) == last


def test_a_folder_without_checkpoints_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no best\.ckpt and no last\.ckpt"):
        find_checkpoint(tmp_path)


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
