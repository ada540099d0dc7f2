"""Sampling API: images independent of the batch, and an unchanged model."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from diffusion_lab import DiffusionSampler, create_ddpm
from diffusion_lab.config import ConfigWarning
from diffusion_lab.guidance import Guidance
from diffusion_lab.runtime.seeds import derive_seed
from diffusion_lab.samplers import SAMPLERS, DDIMSampler, DDPMSampler
from diffusion_lab.sampling.batches import eval_mode
from diffusion_lab.sampling.image_noise import ImageNoise
from diffusion_lab.shapes import to_pixels
from tests.recorded_warnings import recorded_warnings

ROOT = Path(__file__).resolve().parents[2]
SAMPLER = DDIMSampler(steps=3)


def trained(seed: int = 0, **options):
    """A tiny denoiser whose output is not zero."""
    torch.manual_seed(seed)
    settings = {"image_size": 8, "in_channels": 1, "model_channels": 8, "num_res_blocks": 1, "num_timesteps": 20}
    model = create_ddpm(**settings, channel_multipliers=[1, 2], use_attention=[False, True], **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model():
    return trained(num_classes=10)


@pytest.fixture(scope="module")
def sampler(model):
    return DiffusionSampler(model)


LABELS = [index % 10 for index in range(70)]


@pytest.mark.parametrize("method", [SAMPLER, DDPMSampler(steps=4), DDIMSampler(steps=4, eta=1)])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_an_image_is_the_same_in_any_batch(sampler, method, scale):
    whole = sampler.sample(70, LABELS, scale, sampler=method, seed=3, batch_size=64)
    for batch_size in (7, 1):
        count = 70 if batch_size > 1 else 10
        parts = sampler.sample(count, LABELS[:count], scale, sampler=method, seed=3, batch_size=batch_size)
        # convolutions of other batch sizes round otherwise; one step of 256 is 2/255 in [-1, 1]
        torch.testing.assert_close(parts, whole[:count], rtol=0, atol=1e-3)
        assert (to_pixels(parts).int() - to_pixels(whole[:count]).int()).abs().max() <= 1


def test_an_image_does_not_depend_on_the_number_of_images_or_on_the_labels_of_others(sampler):
    whole = sampler.sample(12, LABELS[:12], sampler=SAMPLER, seed=3)
    some = sampler.sample(4, [0, 9, 2, 9], sampler=SAMPLER, seed=3)
    torch.testing.assert_close(some[[0, 2]], whole[[0, 2]], rtol=0, atol=1e-3)
    assert (some[1] - whole[1]).abs().max() > 1e-3  # its own label does count


def test_first_continues_after_earlier_images(sampler):
    whole = sampler.sample(10, LABELS[:10], sampler=DDPMSampler(steps=4), seed=3)
    rest = sampler.sample(4, LABELS[6:10], sampler=DDPMSampler(steps=4), seed=3, first=6)
    torch.testing.assert_close(rest, whole[6:], rtol=0, atol=1e-3)
    (batch,) = sampler.stream(4, LABELS[6:10], sampler=SAMPLER, seed=3, first=6)
    assert batch.first == 6


def test_batches_are_yielded_as_they_are_done(sampler):
    stream = sampler.stream(10, None, sampler=SAMPLER, seed=0, batch_size=4)
    assert [(batch.first, len(batch.images)) for batch in stream] == [(0, 4), (4, 4), (8, 2)]


def test_seed_determines_the_images_and_none_draws_a_new_one(sampler):
    first, again, other = (sampler.sample(2, None, sampler=SAMPLER, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 0.01
    unseeded = [sampler.sample(1, None, sampler=SAMPLER) for _ in range(2)]
    assert not torch.equal(*unseeded)
    assert (first[0] - first[1]).abs().max() > 0.01


def test_images_are_floats_in_the_pixel_range(sampler):
    images = sampler.sample(3, [0, 1, 2], 5.0, sampler=DDIMSampler(steps=3, clip=False), seed=0)
    assert (images.shape, images.dtype) == ((3, 1, 8, 8), torch.float32)
    assert images.abs().max() <= 1
    assert not images.requires_grad


def test_noise_of_each_image_is_standard_normal_and_separate():
    noise = ImageNoise(0, range(50), (3, 16, 16), torch.device("cpu"))
    first, second = noise(), noise()
    count = first.numel()
    for drawn in (first, second):
        assert drawn.mean().item() == pytest.approx(0, abs=4 / count**0.5)
        assert drawn.var().item() == pytest.approx(1, abs=4 * (2 / count) ** 0.5)
    together = torch.corrcoef(torch.cat([first, second]).flatten(1)) - torch.eye(100)
    assert together.abs().max() < 5.5 / 768**0.5
    again = ImageNoise(0, [7], (3, 16, 16), torch.device("cpu"))
    assert torch.equal(again()[0], first[7])
    assert torch.equal(again()[0], second[7])


def test_the_starting_noise_is_a_known_function_of_seed_and_number(model):
    """Recorded values: images of the past can be reproduced."""
    expected = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(derive_seed("image", 5, 2)))
    seen = []
    hook = model.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    DiffusionSampler(model).sample(3, None, sampler=SAMPLER, seed=5)
    hook.remove()
    torch.testing.assert_close(seen[0][2], expected)


@pytest.mark.parametrize(("scale", "sizes"), [(0.0, [5] * 3), (1.0, [5] * 3), (2.0, [10] * 3)])
def test_a_step_is_one_forward_pass(model, sampler, scale, sizes):
    seen = []
    hook = model.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    sampler.sample(5, [0, 1, 2, 3, 4], scale, sampler=SAMPLER, seed=0)
    hook.remove()
    assert seen == sizes


def test_without_guidance_images_are_bitwise_the_conditional_ones(sampler):
    off, none, one, half, two = (
        sampler.sample(3, [1, 2, 3], scale, sampler=SAMPLER, seed=0) for scale in (0.0, None, 1.0, 0.5, 2.0)
    )
    assert torch.equal(off, one)
    assert torch.equal(none, one)
    assert not torch.equal(half, one)
    assert not torch.equal(two, one)
    assert not torch.equal(half, sampler.sample(3, None, sampler=SAMPLER, seed=0))


@pytest.mark.parametrize(
    ("scale", "labels", "warns"),
    [(2.0, True, True), (0.5, True, True), (1.0, True, False), (None, True, False), (2.0, False, False)],
)
def test_guidance_without_label_dropout_warns(scale, labels, warns):
    sampler = DiffusionSampler(trained(num_classes=3, class_dropout_prob=0.0))
    with recorded_warnings() as caught:
        sampler.sample(3, [0, 1, 2] if labels else None, scale, sampler=SAMPLER, seed=0)
    messages = [str(warning.message) for warning in caught]
    assert [warning.filename for warning in caught] == [__file__] * warns
    assert len(messages) == warns
    assert all("never trained for (class_dropout_prob was 0)" in each for each in messages)


SCALES = [1.0, 3.0, 0.0, 7.0, 0.5] * 4


@pytest.mark.parametrize("method", [SAMPLER, DDPMSampler(steps=4)])
def test_image_with_its_own_scale_is_the_same_in_any_batch(sampler, method):
    whole = sampler.sample(20, LABELS[:20], SCALES, sampler=method, seed=3)
    for batch_size in (7, 1):
        parts = sampler.sample(20, LABELS[:20], SCALES, sampler=method, seed=3, batch_size=batch_size)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-3)
    for scale in set(SCALES):  # as where all have its scale
        chosen = [index for index, each in enumerate(SCALES) if each == scale]
        alike = sampler.sample(20, LABELS[:20], scale, sampler=method, seed=3)
        torch.testing.assert_close(whole[chosen], alike[chosen], rtol=0, atol=1e-3)
    assert (whole - sampler.sample(20, LABELS[:20], 1.0, sampler=method, seed=3)).abs().max() > 1e-2


def test_scales_may_be_a_tensor(sampler):
    listed = sampler.sample(2, [3, 4], [1, 2], sampler=SAMPLER, seed=0)
    for dtype in (torch.int64, torch.float64):
        assert torch.equal(
            sampler.sample(2, [3, 4], torch.tensor([1, 2], dtype=dtype), sampler=SAMPLER, seed=0), listed
        )


def test_steps_outside_the_interval_take_half_the_work(model, sampler):
    levels = SAMPLER.levels(model.schedule)[:-1]
    ratios = [level.sigma / level.alpha for level in levels]
    seen = []
    hook = model.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    middle = Guidance(interval=(ratios[2], ratios[1]))
    sampler.sample(5, LABELS[:5], 3.0, sampler=SAMPLER, guidance=middle, seed=0)
    hook.remove()
    assert seen == [5, 10, 5]


def test_guidance_reaches_every_way_to_sample(sampler):
    ways = [Guidance(), Guidance(interval=(0.1, 1.0)), Guidance(rescale=0.7)]
    images = [sampler.sample(4, [0, 0, 1, 1], 5.0, sampler=SAMPLER, guidance=way, seed=0) for way in ways]
    assert min((images[0] - other).abs().max() for other in images[1:]) > 1e-3
    for way, expected in zip(ways, images, strict=True):
        by_class, _ = sampler.sample_by_class(2, 2, 5.0, sampler=SAMPLER, guidance=way, seed=0)
        assert torch.equal(by_class, expected)


def test_averaged_weights_are_used_if_available_and_requested(model):
    ema = trained(seed=1, num_classes=10)
    both = DiffusionSampler(model, ema=ema)
    averaged, raw = (both.sample(2, sampler=SAMPLER, seed=0, use_ema=use_ema) for use_ema in (True, False))
    assert torch.equal(averaged, DiffusionSampler(ema).sample(2, sampler=SAMPLER, seed=0))
    assert torch.equal(raw, DiffusionSampler(model).sample(2, sampler=SAMPLER, seed=0))
    assert not torch.equal(averaged, raw)


def test_default_sampler_is_ddim_limited_to_the_steps_of_the_process(sampler):
    expected = sampler.sample(1, sampler=DDIMSampler(steps=20), seed=0)
    assert torch.equal(sampler.sample(1, seed=0), expected)


def test_sample_by_class_gives_the_same_number_per_class(sampler):
    images, labels = sampler.sample_by_class(2, 3, 2.0, sampler=SAMPLER, seed=1)
    assert labels == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(images, sampler.sample(6, labels, 2.0, sampler=SAMPLER, seed=1))


def test_labels_may_be_a_tensor(sampler):
    listed = sampler.sample(2, [3, 4], sampler=SAMPLER, seed=0)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert torch.equal(sampler.sample(2, torch.tensor([3, 4], dtype=dtype), sampler=SAMPLER, seed=0), listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_samples": 2, "class_labels": [3, 10]}, r"class_labels must lie in 0 to 9, got \[10\]"),
        ({"num_samples": 2, "class_labels": [-1, 3]}, r"class_labels must lie in 0 to 9, got \[-1\]"),
        ({"num_samples": 3, "class_labels": [1, 2]}, "one label for each of the 3 images, got 2"),
        ({"num_samples": 1, "class_labels": []}, "one label for each of the 1 images, got 0"),
        ({"num_samples": 1, "class_labels": [1.5]}, r"class_labels must be class numbers or names, got \[1.5\]"),
        ({"num_samples": 1, "class_labels": [True]}, r"class_labels must be class numbers or names, got \[True\]"),
        ({"num_samples": 3, "guidance_scale": [1.0, 2.0]}, "or one for each of the 3 images, got 2"),
        ({"num_samples": 1, "guidance_scale": []}, "or one for each of the 1 images, got 0"),
        ({"num_samples": 1, "guidance_scale": math.nan}, "guidance_scale must be a finite number ≥ 0"),
        ({"num_samples": 1, "guidance_scale": -2.0}, r"guidance_scale must be a finite number ≥ 0 .*, got -2\.0"),
        ({"num_samples": 2, "guidance_scale": [1.0, math.inf]}, r"guidance_scale must be .*, got \[1\.0, inf\]"),
        ({"num_samples": 1, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_samples": 1, "seed": -1}, "seed must be at least 0, got -1"),
        ({"num_samples": 1, "first": -3}, "first must be at least 0, got -3"),
        ({"num_samples": 1, "sampler": DDIMSampler(steps=21)}, r"sampler\.steps must be at most .*20, got 21"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_sampled(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSampler(model).stream(**arguments)


NOISE = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("noise", "got"),
    [
        (NOISE[:1], r"got shape \(1, 1, 8, 8\)"),
        (NOISE[:, 0], r"got shape \(2, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8), r"got shape \(2, 3, 8, 8\)"),
        (NOISE.int(), r"got torch\.int32"),
        (NOISE.bool(), r"got torch\.bool"),
        (NOISE.to(torch.complex64), r"got torch\.complex64"),
        (NOISE.numpy(), "got ndarray"),
        (NOISE + torch.tensor([0, math.inf]).view(2, 1, 1, 1), "got NaN or infinity in image 1"),
        (NOISE * math.nan, "got NaN or infinity in image 0"),
    ],
)
@pytest.mark.parametrize("way", ["sample", "sample_batch", "stream"])
def test_invalid_noise_is_refused(sampler, way, noise, got):
    with pytest.raises(
        ValueError, match=r"^noise must be a tensor of standard normal numbers of shape \(2, 1, 8, 8\), .*" + got
    ):
        getattr(sampler, way)(2, noise=noise)


@pytest.mark.parametrize("method", [SAMPLER, DDPMSampler(steps=4), DDIMSampler(steps=4, eta=1)])
def test_the_noise_of_a_seed_given_as_noise_gives_the_images_of_the_seed(sampler, method):
    """Also where the steps add noise: that of the seed, as ever."""
    noise = ImageNoise(3, range(2, 8), (1, 8, 8), torch.device("cpu"))()
    expected = sampler.sample(6, LABELS[:6], 2.0, sampler=method, seed=3, first=2)
    given = sampler.sample(6, LABELS[:6], 2.0, sampler=method, seed=3, first=2, noise=noise.double())
    assert torch.equal(given, expected)
    by_class, labels = sampler.sample_by_class(3, 2, sampler=method, seed=3, noise=noise)
    assert torch.equal(by_class, sampler.sample(6, labels, sampler=method, seed=3, noise=noise))


def test_sampling_starts_at_the_given_noise(model):
    noise = torch.randn(3, 1, 8, 8, requires_grad=True)
    seen = []
    hook = model.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    DiffusionSampler(model).sample(3, None, sampler=SAMPLER, noise=noise)
    hook.remove()
    torch.testing.assert_close(seen[0], noise.detach())
    assert noise.grad is None


def test_a_batch_is_not_split(model, sampler):
    seen = []
    hook = model.network.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    batch = sampler.sample_batch(70, LABELS, sampler=SAMPLER, seed=0, first=5)
    hook.remove()
    assert seen == [70] * 3
    assert (batch.first, batch.labels) == (5, LABELS)
    assert torch.equal(batch.images, sampler.sample(70, LABELS, sampler=SAMPLER, seed=0, first=5, batch_size=70))


def test_labels_of_a_batch_are_the_requested_ones(sampler):
    batches = list(sampler.stream(5, torch.tensor([4, 3, 2, 1, 0]), sampler=SAMPLER, seed=0, batch_size=2))
    assert [batch.labels for batch in batches] == [[4, 3], [2, 1], [0]]
    assert all(batch.labels is None for batch in sampler.stream(2, None, sampler=SAMPLER, seed=0))


def test_a_batch_too_large_for_memory_says_what_to_do(model):
    def fail(module, given):
        raise torch.OutOfMemoryError("out of memory")

    hook = model.network.register_forward_pre_hook(fail)
    with pytest.raises(
        MemoryError, match=r"^memory is too small for a batch of 70 images: ask for fewer, or use sample"
    ):
        DiffusionSampler(model).sample_batch(70, LABELS, sampler=SAMPLER)
    hook.remove()


def test_batch_warns_about_untrained_guidance():
    sampler = DiffusionSampler(trained(num_classes=3, class_dropout_prob=0.0))
    with pytest.warns(UserWarning, match="never trained for") as caught:
        sampler.sample_batch(3, [0, 1, 2], 2.0, sampler=SAMPLER, seed=0)
    assert caught[0].filename == __file__


def test_more_classes_than_the_model_has_are_refused(sampler):
    with pytest.raises(ValueError, match=r"class_labels must lie in 0 to 9, got \[10, 11\]"):
        sampler.sample_by_class(1, 12)


def test_an_unconditional_model_takes_no_labels_and_ignores_the_scale():
    sampler = DiffusionSampler(trained())
    with pytest.raises(ValueError, match="class_labels were given, but the model is unconditional"):
        sampler.sample(1, [0])
    plain, scaled = (sampler.sample(2, None, scale, sampler=SAMPLER, seed=0) for scale in (0.0, 4.0))
    assert torch.equal(plain, scaled)


class Failing(DDIMSampler):
    """Fails midway, with all that a sampler has to put back still changed."""

    def step(self, x, history, next_level, denoise, draw_noise):
        if next_level.sigma == 0:
            raise KeyboardInterrupt
        return super().step(x, history, next_level, denoise, draw_noise)


@pytest.mark.parametrize("fails", [False, True])
def test_model_and_random_states_are_unchanged(fails):
    model = trained(num_classes=10, dropout=0.3)
    ema = trained(seed=1, num_classes=10)
    modules = [*model.modules(), *ema.modules()]
    for index, module in enumerate(modules):
        module.training = index % 3 == 0  # a mode of its own for each
    modes = [module.training for module in modules]
    weights = [tensor.clone() for tensor in (*model.state_dict().values(), *ema.state_dict().values())]
    before = random_states()

    sampler = DiffusionSampler(model, ema=ema)
    for use_ema in (True, False):
        if fails:
            with pytest.raises(KeyboardInterrupt):
                sampler.sample(3, [0, 1, 2], 2.0, use_ema, sampler=Failing(steps=3), seed=0)
        else:
            sampler.sample(3, [0, 1, 2], 2.0, use_ema, sampler=DDPMSampler(steps=3))  # seed from the system

    assert [module.training for module in modules] == modes
    after = (*model.state_dict().values(), *ema.state_dict().values())
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(after, weights, strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()
    assert all(np.array_equal(now, then) for now, then in zip(random_states(), before, strict=True))


@pytest.mark.parametrize("depth", [0, 7, 40])
def test_interrupting_signal_leaves_everything_unchanged(depth):
    """Row 9 of what a run survives: the signal comes within the network."""
    model = trained(num_classes=10, dropout=0.3).train()
    ema = trained(seed=1, num_classes=10).eval()
    weights = [tensor.clone() for tensor in (*model.state_dict().values(), *ema.state_dict().values())]
    before = random_states()
    handler = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(143)))
    calls = itertools.count()

    def strike(*_):
        if next(calls) == depth:
            signal.raise_signal(signal.SIGTERM)

    hooks = [module.register_forward_pre_hook(strike) for network in (model, ema) for module in network.modules()]
    try:
        for use_ema in (True, False):
            calls = itertools.count()
            with pytest.raises(SystemExit):
                DiffusionSampler(model, ema=ema).sample(3, [0, 1, 2], 2.0, use_ema, sampler=SAMPLER, seed=0)
    finally:
        signal.signal(signal.SIGTERM, handler)
        for hook in hooks:
            hook.remove()
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in ema.modules())
    after = (*model.state_dict().values(), *ema.state_dict().values())
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(after, weights, strict=True))
    assert all(np.array_equal(now, then) for now, then in zip(random_states(), before, strict=True))


def test_interruption_while_setting_modes_restores_them():
    class Interrupted(nn.Module):
        def train(self, mode=True):
            if not mode:
                raise KeyboardInterrupt
            return super().train(mode)

    model = nn.Sequential(nn.Dropout(), Interrupted(), nn.Dropout()).train()
    with pytest.raises(KeyboardInterrupt), eval_mode(model):
        pass
    assert all(module.training for module in model.modules())


def test_model_is_unchanged_between_batches():
    model = trained()
    model.train()
    stream = DiffusionSampler(model).stream(2, sampler=SAMPLER, seed=0, batch_size=1)
    next(stream)
    assert model.training
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_sampling():
    model = trained(dropout=0.5).train()
    first, second = (DiffusionSampler(model).sample(1, sampler=SAMPLER, seed=0) for _ in range(2))
    assert torch.equal(first, second)


def test_eval_mode_restores_the_mode_of_every_module():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2))).train()
    model[1].eval()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == [True, True, False, False]


def test_progress_is_shown_only_on_request(sampler, capsys):
    sampler.sample(2, sampler=SAMPLER, seed=0, batch_size=1)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    sampler.sample(2, sampler=SAMPLER, seed=0, batch_size=1, show_progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2 images" in captured.err


ALONE = """
import sys
import warnings
import torch
from torch.utils.data import DataLoader

