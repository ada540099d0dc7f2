"""Every kind of checkpoint that loads, and the errors of those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion_lab.checkpoint import FORMAT, load_denoiser, load_tensors, load_weights, read_checkpoint
from diffusion_lab.checkpoint.export import write_export
from diffusion_lab.config.model_section import NETWORKS, ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_denoiser
from diffusion_lab.faults import ConfigWarning
from tests.checkpoint.contents import (
    AVERAGED,
    RAW,
    SLOWER,
    SLOWEST,
    denoiser_of,
    own_format,
    same,
    settings,
    tree,
    under,
)


def test_checkpoint_contains_all_that_sampling_needs(saved):
    path = saved(own_format())
    checkpoint = read_checkpoint(path)
    assert (checkpoint.step, checkpoint.class_names, checkpoint.config["experiment"]) == (70, ("cat", "dog"), "cats")
    denoiser = load_denoiser(path)
    assert (denoiser.image_shape, denoiser.num_classes, denoiser.class_names) == ((1, 8, 8), 2, ("cat", "dog"))
    assert denoiser.schedule.num_timesteps == 20
    assert type(denoiser.parameterization) is type(RAW.parameterization)
    assert not any(module.training for module in denoiser.modules())


def test_averaged_and_raw_weights_are_both_available(saved):
    path = saved(own_format())
    assert same(load_denoiser(path), AVERAGED)
    assert same(load_denoiser(path, use_ema=False), RAW)
    assert (load_denoiser(path).weights, load_denoiser(path, use_ema=False).weights) == ("ema", "raw")


def test_without_averaged_weights_the_raw_ones_are_used_with_a_warning(saved):
    path = saved(own_format(averaged=None))
    with pytest.warns(ConfigWarning, match="holds no EMA weights: the raw weights are used"):
        assert load_denoiser(path).weights == "raw"
    assert same(load_denoiser(path, use_ema=False), RAW)


def with_several_decays(further=(0.99, 0.9999), averages=(SLOWER, SLOWEST)):
    """The format of a run with further averages."""
    content = own_format()
    for index, average in enumerate(averages):
        content["state_dict"] |= under(f"ema.further.{index}.", average.state_dict())
    ema = {"enabled": True, "decay": 0.9, "warmup": True, "further_decays": list(further)}
    content["diffusion_lab"]["config"]["training"] = {"ema": ema, "epochs": 3}
    return content


def test_an_average_is_chosen_by_its_decay(saved):
    path = saved(with_several_decays())
    assert read_checkpoint(path).decays == [0.9, 0.99, 0.9999]
    chosen = {None: AVERAGED, 0.9: AVERAGED, 0.99: SLOWER, 0.9999: SLOWEST}
    for decay, expected in chosen.items():
        assert same(load_denoiser(path, ema_decay=decay), expected)
    assert same(load_denoiser(path, use_ema=False), RAW)


def test_missing_decay_is_refused_with_the_available_ones(saved):
    path = saved(with_several_decays())
    rule = r"^ema_decay must be one of the averages in .*last\.ckpt"
    with pytest.raises(ValueError, match=rule + r" \(0\.9, 0\.99, 0\.9999\), got 0\.5"):
        load_denoiser(path, ema_decay=0.5)
    with pytest.raises(ValueError, match=r"^ema_decay needs use_ema, got 0\.99"):
        load_denoiser(path, use_ema=False, ema_decay=0.99)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ema_decay": "0.9"}, ValueError, "^ema_decay must be the decay of an average, a number, or None, got '0.9'"),
        ({"use_ema": "false"}, ValueError, "^use_ema must be True or False, got 'false'"),
        (
            {"trust": "my_lab.Net"},
            ValueError,
            r"^trust must be a list .*, got the string 'my_lab.Net': \['my_lab.Net'\]",
        ),
        ({"path": None}, TypeError, "^path must be a path, .*, got None"),
        ({"path": "nowhere"}, FileNotFoundError, "the checkpoint nowhere does not exist"),
        ({"device": "gpu"}, ValueError, "^device must be a device of this machine .*, got 'gpu'"),
    ],
)
def test_wrong_arguments_are_named(saved, arguments, error, message):
    with pytest.raises(error, match=message):
        load_denoiser(**({"path": saved(own_format())} | arguments))


def test_the_raw_weights_of_an_exported_average_are_named_by_argument(saved, tmp_path):
    write_export(
        tmp_path / "model.safetensors",
        AVERAGED.state_dict(),
        read_checkpoint(saved(own_format())).metadata | {"averaged": True},
    )
    with pytest.raises(ValueError, match=r"export of averaged weights, .* take them \(use_ema=True\)"):
        load_denoiser(tmp_path / "model.safetensors", use_ema=False)


def test_checkpoints_from_before_several_averages_load(saved):
    content = with_several_decays(averages=())
    del content["diffusion_lab"]["config"]["training"]["ema"]["further_decays"]
    path = saved(content)
    assert read_checkpoint(path).decays == [0.9]
    assert same(load_denoiser(path), AVERAGED)
    assert same(load_denoiser(path, ema_decay=0.9), AVERAGED)


@pytest.mark.parametrize("content", [own_format(), {"model_state_dict": RAW.state_dict()}], ids=["own", "plain"])
def test_unknown_decay_cannot_be_chosen(saved, content):
    with pytest.raises(ValueError, match=r"averages in .*last\.ckpt \(none\), got 0\.9"):
        load_denoiser(saved(content), model=settings(), ema_decay=0.9)


def test_averages_missing_from_the_file_cannot_be_chosen(saved):
    path = saved(with_several_decays(averages=(SLOWER,)))
    with pytest.raises(ValueError, match=r"\(0\.9, 0\.99\), got 0\.9999"):
        load_denoiser(path, ema_decay=0.9999)


def test_damaged_settings_of_the_averages_are_listed_by_key(saved):
    with pytest.raises(ValueError, match=r"training\.ema\.further_decays\[1\] = 1\.5"):
        read_checkpoint(saved(with_several_decays(further=(0.99, 1.5))))


def test_architecture_of_the_checkpoint_takes_precedence(saved):
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


def test_wrong_shape_and_unknown_name_are_reported():
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
    "content",
    [
        [torch.zeros(2)],
        torch.zeros(2),
        {},
        {"epoch": 3},
        {"model_state_dict": {}},
        {"model_state_dict": [1]},
    ],
)
def test_a_file_without_weights_says_so(saved, content):
    with pytest.raises(ValueError, match=r"weights\.pt (holds no weights|is not a checkpoint: it holds a)"):
        read_checkpoint(saved(content, "weights.pt"))


@pytest.mark.parametrize("state", [{}, {"loss.scale": torch.zeros(1)}, None])
def test_own_format_without_weights_is_incomplete(saved, state):
    with pytest.raises(ValueError, match="holds no weights of a denoiser"):
        read_checkpoint(saved({**own_format(), "state_dict": state}))


def test_own_format_with_a_missing_part_is_damaged(saved):
    content = own_format()
    del content["diffusion_lab"]["config"], content["diffusion_lab"]["step"]
    with pytest.raises(ValueError, match="damaged checkpoint: its diffusion_lab part lacks config, step") as refused:
        read_checkpoint(saved(content))
    assert "diffusion_lab.checkpoint verify" in str(refused.value)


def test_a_newer_format_asks_for_an_update(saved):
    with pytest.raises(ValueError, match=f"has format {FORMAT + 1}, this version reads {FORMAT}: update"):
        read_checkpoint(saved(own_format(format=FORMAT + 1)))


def model_of(**diffusion):
    model = tree()
    model["diffusion"] |= diffusion
    return model


EDM = {"type": "edm", "num_timesteps": 1000}


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "flow"])
def test_weights_trained_on_unscaled_inputs_are_refused(saved, prediction):
    """Before format 2 the network saw the noise of the edm process unscaled."""
    model = model_of(**EDM, prediction=prediction)
    before = read_checkpoint(saved(own_format(model, format=1)))
    with pytest.raises(ValueError, match=r"was written before .* reaches sigma = 80: .* Train it again"):
        before.denoiser()
    assert before.step == 70  # it can still be looked at
    assert read_checkpoint(saved(own_format(model, format=2))).denoiser()


@pytest.mark.parametrize(
    "diffusion",
    [
        {**EDM, "prediction": "edm", "sigma_data": 0.5},
        {"type": "flow", "prediction": "flow"},
        {"type": "flow", "prediction": "v"},
        {"type": "continuous_cosine", "prediction": "v"},
        {"beta_schedule": "linear", "prediction": "epsilon"},
        {"zero_terminal_snr": True},
    ],
    ids=str,
)
def test_other_weights_of_the_first_format_give_the_same_images(saved, diffusion):
    """The coefficients are unchanged, so the same weights give the same images."""
    denoiser = read_checkpoint(saved(own_format(model_of(**diffusion), format=1))).denoiser()
    for time in (0.1, 0.5, 0.99):
        level = denoiser.schedule.level(time)
        found = denoiser.parameterization.coefficients(level)
        alpha, sigma = level.alpha, level.sigma
        total = alpha**2 * 0.25 + sigma**2
        were = {
            "epsilon": (1 / alpha, -sigma / alpha, 1),
            "v": (alpha / (alpha**2 + sigma**2), -sigma / (alpha**2 + sigma**2), 1),
            "flow": (1 / (alpha + sigma), -sigma / (alpha + sigma), 1),
            "edm": (alpha * 0.25 / total, sigma * 0.5 / total**0.5, 1 / total**0.5),
        }[diffusion.get("prediction", "v")]
        assert (found.c_skip, found.c_out, found.c_in) == pytest.approx(were, rel=1e-12)


def test_a_damaged_model_section_is_listed_by_key(saved):
    with pytest.raises(ValueError, match=r"model\.architecture\.image_size = -8"):
        read_checkpoint(saved(own_format(model=tree(image_size=-8))))


class Operations(TorchDispatchMode):
    """Remembers the operations on tensors that have memory."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not any(isinstance(argument, torch.Tensor) and argument.is_meta for argument in args):
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_initial_weights_are_not_drawn_before_loading(saved):
    """Drawing takes longer than reading."""
    path, state = saved(own_format()), torch.get_rng_state()
    with Operations() as done:
        assert same(load_denoiser(path), AVERAGED)
    assert not done.names & {"uniform_", "normal_"}
    assert torch.equal(torch.get_rng_state(), state)
    with Operations() as done:
        denoiser_of(seed=0)
    assert done.names & {"uniform_", "normal_"}, "the test shows nothing if new networks draw by other operations"


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_tensor_of_a_loaded_network_is_without_values(saved, kind):
    """All networks create their weights alone when they are created."""
    model = tree(type=kind, use_attention=[True])
    denoiser = create_denoiser(parse_section(ModelSettings, model, "model"))
    path = saved(own_format(model) | {"state_dict": under("denoiser.", denoiser.state_dict())})
    loaded = load_denoiser(path, use_ema=False)
    write_export(path.with_name("model.safetensors"), loaded.state_dict(), read_checkpoint(path).metadata)
    for each in (loaded, load_denoiser(path.with_name("model.safetensors"), use_ema=False)):
        assert same(each, denoiser)
        strides = [weight.stride() for weight in each.parameters()]  # convolutions are fastest in channels-last memory
        assert strides == [weight.stride() for weight in denoiser.parameters()]
    assert all(weight.requires_grad and weight.is_leaf for weight in loaded.parameters())
    tensors = [
        value for module in loaded.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)
    ]
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers(), *tensors))
    noisy, level, label = torch.randn(2, 1, 8, 8), denoiser.schedule.level(0.5), torch.tensor([0, 1])
    assert torch.equal(loaded(noisy, level, label), denoiser.eval()(noisy, level, label))


