"""Classes given by their dotted path: whether they can be imported and accept the arguments in the settings."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion_lab.checkpoint import FORMAT, read_checkpoint
from diffusion_lab.config import ConfigError, TrainConfig, parse_config, validate_config, validate_config_consistency
from diffusion_lab.config.model_section import ModelSettings
from diffusion_lab.config.optimizer_section import OptimizerSettings
from diffusion_lab.config.sampler_section import SamplerSettings
from diffusion_lab.config.schema import CHOICES
from diffusion_lab.config.validate import parse_section
from diffusion_lab.create import create_denoiser, create_process
from diffusion_lab.training.lr_schedules import create_schedule
from diffusion_lab.training.optimizers import create_optimizer
from diffusion_lab.training.sources import create_datamodule
from tests.config.conftest import Change
from tests.typed_settings.own_classes import HERE, NarrowNet, OwnSampler, PlainSampler


def own(section: str, name: str, **options: object) -> dict[str, object]:
    """Return changes of the default tree that select a class of ``own_classes`` with these options."""
    path = f"{HERE}.{name}"
    if section in ("sampler", "training.scheduler") or section.startswith("training.loss."):
        return {section: {"type": path, **options}}
    return {f"{section}.type": path} | {f"{section}.{key}": value for key, value in options.items()}


def lines(tree: dict[str, Any]) -> list[str]:
    """Return the faults of a tree, without the folder of the classes."""
    with pytest.raises(ConfigError) as caught:
        validate_config(tree)
    with pytest.raises(ConfigError, match="wrong:") as again:
        validate_config_consistency(tree)
    assert str(again.value) == str(caught.value)
    return [str(fault).replace(f"{HERE}.", "") for fault in caught.value.faults]


TAKEN: list[dict[str, object]] = [
    own("model.architecture", "Net", depth=3),
    own("model.architecture", "Net", depth=3, width=5, anything=[1]),
    own("model.architecture", "TakesAnything"),
    own("model.architecture", "NarrowNet", model_channels=8),
    own("model.diffusion", "Process", power=2.0, zero_terminal_snr=False, sigma_min=0.002),
    own("model.diffusion", "Process", power=2.0),
    own("training.loss.penalty", "TakesAnything", sharpness=2),
    own("training.loss.weighting", "OwnSampler", order=2),
    own("training.loss.times", "PlainSampler", churn=0.5),
    own("data", "Images"),
    own("data", "Images", folder="here", limit=None),
    own("data", "ImagesOf", folder="here"),
    own("training.optimizer", "Lion", momentum=0.9),
    own("training.optimizer", "PlainDescent", momentum=0.9),
    own("training.optimizer", "TakesAnything", eps=1e-6, foreach=True),
    own("training.optimizer", "Lion", eps=None),
    own("training.scheduler", "Fading", power=2.0),
    own("training.scheduler", "Fading", power=2.0, end=None, T_max=None),
    own("training.scheduler", "FadingByStep"),
    own("training.scheduler", "TakesAnything", T_max="auto", eta_min=0.0),
    {"training.scheduler": {"type": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9}},
    {"training.optimizer.type": "torch.optim.SGD", "training.optimizer.momentum": 0.9},
    own("sampler", "PlainSampler", steps=3, churn=0.5),
    own("sampler", "OwnSampler", order=2),
    own("sampler", "SamplerWithItsOwnInit", power=2.0),
    own("sampler", "SamplerOfUnknownType", steps=3),
    own("sampler", "SamplerOfStrangeType", steps=3),
    own("sampler", "TakesAnything", eta=0.5),
]

GIVEN = "which are passed to every class of"
REFUSED: list[tuple[dict[str, object], list[str]]] = [
    (
        own("training.optimizer", "Lion", momentun=0.9),
        [
            "training.optimizer.momentun = 0.9: Lion takes no such argument "
            "(did you mean 'training.optimizer.momentum'?)"
        ],
    ),
    (
        own("training.optimizer", "PlainDescent", learnin_rate=1),
        [
            "training.optimizer.learnin_rate = 1: PlainDescent takes no such argument "
            "(did you mean 'training.optimizer.learning_rate'?)",
            "training.optimizer.momentum: required by PlainDescent, but missing",
        ],
    ),
    (
        own("training.optimizer", "Lion", eps=1e-6, zzz=None),
        [
            "training.optimizer.eps = 1e-06: Lion takes no such argument",
            "training.optimizer.zzz = null: Lion takes no such argument",
        ],
    ),
    (
        own("training.optimizer", "Lion", lr=0.1, params=3),
        [
            "training.optimizer.lr = 0.1: Lion receives this from training.optimizer.learning_rate; leave it out",
            "training.optimizer.params = 3: Lion receives the parameters for this; leave it out",
        ],
    ),
    (
        own("training.optimizer", "WithoutDecay"),
        [f'training.optimizer.type = "WithoutDecay": must take weight_decay (or **others), {GIVEN} training.optimizer'],
    ),
    (
        own("training.optimizer", "WithoutParameters"),
        ['training.optimizer.type = "WithoutParameters": must take the parameters as its first argument'],
    ),
    (
        own("training.optimizer", "ByPlaceOnly"),
        ['training.optimizer.type = "ByPlaceOnly": must take scale by name, not only by position'],
    ),
    (own("model.architecture", "Net", dept=3), ["model.architecture.depth: required by Net, but missing"]),
    (
        own("model.architecture", "Net", depth=3, num_classes=2),
        ["model.architecture.num_classes = 2: Net receives this from model.conditioning.num_classes; leave it out"],
    ),
    (
        own("model.architecture", "NarrowNet", patch_size=2, num_heads=4, depht=3),
        [
            "model.architecture.depht = 3: NarrowNet takes no such argument",
            "model.architecture.num_heads = 4: NarrowNet takes no such argument; leave it out (command line: "
            "'~model.architecture.num_heads')",
            "model.architecture.patch_size = 2: NarrowNet takes no such argument; leave it out (command line: "
            "'~model.architecture.patch_size')",
        ],
    ),
    (
        own("model.diffusion", "Process", powr=3),
        [
            "model.diffusion.power: required by Process, but missing",
            "model.diffusion.powr = 3: Process takes no such argument (did you mean 'model.diffusion.power'?)",
        ],
    ),
    (
        own("training.loss.penalty", "OwnSampler", delta=0.5),
        [
            "training.loss.penalty.delta = 0.5: OwnSampler takes no such argument; leave it out "
            "(command line: '~training.loss.penalty.delta')",
            "training.loss.penalty.order: required by OwnSampler, but missing",
        ],
    ),
    (own("training.loss.weighting", "OwnSampler", order=0), ["training.loss.weighting.order = 0: must be at least 1"]),
    (
        own("training.loss.times", "PlainSampler", chrun=1),
        [
            "training.loss.times.chrun = 1: PlainSampler takes no such argument "
            "(did you mean 'training.loss.times.churn'?)"
        ],
    ),
    (
        own("data", "Images", limits=3, image_size=8),
        [
            "data.image_size = 8: Images receives this from model.architecture.image_size; leave it out",
            "data.limits = 3: Images takes no such argument (did you mean 'data.limit'?)",
        ],
    ),
    (
        own("data", "Images", croop="random"),
        ["data.croop = \"random\": Images takes no such argument (did you mean 'data.crop'?)"],
    ),
    (own("data", "ImagesOf"), ["data.folder: required by ImagesOf, but missing"]),
    (
        own("training.scheduler", "Fading", T_max="auto", powr=3),
        [
            'training.scheduler.T_max = "auto": Fading takes no such argument; leave it out (command line: '
            "'~training.scheduler.T_max')",
            "training.scheduler.power: required by Fading, but missing",
            "training.scheduler.powr = 3: Fading takes no such argument (did you mean 'training.scheduler.power'?)",
        ],
    ),
    (
        own("training.scheduler", "FadingByStep", total_steps=3),
        [
            "training.scheduler.total_steps = 3: FadingByStep receives this from training.epochs; leave it out",
        ],
    ),
    (
        {"training.scheduler": {"type": "torch.optim.lr_scheduler.ExponentialLR"}},
        ["training.scheduler.gamma: required by torch.optim.lr_scheduler.ExponentialLR, but missing"],
    ),
    (
        own("sampler", "PlainSampler", eta=0.0, chrun=1),
        [
            "sampler.chrun = 1: PlainSampler takes no such argument (did you mean 'sampler.churn'?)",
            "sampler.eta = 0.0: PlainSampler takes no such argument; leave it out (command line: '~sampler.eta')",
        ],
    ),
    (
        own("sampler", "OwnSampler", order=0, cache=3, window="all"),
        [
            "sampler.cache = 3: OwnSampler takes no such argument",
            "sampler.order = 0: must be at least 1",
            'sampler.window = "all": must be a list',
        ],
    ),
    (own("sampler", "SteppingSampler", steps=0), ["sampler.steps = 0: must be at least 1"]),
    (own("sampler", "OwnSampler"), ["sampler.order: required by OwnSampler, but missing"]),
    (
        own("sampler", "SamplerWithItsOwnInit", cache=1),
        [
            "sampler.cache = 1: SamplerWithItsOwnInit takes no such argument",
            "sampler.power: required by SamplerWithItsOwnInit, but missing",
        ],
    ),
    (
        own("sampler", "AbstractSampler"),
        ['sampler.type = "AbstractSampler": must be a class that can be instantiated; this one is abstract: step'],
    ),
    (
        own("sampler", "AbstractDataclass", steps=2),
        ['sampler.type = "AbstractDataclass": must be a class that can be instantiated; this one is abstract: step'],
    ),
]
BUILD: dict[str, Callable[[TrainConfig], object]] = {
    "model.architecture": lambda config: create_denoiser(config.model),
    "data": lambda config: create_datamodule(config, seed=0),
    "training.optimizer": lambda config: create_optimizer(config.training.optimizer, [weight()]),
    "training.scheduler": lambda config: create_schedule(
        config.training.scheduler.type,
        config.training.scheduler_options(),
        torch.optim.SGD([weight()]),
        total_steps=9,
        metric="val/loss",
    ),
    "model.diffusion": lambda config: create_process(config.model.diffusion),
    "training.loss.penalty": lambda config: config.training.loss.penalty.build(),
    "training.loss.weighting": lambda config: config.training.loss.weighting.build(),
    "training.loss.times": lambda config: config.training.loss.times.build(),
    "sampler": lambda config: config.sampler.build(),
}
"""Code that calls the classes of each section."""


def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.zeros(1))


def section_of(changes: dict[str, object]) -> str:
    return next(section for section in BUILD if any(key.startswith(section) for key in changes))


def test_all_sections_are_tried() -> None:
    sections = {choice.KEY for choice in CHOICES}
    assert sections == BUILD.keys() == set(map(section_of, TAKEN)) == {section_of(changes) for changes, _ in REFUSED}


@pytest.mark.parametrize("changes", TAKEN, ids=str)
def test_a_class_that_passes_the_check_accepts_the_real_call(changed: Change, changes: dict[str, object]) -> None:
    config = parse_config(changed(changes))
    assert isinstance(config, TrainConfig)
    BUILD[section_of(changes)](config)


@pytest.mark.parametrize(("changes", "faults"), REFUSED, ids=str)
def test_a_refused_class_rejects_the_real_call(changed: Change, changes: dict[str, object], faults: list[str]) -> None:
    assert lines(changed(changes)) == faults
    with pytest.raises((TypeError, ValueError)):
        BUILD[section_of(changes)](TrainConfig.model_validate(changed(changes)))


def test_a_built_in_class_can_be_given_by_its_path(changed: Change) -> None:
    """A built-in class given by its path is called in the same way."""
    scheduler = {"type": "diffusion_lab.training.lr_schedules.WarmupCosineLR", "warmup_steps": 3}
    config = parse_config(
        changed({"training.scheduler": scheduler, "sampler": {"type": "diffusion_lab.samplers.DDIMSampler"}})
    )
    assert isinstance(config, TrainConfig)
    entry = BUILD["training.scheduler"](config)
    assert isinstance(entry, dict)
    assert entry["interval"] == "step"


def test_options_reach_the_sampler(changed: Change) -> None:
    options = {"order": 2, "window": [0.1, 0.5]}
    assert parse_config(changed(own("sampler", "OwnSampler", **options))).sampler.build() == OwnSampler(2, (0.1, 0.5))
    sampler = parse_config(changed(own("sampler", "PlainSampler", churn=[1, 2]))).sampler.build()
    assert isinstance(sampler, PlainSampler)
    assert sampler.churn == [1, 2]  # a plain class says nothing of types


def test_a_network_receives_what_it_names_and_nothing_else(changed: Change) -> None:
    """Keys of the U-Net that remain from the default tree are dropped if the class does not take them."""
    config = parse_config(changed(own("model.architecture", "NarrowNet")))
    assert config.model is not None
    architecture = config.model.architecture
    assert architecture.options == {"model_channels": 64}
    network = architecture.build(image_size=40, in_channels=3, num_classes=None)
    assert isinstance(network, NarrowNet)
    assert network.options == {"model_channels": 64, "image_size": 40}


def test_rule_of_the_sampler_itself(changed: Change) -> None:
    falling = own("sampler", "OwnSampler", order=1, window=[1.0, 0.0])
    assert lines(changed(falling))[0].endswith(": window must rise")


def test_option_that_is_null_is_kept(changed: Change) -> None:
    config = parse_config(changed(own("training.scheduler", "Fading", power=2.0, end=None)))
    assert isinstance(config, TrainConfig)
    assert config.training.scheduler_options() == {"power": 2.0, "end": None}
    assert parse_config(config.model_dump(mode="json")) == config


def test_option_that_is_infinite_is_kept(changed: Change) -> None:
    config = parse_config(changed(own("training.optimizer", "TakesAnything", bound=math.inf)))
    assert isinstance(config, TrainConfig)
    assert config.model_dump(mode="json")["training"]["optimizer"]["bound"] == math.inf


def test_a_class_without_a_signature_is_accepted(changed: Change) -> None:
    with pytest.raises(ValueError, match="no signature"):
        inspect.signature(dict)
    parse_config(changed({"data.type": "builtins.dict", "data.whatever": 3}))


def test_classes_used_only_in_training_are_ignored_when_generating(changed: Change, tmp_path: Path) -> None:
    missing = {
        f"{section}.type": "no_such_module.Here" for section in ("data", "training.optimizer", "model.architecture")
    }
    tree = changed({"mode": "generate", "generation.checkpoint": str(tmp_path), **missing})
    assert [fault.split(" ")[0] for fault in lines(tree)] == ["model.architecture.type"]


class TestPath:
    """Targets of a dotted path, in each section that accepts one."""

    KEYS = ("model.architecture.type", "data.type", "training.optimizer.type", "training.scheduler", "sampler")

    @pytest.fixture(params=KEYS)
    def fault(self, request: pytest.FixtureRequest, changed: Change) -> Callable[[str], str]:
        key: str = request.param

        def of(path: str) -> str:
            value: object = path if key.endswith("type") else {"type": path}
            (fault,) = lines(changed({key: value}))
            rule = fault.removeprefix(f'{key.removesuffix(".type")}.type = "{path.removeprefix(f"{HERE}.")}": ')
            assert rule != fault
            return rule

        return of

    def test_no_module(self, fault: Callable[[str], str]) -> None:
        rule = fault("no_such_module.Net")
        assert rule.startswith("must be a class that can be imported (No module named 'no_such_module': it is searched")

    def test_no_such_name(self, fault: Callable[[str], str]) -> None:
        rule = "must be a class that can be imported (module 'torch.optim' has no Adamm) (did you mean 'Adam'?)"
        assert fault("torch.optim.Adamm") == rule

    def test_no_class(self, fault: Callable[[str], str]) -> None:
        assert fault(f"{HERE}.not_a_class") == "must be a class, not a int"

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ("import no_such_library", "No module named 'no_such_library' at {file}:2"),
            ("1 / 0", "ZeroDivisionError: division by zero at {file}:2"),
            ("def", "SyntaxError: invalid syntax (broken_for_this_test.py, line 2)"),
        ],
    )
    def test_module_that_fails(
        self, fault: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
    ) -> None:
        file = tmp_path / "broken_for_this_test.py"
        file.write_text(f"class Net: pass\n{code}\n")
        monkeypatch.syspath_prepend(tmp_path)
        rule = fault("broken_for_this_test.Net")
        assert rule == f"must be a class that can be imported ({reason.format(file=file)})"


class TestPathFromACheckpoint:
    """Importing runs code: classes named by a checkpoint are never imported."""

    @pytest.fixture
    def trap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """Create a module that leaves a file when it is imported; return the path of that file."""
        trace = tmp_path / "trace"
        (tmp_path / "trap_for_this_test.py").write_text(
            f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Any: pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield trace
        sys.modules.pop("trap_for_this_test", None)

    def test_trap_works(self, trap: Path, changed: Change) -> None:
        with pytest.raises(ConfigError, match="must take"):
            validate_config(changed({"training.optimizer.type": "trap_for_this_test.Any"}))
        assert trap.exists()

    def test_section_is_read_without_import(self, trap: Path, default: dict[str, Any]) -> None:
        default["model"]["architecture"] |= {"type": "trap_for_this_test.Any", "depth": 3}
        model = parse_section(ModelSettings, default["model"], "model")
        assert model.architecture.type == "trap_for_this_test.Any"
        default["model"]["diffusion"]["beta_end"] = 0.0  # nor while faults are looked for
        with pytest.raises(ConfigError, match=r"model\.diffusion\.beta_end"):
            parse_section(ModelSettings, default["model"], "model")
        sampler = {"type": "trap_for_this_test.Any", "depth": 3}
        assert parse_section(SamplerSettings, sampler, "sampler").options == {"depth": 3}
        optimizer = default["training"]["optimizer"] | sampler
        assert parse_section(OptimizerSettings, optimizer, "training.optimizer").options == {"depth": 3}
        assert not trap.exists()

    def test_checkpoint_is_read_without_import(self, trap: Path, default: dict[str, Any], tmp_path: Path) -> None:
        """No class is imported, whatever the section."""
        path = "trap_for_this_test.Any"
        for section in (default["model"]["architecture"], default["data"], *default["training"].values(), default):
            if isinstance(section, dict):
                section["type"] = path
        default |= {"sampler": {"type": path}}
        about = {"format": FORMAT, "config": default, "class_names": [], "step": 1, "epochs_done": 1}
        file = tmp_path / "last.ckpt"
        torch.save({"state_dict": {"denoiser.weight": torch.zeros(1)}, "diffusion_lab": about}, file)
        checkpoint = read_checkpoint(file)
        assert checkpoint.model is not None
        assert checkpoint.model.architecture.type == path
        with pytest.raises(ValueError, match=r"names the class 'trap_for_this_test\.Any' for its network"):
            checkpoint.denoiser()
        assert not trap.exists()