def refuse(*arguments, **options):
    raise AssertionError("sampling must not build this")

torch.optim.Optimizer.__init__ = refuse
DataLoader.__init__ = refuse

from diffusion_lab import DiffusionSampler, create_ddpm
from diffusion_lab.samplers import DDIMSampler
model = create_ddpm(image_size=8, in_channels=1, model_channels=8, channel_multipliers=[1], use_attention=[False],
                    num_classes=2, num_timesteps=4)
DiffusionSampler(model).sample_by_class(1, 2, 2.0, sampler=DDIMSampler(steps=2), seed=0)
DiffusionSampler(model).sample(2, seed=0)
import diffusion_lab.generation.generate, diffusion_lab.checkpoint
unwanted = {"lightning", "pytorch_lightning", "torchmetrics", "wandb", "tensorboard", "hydra", "torchvision", "sklearn"}
print(sorted(unwanted & {name.partition(".")[0] for name in sys.modules}))
"""


def test_sampling_needs_no_optimizer_data_loader_or_training_library():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_only_the_sampler_module_samples():
    """No function, method or attribute of the project is called `generate_samples`."""
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in [*(ROOT / "diffusion_lab").rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "scripts").glob("*.py")]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if "generate_samples" in (getattr(node, field, None) for field in ("name", "id", "attr", "arg", "value"))
    ]
    assert not found


def random_states():
    _, *numpy_state = np.random.get_state()
    return [torch.get_rng_state(), *numpy_state, np.array(random.getstate()[1])]


def test_missing_raw_weights_are_a_warning(model):
    model = trained(num_classes=10)
    model.weights = "ema"  # as load_denoiser says of a checkpoint's averages
    with pytest.warns(ConfigWarning, match=r"use_ema=False has no effect.*load_denoiser\(…, use_ema=False\)") as found:
        DiffusionSampler(model).sample(1, [1], use_ema=False, sampler=SAMPLER)
    assert [Path(warning.filename) for warning in found] == [Path(__file__)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffusionSampler(model).sample(1, [1], sampler=SAMPLER)
        model.weights = "raw"
        DiffusionSampler(model).sample(1, [1], use_ema=False, sampler=SAMPLER)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda one: one.sample(1, sampler=DDPMSampler),
            TypeError,
            r"^sampler must be a Sampler, .*: create it, DDPMSampler\(\)",
        ),
        (lambda one: one.sample(1, sampler=3), TypeError, r"^sampler must be a Sampler.*got 3"),
        (lambda one: one.sample(1, sampler="math.Fraction"), ValueError, r'sampler = "math.Fraction": must be a class'),
        (lambda one: one.sample(1, sampler="fractions.Fraction"), TypeError, r"^sampler must be .* not a Sampler"),
        (lambda one: one.sample(1, sampler="heunn"), ValueError, r"\n  sampler = \"heunn\": .*did you mean 'heun'"),
        (
            lambda one: one.sample(1, sampler={"type": "ddim", "steps": 0, "eta": 2}),
            ValueError,
            r"2 arguments are wrong:\n  sampler\.eta = 2: must be at most 1\n  sampler\.steps = 0: must be at least 1",
        ),
        (
            lambda one: one.sample(1, sampler={"type": "heun", "eta": 1}),
            ValueError,
            r"sampler\.eta = 1: belongs to type ddim",
        ),
        (
            lambda one: one.sample(1, sampler={"spacing": [0.1, 0.9], "steps": None}),
            ValueError,
            r"^sampler \{'spacing': \[0\.1, 0\.9\], 'steps': None\}: spacing must be a falling list",
        ),
        (lambda one: one.sample(1, sampler=DDIMSampler(eta=2)), ValueError, r"sampler\.eta = 2: must be at most 1"),
        (
            lambda one: one.sample(1, sampler={"type": "ddim", "steps": 21}),
            ValueError,
            "sampler.steps must be at most the num_timesteps of the model, 20, got 21",
        ),
        (lambda one: one.sample(2, ["a", "b"]), ValueError, r"^class_labels must be class numbers.*got \['a', 'b'\]"),
        (lambda one: one.sample(2, torch.zeros(2, 1, dtype=int)), ValueError, r"class_labels.*array of shape \(2, 1\)"),
        (lambda one: one.sample(2, [1, None]), ValueError, r"^class_labels must be .*got \[1, None\]"),
        (lambda one: one.sample(1, guidance_scale="strong"), ValueError, "^guidance_scale must be .* got 'strong'"),
        (
            lambda one: one.sample(1, guidance=0.5),
            TypeError,
            "^guidance must be a diffusion_lab.guidance.Guidance, got 0.5",
        ),
        (lambda one: one.sample("3"), ValueError, "^num_samples must be an integer of at least 1, got '3'"),
        (lambda one: one.sample(2.5), ValueError, "^num_samples must be an integer of at least 1, got 2.5"),
        (lambda one: one.sample(1, seed=0.5), ValueError, "^seed must be an integer of at least 0, got 0.5"),
        (lambda one: one.sample(1, first=True), ValueError, "^first must be an integer of at least 0, got True"),
        (lambda one: one.sample(1, batch_size=None), ValueError, "^batch_size must be an integer .*, got None"),
        (lambda one: one.sample(1, use_ema="false"), ValueError, "^use_ema must be True or False, got 'false'"),
        (
            lambda one: one.sample_batch(1, show_progress="no"),
            ValueError,
            "^show_progress must be True or False, got 'no'",
        ),
        (
            lambda one: one.sample_by_class(2, None),
            ValueError,
            "num_classes must be.* at least 1, got None",
        ),
        (
            lambda one: one.sample_by_class(0, 2),
            ValueError,
            "samples_per_class must be.* at least 1, got 0",
        ),
        (lambda one: DiffusionSampler(nn.DataParallel(one.model)), TypeError, r"got DataParallel: give its \.module"),
    ],
)
def test_wrong_arguments_are_named(sampler, call, error, message):
    with pytest.raises(error, match=message):
        call(sampler)


FLOWERS = ("rose", "tulip", "3")


@pytest.fixture(scope="module")
def flowers():
    return DiffusionSampler(trained(num_classes=3, class_names=FLOWERS))


@pytest.mark.parametrize("labels", [["tulip", "rose", "3"], ("tulip", 0, 2), ["tulip", "rose", 2]])
def test_labels_by_name_are_those_by_number(flowers, labels):
    """A string is a name, a number an index: the class named 3 is class 2."""
    expected = flowers.sample_batch(3, [1, 0, 2], 2.0, sampler=SAMPLER, seed=0)
    batch = flowers.sample_batch(3, labels, 2.0, sampler=SAMPLER, seed=0)
    assert batch.labels == [1, 0, 2]
    assert torch.equal(batch.images, expected.images)
    assert torch.equal(flowers.sample(3, labels, 2.0, sampler=SAMPLER, seed=0), expected.images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["tulip", "roses"], r"^class_labels must be classes of the model \(rose, tulip, 3\), got 'roses' .*'rose'\?"),
        (["tulip", "0"], r"^class_labels must be classes of the model .*, got '0'$"),
        (["tulip"], "^class_labels must hold one label for each of the 2 images, got 1"),
        ("tulip", r"^class_labels must hold one label .*, got the string 'tulip': \['tulip'\] \* 2 gives"),
        (["tulip", 3], r"^class_labels must lie in 0 to 2, got \[3\]"),
    ],
)
def test_labels_that_name_no_class_are_refused(flowers, labels, message):
    with pytest.raises(ValueError, match=message):
        flowers.sample(2, labels)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_by_name_is_the_one_of_that_name(sampler, name):
    """With the steps of its class, as far as the process has as many: here 20."""
    method = SAMPLERS[name]()
    expected = sampler.sample(1, seed=0, sampler=dataclasses.replace(method, steps=None if name == "ddpm" else 20))
    for chosen in (name, name.upper(), {"type": name}):
        assert torch.equal(sampler.sample(1, seed=0, sampler=chosen), expected)


def test_a_sampler_by_name_with_options(sampler):
    expected = sampler.sample(2, seed=0, sampler=DDIMSampler(steps=2, eta=0.5, spacing=(1.0, 0.5)))
    options = {"type": "ddim", "steps": 2, "eta": 0.5, "spacing": [1.0, 0.5]}
    assert torch.equal(sampler.sample(2, seed=0, sampler=options), expected)
    path = f"{DDIMSampler.__module__}.DDIMSampler"
    assert torch.equal(sampler.sample(2, seed=0, sampler=options | {"type": path}), expected)


def test_classes_of_an_unconditional_model_are_refused():
    with pytest.raises(ValueError, match="this one is unconditional"):
        DiffusionSampler(trained()).sample_by_class(2, 3)
