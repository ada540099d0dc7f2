"""Denoisers from the numbers of the `model` section."""

from __future__ import annotations

import inspect
import sys
import warnings

import pytest
import torch

from diffusion_lab.checkpoint import FORMAT, load_denoiser
from diffusion_lab.config import ConfigWarning, get_default_config
from diffusion_lab.config.model_section import PROCESSES, ModelSettings
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_ddpm, create_denoiser
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import Schedule
from diffusion_lab.networks import DiT

TINY = {
    "image_size": 8,
    "in_channels": 1,
    "model_channels": 8,
    "channel_multipliers": [1, 2],
    "use_attention": [False, True],
    "num_res_blocks": 1,
    "num_timesteps": 20,
}


def test_defaults_are_those_of_the_configuration():
    model = get_default_config()["model"]
    expected = {**model["architecture"], **model["diffusion"], **model["conditioning"]}
    given = {name: parameter.default for name, parameter in inspect.signature(create_ddpm).parameters.items()}
    same = {name: value for name, value in expected.items() if name != "type"}
    assert {name: list(given[name]) if isinstance(given[name], tuple) else given[name] for name in same} == same
    extensions = parse_section(ModelSettings, model, "model")
    for section in (extensions.architecture, extensions.diffusion, extensions.conditioning):
        for name in type(section).model_fields.keys() - expected.keys() - {"type"}:
            assert given[name] == getattr(section, name), name


def test_arguments_reach_the_denoiser():
    model = create_ddpm(**TINY, num_classes=3, beta_schedule="linear", beta_start=0.01, beta_end=0.5, class_names="abc")
    assert model.image_shape == (1, 8, 8)
    assert (model.num_classes, model.class_names) == (3, ("a", "b", "c"))
    assert model.schedule.num_timesteps == 20
    assert model.schedule.betas[[0, -1]].tolist() == pytest.approx([0.01, 0.5])
    assert model.network.embed_label.num_embeddings == 4
    output = model(torch.randn(2, 1, 8, 8), model.schedule.level(0.5), torch.tensor([0, 2]))
    assert output.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("prediction", "kind"), PARAMETERIZATIONS.items())
def test_prediction_is_the_requested_one(prediction, kind):
    assert type(create_ddpm(**TINY, prediction=prediction, sigma_data=0.3).parameterization) is kind


def test_sigma_data_reaches_the_preconditioning():
    assert create_ddpm(**TINY, prediction="edm", sigma_data=0.3).parameterization.sigma_data == 0.3
    with pytest.raises(ValueError, match=r"^sigma_data must be a number: auto is measured"):
        create_ddpm(**TINY, prediction="edm")


@pytest.mark.parametrize("name", PROCESSES)
def test_process_is_the_requested_one(name):
    assert isinstance(create_ddpm(**TINY, diffusion_type=name, prediction="v").schedule, Schedule)


def test_arguments_reach_the_noise_process():
    edm = create_ddpm(**TINY, diffusion_type="edm", sigma_min=0.01, sigma_max=50.0).schedule
    assert [edm.level(time).sigma for time in (0.0, 1.0)] == pytest.approx([0.01, 50.0])
    for name in ("continuous_cosine", "flow"):
        plain, shifted = (
            create_ddpm(**TINY, diffusion_type=name, prediction="v", noise_shift=shift).schedule.level(0.5)
            for shift in (1.0, 3.0)
        )
        assert shifted.sigma / shifted.alpha == pytest.approx(3 * plain.sigma / plain.alpha)
    zero = create_ddpm(**TINY, zero_terminal_snr=True, prediction="v").schedule
    assert zero.level(1.0).alpha == 0


def test_a_key_of_another_process_is_refused():
    with pytest.raises(ValueError, match=r"noise_shift = 2\.0: belongs to type continuous_cosine or flow, not to edm"):
        create_ddpm(**TINY, diffusion_type="edm", noise_shift=2.0)
    with pytest.raises(ValueError, match=r"sigma_min = 90\.0: must be less than sigma_max, 80"):
        create_ddpm(**TINY, diffusion_type="edm", sigma_min=90.0)


def test_network_is_the_requested_one():
    stage = {"channel_multipliers": [1], "use_attention": [True]}
    assert type(create_ddpm(**{**TINY, **stage}, architecture_type="dit").network) is DiT


def test_without_classes_the_model_is_unconditional():
    model = create_ddpm(**TINY)
    assert model.num_classes is None
    assert model.network.embed_label is None


