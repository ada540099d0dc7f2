"""The denoising loss against its definition, and the draws that it makes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusion_lab.diffusion.level import log_snr
from diffusion_lab.diffusion.loss import DenoisingLoss
from diffusion_lab.diffusion.parameterization import PARAMETERIZATIONS
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas
from diffusion_lab.diffusion.time_distribution import TIME_DISTRIBUTIONS
from diffusion_lab.diffusion.weighting import SigmoidWeighting
from diffusion_lab.runtime.seeds import derive_seed
from tests.diffusion.processes import PROCESSES

STEPS = 10
ALPHA_BAR = (1 - torch.linspace(0.01, 0.5, STEPS, dtype=torch.float64)).cumprod(0)


class Recorder(nn.Module):
    """A network that outputs `scale · noisy`, with one parameter, and remembers what it was asked."""

    def __init__(self, prediction: str = "epsilon", num_classes: int | None = None) -> None:
        super().__init__()
        self.schedule = DiscreteSchedule(linear_betas(STEPS, 0.01, 0.5))
        self.parameterization = PARAMETERIZATIONS[prediction]()
        self.num_classes = num_classes
        self.scale = nn.Parameter(torch.tensor(0.3))

    def predict(self, noisy, level, label):
        self.noisy, self.level, self.label = noisy, level, label
        return self.scale * noisy


@pytest.fixture
def clean():
    return torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_loss_and_gradient_are_those_computed_by_hand(prediction, clean):
    model = Recorder(prediction)
    loss = DenoisingLoss()(model, clean, None, seed=1)
    loss.backward()

    # what was asked tells the time of each image, and with it the noise
    step = (model.level.time * STEPS).round().long()
    alpha = ALPHA_BAR[step - 1].sqrt().float()[:, None, None, None]
    sigma = (1 - ALPHA_BAR[step - 1]).sqrt().float()[:, None, None, None]
    noise = (model.noisy - alpha * clean) / sigma
    target = {"epsilon": noise, "x0": clean, "v": alpha * noise - sigma * clean}[prediction]
    error = 0.3 * model.noisy - target
    assert loss.item() == pytest.approx(error.square().mean().item(), rel=1e-4)
    assert model.scale.grad.item() == pytest.approx((2 * error * model.noisy).mean().item(), rel=1e-4, abs=1e-5)


def test_the_noise_is_standard_normal_and_independent_of_image_and_time(clean):
    model = Recorder()
    clean = clean.repeat(20, 1, 1, 1)
    DenoisingLoss()(model, clean, None, seed=2)
    noise = noise_of(model, clean)
    count = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=4 / count**0.5)
    assert noise.var().item() == pytest.approx(1, abs=4 * (2 / count) ** 0.5)
    of_image, time = noise.mean(dim=(1, 2, 3)), model.level.time.float()
    assert abs(torch.corrcoef(torch.stack([of_image, time]))[0, 1]) < 4 / len(clean) ** 0.5
    first_pixel = noise[:, 0, 0, 0]
    assert abs(torch.corrcoef(torch.stack([first_pixel, time]))[0, 1]) < 4 / len(clean) ** 0.5
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), clean.flatten()]))[0, 1]) < 4 / count**0.5


def test_each_image_has_a_time_of_its_own(clean):
    model = Recorder()
    DenoisingLoss()(model, clean, None, seed=0)
    assert len(model.level.time.unique()) > 5


def test_the_same_seed_gives_the_same_loss_and_another_another(clean):
    model = Recorder(num_classes=10)
    loss = DenoisingLoss(label_dropout=0.3)
    label = torch.arange(64) % 10
    losses, labels = [], []
    for seed, noise in ((5, 0), (5, 1), (6, 0)):
        torch.manual_seed(noise)  # torch's own generator has no part in it
        losses.append(loss(model, clean, label, seed).item())
        labels.append(model.label)
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


def test_the_loss_leaves_the_global_random_state_alone(clean):
    before = torch.get_rng_state()
    DenoisingLoss(label_dropout=0.5)(Recorder(num_classes=3), clean, torch.zeros(64, dtype=torch.int64), seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_hidden_for_each_image_by_itself_and_in_the_share_asked_for():
    model = Recorder(num_classes=10)
    label = torch.arange(4000) % 10
    DenoisingLoss(label_dropout=0.2)(model, torch.zeros(4000, 1, 1, 1), label, seed=3)
    hidden = model.label == 10
    assert torch.equal(model.label[~hidden], label[~hidden])
    assert hidden.float().mean().item() == pytest.approx(0.2, abs=4 * (0.16 / 4000) ** 0.5)
    assert hidden.view(-1, 10).any(dim=0).all()  # no class is spared
    assert label.tolist() == [index % 10 for index in range(4000)]  # the caller's labels are as they were


@pytest.mark.parametrize(("share", "expected"), [(0.0, [0, 1, 2, 0]), (1.0, [3, 3, 3, 3])])
def test_no_label_or_every_label_can_be_hidden(share, expected):
    model = Recorder(num_classes=3)
    DenoisingLoss(label_dropout=share)(model, torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]), seed=0)
    assert model.label.tolist() == expected


def test_without_labels_nothing_is_hidden(clean):
    model = Recorder()
    DenoisingLoss(label_dropout=0.5)(model, clean, None, seed=0)
    assert model.label is None


def test_the_loss_is_in_float32_under_mixed_precision(clean):
    model = Recorder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = DenoisingLoss()(model, clean, None, seed=0)
    assert loss.dtype == torch.float32


BAND = torch.linspace(-12, 12, 24001, dtype=torch.float64)


class ErringInABand(nn.Module):
    """Denoiser of black images, whose noise is known; the squared error of its noise is exp(-log_snr² / 2)."""

    def __init__(self, process: str, prediction: str) -> None:
        super().__init__()
        self.schedule = PROCESSES[process]
        self.parameterization = PARAMETERIZATIONS[prediction]()
        self.num_classes = None

    def predict(self, noisy, level, label):
        alpha, sigma, out, (_, noise_share) = (
            level.alpha,
            level.sigma,
            self.parameterization.coefficients(level).c_out,
            self.parameterization.target(level),
        )
        error = (-(2 * (alpha / sigma).log()).square() / 4).exp() * sigma / alpha / out
        exact = (noise_share / sigma).view(-1, 1, 1, 1) * noisy
        return exact + error.nan_to_num(0).view(-1, 1, 1, 1)


TIMES = {"log_normal": {"mean": 0.0, "std": 2.0}, "logit_normal": {"std": 1.5}}


@pytest.mark.parametrize("times", TIME_DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("process", "prediction"),
    [*((process, "v") for process in PROCESSES), ("edm", "edm"), ("flow", "flow"), ("linear", "x0")],
)
@pytest.mark.parametrize("bias", [0.0, -2.0])
def test_the_sigmoid_objective_is_one_integral_over_log_snr_for_every_process_and_distribution(
    process, prediction, times, bias
):
    """arXiv:2303.00848, equation 8, without its half: ∫ w(λ) E|error of the noise|² dλ."""
    expected = torch.trapezoid((bias - BAND).sigmoid() * (-BAND.square() / 2).exp(), BAND).item()
    loss = DenoisingLoss(weighting=SigmoidWeighting(bias), times=TIME_DISTRIBUTIONS[times](**TIMES.get(times, {})))
    black = torch.zeros(20_000, 1, 1, 1)
    assert loss(ErringInABand(process, prediction), black, None, seed=0).item() == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("times", TIME_DISTRIBUTIONS)
def test_the_density_of_log_snr_sums_to_the_way_that_training_covers(process, times):
    """Both slopes multiplied are one over the density: their mean over all quantiles is the range of log-SNR."""
    schedule, distribution = PROCESSES[process], TIME_DISTRIBUTIONS[times]()
    shares = torch.linspace(0.1, 0.9, 40_001, dtype=torch.float64)
    drawn = schedule.training_times(distribution.quantile(shares, schedule))
    slopes = distribution.slope(shares, schedule) * schedule.log_snr_slope(drawn)
    first, last = (schedule.level(drawn[index].item()) for index in (0, -1))
    if last.alpha > 0:
        covered = log_snr(first) - log_snr(last)
        assert torch.trapezoid(slopes, shares).item() == pytest.approx(covered, rel=0.01)


def noise_of(model, clean):
    alpha, sigma = (values.float()[:, None, None, None] for values in (model.level.alpha, model.level.sigma))
    return (model.noisy - alpha * clean) / sigma


def test_times_and_noise_come_from_seeds_of_their_own(clean, monkeypatch):
    """From one seed, the noise of the first images would follow from the times."""
    seeds = []

    def noted(*parts):
        seeds.append(derive_seed(*parts))
        return seeds[-1]

    monkeypatch.setattr("diffusion_lab.diffusion.draws.derive_seed", noted)
    DenoisingLoss()(Recorder(), clean, None, seed=1)
    assert len(seeds) == len(set(seeds)) == 2