def test_denoisers_of_a_checkpoint_do_not_share_memory(saved):
    """Neither with each other nor with the checkpoint."""
    checkpoint = read_checkpoint(saved(own_format()))
    first, second = checkpoint.denoiser(), checkpoint.denoiser()
    with torch.no_grad():
        for weight in first.parameters():
            weight.fill_(7)
    assert same(second, AVERAGED)
    assert same(checkpoint.denoiser(), AVERAGED)


@pytest.mark.parametrize("name", ["last.ckpt", "model.safetensors"])
def test_a_loaded_denoiser_is_independent_of_its_file(saved, tmp_path, name):
    """Also if the file is overwritten in place."""
    path = saved(own_format())
    if name == "model.safetensors":
        write_export(tmp_path / name, AVERAGED.state_dict(), read_checkpoint(path).metadata | {"averaged": True})
    denoiser = load_denoiser(tmp_path / name)
    size = (tmp_path / name).stat().st_size
    with (tmp_path / name).open("r+b") as file:
        file.write(bytes(size))
    assert same(denoiser, AVERAGED)


def test_weights_are_loaded_in_the_type_of_the_network(saved):
    """Float32, whatever the file has; weights that share memory there are separate."""
    halves = {name: weight.half() for name, weight in RAW.state_dict().items()}
    assert same(
        load_denoiser(saved(halves, "half.pt"), use_ema=False, model=settings()), rounded := denoiser_like(halves)
    )
    assert all(weight.dtype == torch.float32 for weight in rounded.parameters())
    names = [name for name, weight in RAW.state_dict().items() if weight.ndim == 1]
    memory = torch.cat([RAW.state_dict()[name] for name in names])
    views = dict(zip(names, memory.split([RAW.state_dict()[name].numel() for name in names]), strict=True))
    denoiser = load_denoiser(saved(dict(RAW.state_dict()) | views, "views.pt"), use_ema=False, model=settings())
    assert same(denoiser, RAW)
    with torch.no_grad():
        denoiser.get_parameter(names[0]).fill_(7)
    assert denoiser.get_parameter(names[0]).untyped_storage().nbytes() < memory.nbytes
    assert not any((denoiser.get_parameter(name) == 7).any() for name in names[1:])