def test_every_fault_is_listed_with_its_argument():
    faulty = {**TINY, "image_size": 7, "use_attention": [True], "num_timesteps": 0, "num_classes": 0}
    with pytest.raises(ValueError, match="arguments are wrong") as caught:
        create_ddpm(**faulty, class_dropout_prob=2.0, beta_start=0.5, beta_end=0.1, diffusion_type="discreet")
    message = str(caught.value)
    for name in ("image_size", "use_attention", "num_timesteps", "num_classes", "class_dropout_prob", "diffusion_type"):
        assert f"\n  {name} = " in message
    assert "(did you mean 'discrete'?)" in message
    assert "model." not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_multipliers": 3}, "channel_multipliers = 3: must be a list"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "beta_start = 0.5: must be less than beta_end, 0.1"),
        (
            {"num_classes": 3, "class_names": ["a", "b"]},
            "class_names must hold a name for each class or none, .* 3, got 2",
        ),
        ({"class_names": ["a", "b"]}, "class_names must hold .* num_classes is None, got 2"),
        ({"num_classes": 2, "class_names": ["a", "a"]}, "class_names must differ"),
        ({"num_classes": 2, "class_names": [0, 1]}, r"class_names must be a sequence of strings, got \[0, 1\]"),
        ({"model_channels": 2**24}, "^the network needs at least .* GiB for the weights, .* num_classes$"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_ddpm(**{**TINY, **arguments})
    assert "model." not in str(caught.value)


def test_the_same_seed_gives_the_same_weights():
    def weights():
        torch.manual_seed(4)
        return torch.cat([parameter.flatten() for parameter in create_ddpm(**TINY).parameters()])

    assert torch.equal(weights(), weights())


def test_dotted_path_names_a_custom_network(tmp_path, monkeypatch):
    (tmp_path / "my_lab_create.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, depth, **options):\n"
        "        super().__init__()\n"
        "        self.depth, self.options = depth, options\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tree = get_default_config()["model"]
    tree["architecture"] |= {"type": "my_lab_create.Net", "depth": 5}
    network = create_denoiser(parse_section(ModelSettings, tree, "model")).network
    assert type(network) is sys.modules["my_lab_create"].Net
    assert network.depth == 5
    assert network.options["in_channels"] == 3
    assert network.options["num_classes"] is None
    assert "image_size" not in network.options


@pytest.mark.parametrize("path", ["no_such_module.Net", "math.NoSuchNet", "math.pi"])
def test_dotted_path_without_a_class_is_refused(path):
    tree = get_default_config()["model"]
    tree["architecture"]["type"] = path
    with pytest.raises(ValueError, match=r"model\.architecture\.type = .*must be a class"):
        create_denoiser(parse_section(ModelSettings, tree, "model"))


def test_noise_prediction_is_refused_without_signal_at_the_end():
    numbers = {"image_size": 8, "model_channels": 8, "channel_multipliers": [1], "use_attention": [False]}
    with pytest.raises(ValueError, match=r"^prediction epsilon needs .* alpha = "):
        create_ddpm(**numbers, beta_schedule="linear", beta_end=0.5, prediction="epsilon")
    create_ddpm(**numbers, beta_schedule="linear", beta_end=0.5, prediction="v")
    for process in ({"zero_terminal_snr": True}, {"diffusion_type": "flow"}):
        with pytest.raises(ValueError, match=r"epsilon needs .* got alpha = 0\.0e\+00"):
            create_ddpm(**numbers, **process, prediction="epsilon")


LINEAR = {**TINY, "num_timesteps": 100, "beta_schedule": "linear"}


def test_a_process_that_does_not_end_in_noise_warns():
    """The warning is that of training from the command line, and the suggested settings help."""
    with pytest.warns(
        ConfigWarning, match=r"alpha = 0\.6 of the image left .*\(beta_start=0\.001 beta_end=0\.2\)"
    ) as caught:
        create_ddpm(**LINEAR)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_ddpm(**LINEAR, beta_start=0.001, beta_end=0.2)
        create_ddpm(**TINY)


def test_loading_a_model_whose_process_does_not_end_in_noise_warns(tmp_path):
    def saved(beta_end):
        model = get_default_config()["model"]
        model["architecture"] |= {
            "image_size": 8,
            "model_channels": 8,
            "channel_multipliers": [1],
            "use_attention": [False],
        }
        model["diffusion"] |= {"num_timesteps": 100, "beta_schedule": "linear", "beta_end": beta_end}
        denoiser = create_denoiser(parse_section(ModelSettings, model, "model"))
        state = {f"denoiser.{name}": tensor for name, tensor in denoiser.state_dict().items()}
        metadata = {"format": FORMAT, "config": {"model": model}, "class_names": [], "step": 1, "epoch": 1}
        torch.save({"state_dict": state, "diffusion_lab": metadata}, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    with pytest.warns(ConfigWarning, match=r"last\.ckpt: the noise process ends with alpha = 0\.6 .*off in brightness"):
        load_denoiser(saved(0.02), use_ema=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_denoiser(saved(0.2), use_ema=False)
