"""The running average against its closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from diffusion_lab.denoiser import Denoiser
from diffusion_lab.diffusion.parameterization import PredictNoise
from diffusion_lab.diffusion.schedules import DiscreteSchedule, linear_betas
from diffusion_lab.ema import EMA


class Weights(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.register_buffer("statistic", torch.full((2,), value))
        self.register_buffer("count", torch.tensor(0))


def denoiser_of(value: float = 1.0) -> Denoiser:
    schedule = DiscreteSchedule(linear_betas(10, 0.01, 0.2))
    return Denoiser(Weights(value), schedule, PredictNoise(), (1, 4, 4), num_classes=2, class_names=("cat", "dog"))


def set_to(denoiser: Denoiser, value: float) -> None:
    with torch.no_grad():
        denoiser.network.weight.fill_(value)
        denoiser.network.statistic.fill_(value)


def average_of(values: list[float], decay: float, warmup: bool) -> tuple[float, float]:
    """Parameter and buffer of the average, begun at the first value and fed the others."""
    denoiser = denoiser_of(values[0])
    ema = EMA(denoiser, decay, warmup)
    for value in values[1:]:
        set_to(denoiser, value)
        ema.update(denoiser)
    network = ema.average.network
    return network.weight.unique().item(), network.statistic.unique().item()


def test_without_warmup_it_is_the_weighted_sum_of_all_weights():
    values, decay = [1.0, 4.0, -2.0, 0.5, 3.0], 0.7
    last = len(values) - 1
    expected = decay**last * values[0]
    expected += sum((1 - decay) * decay ** (last - n) * value for n, value in enumerate(values) if n > 0)
    assert average_of(values, decay, warmup=False) == pytest.approx((expected, expected), rel=1e-6)


def test_with_warmup_the_decay_grows_to_its_value():
    values, decay = [1.0, 4.0, -2.0, 0.5, 3.0], 0.3
    expected = values[0]
    for n, value in enumerate(values[1:], start=1):
        kept = min(decay, (1 + n) / (10 + n))  # 2/11, 3/12, then 0.3
        expected = kept * expected + (1 - kept) * value
    assert average_of(values, decay, warmup=True) == pytest.approx((expected, expected), rel=1e-6)


def test_warmup_soon_forgets_the_initial_weights():
    values = [1000.0] + [1.0] * 100
    with_warmup, without = (average_of(values, 0.999, warmup)[0] for warmup in (True, False))
    assert with_warmup == pytest.approx(1, abs=1e-3)
    assert without == pytest.approx(1 + 999 * 0.999**100, rel=1e-4)


def test_decay_zero_is_the_present_weights():
    assert average_of([1.0, 5.0, 7.0], 0.0, warmup=False) == (7.0, 7.0)


def test_constant_weights_are_their_own_average():
    assert average_of([2.5] * 20, 0.9, warmup=True) == (2.5, 2.5)


def test_the_average_is_no_alias_and_never_trained():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.9)
    set_to(denoiser, 5.0)
    assert ema.average.network.weight.unique().item() == 1.0
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert denoiser.network.weight.requires_grad
    assert ema.average.class_names == ("cat", "dog")


def test_updating_leaves_the_weights_and_their_gradients_alone():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.9)
    denoiser.network.weight.grad = torch.ones(3)
    before = copy.deepcopy(denoiser.state_dict())
    ema.update(denoiser)
    assert all(torch.equal(tensor, before[name]) for name, tensor in denoiser.state_dict().items())
    assert denoiser.network.weight.grad.tolist() == [1, 1, 1]


def test_the_average_stays_in_evaluation_mode():
    ema = EMA(denoiser_of(), 0.9)
    assert ema.train() is ema
    assert not any(module.training for module in ema.modules())


def test_the_number_of_updates_travels_with_the_state():
    """So that a resumed run goes on with the decay it had."""
    denoiser = denoiser_of(1.0)
    straight = EMA(denoiser, 0.99)
    for value in (2.0, 3.0):
        set_to(denoiser, value)
        straight.update(denoiser)
    resumed = EMA(denoiser_of(0.0), 0.99)
    resumed.load_state_dict(straight.state_dict())
    for ema in (straight, resumed):
        set_to(denoiser, 9.0)
        ema.update(denoiser)
    assert torch.equal(straight.average.network.weight, resumed.average.network.weight)
    assert int(resumed.updates) == 3


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.2])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=rf"training\.ema\.decay must lie in \[0, 1\), got {decay}"):
        EMA(denoiser_of(), decay)


DECAYS = (0.3, 0.9, 0.0)
VALUES = [1.0, 4.0, -2.0, 0.5, 3.0]


def averages_of(values: list[float], warmup: bool) -> EMA:
    """The averages of all of DECAYS, begun at the first value and fed the others."""
    denoiser = denoiser_of(values[0])
    ema = EMA(denoiser, DECAYS[0], warmup, DECAYS[1:])
    for value in values[1:]:
        set_to(denoiser, value)
        ema.update(denoiser)
    return ema


@pytest.mark.parametrize("warmup", [True, False])
def test_several_decays_are_as_many_averages(warmup):
    """Each is the one that a run with its decay alone would have: the closed forms above hold for it."""
    ema = averages_of(VALUES, warmup)
    found = [average.network.weight.unique().item() for average in (ema.average, *ema.further)]
    assert found == [average_of(VALUES, decay, warmup)[0] for decay in DECAYS]
    assert len(set(found)) == len(DECAYS)
    assert int(ema.updates) == len(VALUES) - 1


def test_further_averages_are_no_aliases_either_and_count_what_is_counted():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.9, further_decays=[0.5])
    denoiser.network.count += 3
    set_to(denoiser, 5.0)
    assert ema.further[0].network.weight.unique().item() == 1.0
    ema.update(denoiser)
    assert [int(each.network.count) for each in (ema.average, *ema.further)] == [3, 3]
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_all_averages_travel_with_the_state_under_names_of_their_own():
    ema = averages_of(VALUES, warmup=True)
    names = {name.rpartition(".network.")[0] for name in ema.state_dict()} - {""}
    assert names == {"average", "further.0", "further.1"}
    resumed = EMA(denoiser_of(0.0), DECAYS[0], True, DECAYS[1:])
    resumed.load_state_dict(ema.state_dict())
    denoiser = denoiser_of(9.0)
    for each in (ema, resumed):
        each.update(denoiser)
    for name, tensor in ema.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_the_state_of_one_average_is_what_it_was():
    """So that checkpoints from before there were several load."""
    names = set(EMA(denoiser_of(), 0.9).state_dict())
    assert names == {"updates", *(f"average.{name}" for name in denoiser_of().state_dict())}


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([0.5, 1.0], r"training\.ema\.further_decays\[1\] must lie in \[0, 1\), got 1\.0"),
        ([0.9], r"training\.ema\.further_decays must differ .* training\.ema\.decay, 0\.9, got \[0\.9\]"),
        ([0.5, 0.5], r"training\.ema\.further_decays must differ from each other .* got \[0\.5, 0\.5\]"),
    ],
)
def test_further_decays_that_make_no_sense_are_refused(further, message):
    with pytest.raises(ValueError, match=message):
        EMA(denoiser_of(), 0.9, further_decays=further)


def test_it_follows_tensors_that_were_replaced_by_moving_and_another_denoiser():
    """Moving makes new tensors of buffers; what was found of the old ones must not be averaged."""
    pair = nn.ModuleDict({"trained": denoiser_of(0.0)})
    pair["ema"] = EMA(pair["trained"], 0.5, warmup=False)
    set_to(pair["trained"], 4.0)
    pair["ema"].update(pair["trained"])
    pair.double()
    set_to(pair["trained"], 6.0)
    pair["ema"].update(pair["trained"])
    average = pair["ema"].average.network
    assert (average.weight.unique().item(), average.statistic.unique().item()) == (4.0, 4.0)
    pair["ema"].update(denoiser_of(8.0).double())
    assert (average.weight.unique().item(), average.statistic.unique().item()) == (6.0, 6.0)
    assert not any(name.startswith("_") or "sources" in name for name in pair["ema"].state_dict())