def denoiser_like(weights):
    denoiser = denoiser_of(5)
    denoiser.load_state_dict(weights)
    return denoiser


COMPUTING_NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self, in_channels, **options):
        super().__init__()
        self.frequencies = torch.exp(-torch.arange(4) / 4)  # a plain tensor
        self.steps = int(torch.linspace(0, 3, 4).sum())  # values are needed at once
        self.register_buffer("window", torch.hann_window(8), persistent=False)
        self.norm = torch.nn.BatchNorm2d(in_channels)  # has an integer among its buffers
        self.enter = torch.nn.Conv2d(in_channels, in_channels, 1)
        self.leave = torch.nn.Conv2d(in_channels, in_channels, 1)
        self.leave.weight = self.enter.weight

    def forward(self, images, times, labels):
        waves = torch.outer(times, self.frequencies).sum() + self.steps + self.window.sum()
        return self.leave(self.enter(self.norm(images))) * waves
"""


def test_a_custom_network_that_computes_with_tensors_is_loaded(saved, tmp_path, monkeypatch):
    (tmp_path / "computing_lab.py").write_text(COMPUTING_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    model = tree(type="computing_lab.Net")
    denoiser = create_denoiser(parse_section(ModelSettings, model, "model")).train()
    noisy, level = torch.randn(2, 1, 8, 8), denoiser.schedule.level(0.5)
    denoiser(noisy, level)  # which changes the buffers
    state = under("denoiser.", denoiser.state_dict()) | under("ema.average.", denoiser.state_dict())
    path = saved(own_format(model) | {"state_dict": state})
    for use_ema in (True, False):
        loaded = load_denoiser(path, use_ema, trust=["computing_lab.Net"])
        assert same(loaded, denoiser)
        assert int(loaded.network.norm.num_batches_tracked) == 1
        assert loaded.network.leave.weight is loaded.network.enter.weight
        assert torch.equal(loaded(noisy, level), denoiser.eval()(noisy, level))
