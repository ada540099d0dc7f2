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
    ema = EMA(denoiser, decay, warmup=warmup)
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


def test_warmup_forgets_the_initial_weights_soon():
    values = [1000.0] + [1.0] * 100
    with_warmup, without = (average_of(values, 0.999, warmup)[0] for warmup in (True, False))
    assert with_warmup == pytest.approx(1, abs=1e-3)
    assert without == pytest.approx(1 + 999 * 0.999**100, rel=1e-4)


def test_decay_zero_gives_the_current_weights():
    assert average_of([1.0, 5.0, 7.0], 0.0, warmup=False) == (7.0, 7.0)


def test_constant_weights_are_their_own_average():
    assert average_of([2.5] * 20, 0.9, warmup=True) == (2.5, 2.5)


def test_average_is_not_an_alias_and_never_trained():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.9)
    set_to(denoiser, 5.0)
    assert ema.average.network.weight.unique().item() == 1.0
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert denoiser.network.weight.requires_grad
    assert ema.average.class_names == ("cat", "dog")


def test_update_does_not_change_weights_or_gradients():
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


def test_number_of_updates_is_in_the_state():
    """A resumed run continues with the same decay."""
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
    with pytest.raises(ValueError, match=rf"^decay must lie in \[0, 1\), got {decay}"):
        EMA(denoiser_of(), decay)


DECAYS = (0.3, 0.9, 0.0)
VALUES = [1.0, 4.0, -2.0, 0.5, 3.0]


def averages_of(values: list[float], warmup: bool) -> EMA:
    """The averages of all of DECAYS, begun at the first value and fed the others."""
    denoiser = denoiser_of(values[0])
    ema = EMA(denoiser, DECAYS[0], warmup=warmup, further_decays=DECAYS[1:])
    for value in values[1:]:
        set_to(denoiser, value)
        ema.update(denoiser)
    return ema


@pytest.mark.parametrize("warmup", [True, False])
def test_each_decay_has_its_own_average(warmup):
    """Each average equals that of a run with only its decay, so the closed forms above hold."""
    ema = averages_of(VALUES, warmup)
    found = [average.network.weight.unique().item() for average in (ema.average, *ema.further)]
    assert found == [average_of(VALUES, decay, warmup)[0] for decay in DECAYS]
    assert len(set(found)) == len(DECAYS)
    assert int(ema.updates) == len(VALUES) - 1


def test_further_averages_are_not_aliases_and_copy_counters():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.9, further_decays=[0.5])
    denoiser.network.count += 3
    set_to(denoiser, 5.0)
    assert ema.further[0].network.weight.unique().item() == 1.0
    ema.update(denoiser)
    assert [int(each.network.count) for each in (ema.average, *ema.further)] == [3, 3]
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_all_averages_are_in_the_state():
    ema = averages_of(VALUES, warmup=True)
    names = {name.rpartition(".network.")[0] for name in ema.state_dict()} - {""}
    assert names == {"average", "further.0", "further.1"}
    resumed = EMA(denoiser_of(0.0), DECAYS[0], warmup=True, further_decays=DECAYS[1:])
    resumed.load_state_dict(ema.state_dict())
    denoiser = denoiser_of(9.0)
    for each in (ema, resumed):
        each.update(denoiser)
    for name, tensor in ema.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_state_of_one_average_is_unchanged():
    """Checkpoints from before several averages load."""
    names = set(EMA(denoiser_of(), 0.9).state_dict())
    assert names == {"updates", *(f"average.{name}" for name in denoiser_of().state_dict())}


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([0.5, 1.0], r"^further_decays\[1\] must lie in \[0, 1\), got 1\.0"),
        ([0.9], r"^further_decays must differ .* decay, 0\.9, got \[0\.9\]"),
        ([0.5, 0.5], r"^further_decays must differ from each other .* got \[0\.5, 0\.5\]"),
    ],
)
def test_invalid_further_decays_are_refused(further, message):
    with pytest.raises(ValueError, match=message):
        EMA(denoiser_of(), 0.9, further_decays=further)


def test_update_follows_moved_tensors_and_another_denoiser():
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


def wrapped(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def saved_weights(value: float) -> dict[str, torch.Tensor]:
    """Return a state dict of only the network."""
    return {name: tensor.clone() for name, tensor in denoiser_of(value).network.state_dict().items()}


ELSEWHERE = {
    "a state dict of the model": lambda w: wrapped(w, "network."),
    "a state dict of the network": lambda w: w,
    "of a wrapped model": lambda w: wrapped(w, "module.network._orig_mod."),
    "a shadow": lambda w: {"shadow": wrapped(w, "network."), "decay": 0.9, "num_updates": 7},
    "a flat shadow": lambda w: {**w, "decay": 0.9, "num_updates": torch.tensor(7)},
    "torch's AveragedModel": lambda w: {"n_averaged": torch.tensor(7), **wrapped(w, "module.")},
    "ema_pytorch": lambda w: wrapped(w, "ema_model.") | {"step": torch.tensor(7), "initted": torch.tensor(True)},
    "parameters alone": lambda w: {"shadow": {"weight": w["weight"]}, "num_updates": 7},
}


@pytest.mark.parametrize("layout", ELSEWHERE)
def test_averages_of_other_programs_are_loaded(layout):
    ema = EMA(denoiser_of(1.0), 0.9, further_decays=[0.5])
    ema.load_state_dict(ELSEWHERE[layout](saved_weights(3.0)))
    for average in (ema.average, *ema.further):
        assert average.network.weight.unique().item() == 3.0
        assert average.network.statistic.unique().item() == (1.0 if layout == "parameters alone" else 3.0)
    assert int(ema.updates) == (0 if layout.startswith(("a state", "of a")) else 7)
    ema.update(denoiser_of(13.0))
    assert ema.average.network.weight.unique().item() == pytest.approx(4.0)


@pytest.mark.parametrize(("updates", "expected"), [(None, 0.9 * 3 + 0.1 * 13), (1, 0.25 * 3 + 0.75 * 13)])
def test_warmup_does_not_forget_a_loaded_average_of_unknown_age(updates, expected):
    ema = EMA(denoiser_of(1.0), 0.9, warmup=True)
    ema.load_state_dict({**saved_weights(3.0), **({} if updates is None else {"num_updates": updates})})
    ema.update(denoiser_of(13.0))
    assert ema.average.network.weight.unique().item() == pytest.approx(expected)


def test_different_loaded_decay_is_reported_and_ignored():
    ema = EMA(denoiser_of(), 0.9)
    with pytest.warns(UserWarning, match=r"of decay 0\.99: this one continues with 0\.9"):
        ema.load_state_dict({"shadow": saved_weights(3.0), "decay": torch.tensor(0.99)})
    assert ema.decay == 0.9


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "state_dict holds no weights"),
        ({"decay": 0.9}, "state_dict holds no weights"),
        ({"weight": torch.ones(3), "name": "ema"}, "something other than weights, 'name' of type str"),
        ({"weight": torch.ones(3), "more": torch.ones(3)}, "another architecture: the model has no more"),
        ({"statistic": torch.ones(2)}, "another architecture: it lacks weight"),
        ({"weight": torch.ones(4)}, "another architecture: a different shape has weight"),
        ({"shadow_params": [torch.ones(3)]}, "is a list of 1 tensors, and the model has 2"),
    ],
)
def test_state_that_is_not_an_average_of_the_model_is_refused(state, message):
    ema = EMA(denoiser_of(1.0), 0.9)
    with pytest.raises(ValueError, match=message):
        ema.load_state_dict(state)
    assert ema.average.network.weight.unique().item() == 1.0


def test_state_of_an_ema_with_other_averages_is_refused():
    several = EMA(denoiser_of(), 0.9, further_decays=[0.5])
    with pytest.raises(
        ValueError, match=r"not of an EMA of this model with 2 averages \(of decay 0\.9, 0\.5\): .*further\.0"
    ):
        several.load_state_dict(EMA(denoiser_of(), 0.9).state_dict())
    with pytest.raises(ValueError, match="state_dict is of type list, not a dict"):
        several.load_state_dict([1])


def test_model_is_not_part_of_its_ema_but_its_source():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.5)
    set_to(denoiser, 5.0)
    ema.update()
    assert ema.average.network.weight.unique().item() == 3.0
    own = {id(tensor) for tensor in (*ema.parameters(), *ema.buffers())}
    assert not own & {id(tensor) for tensor in denoiser.parameters()}
    assert ema.average.weights == "ema"
    assert denoiser.weights is None


def test_apply_and_restore_are_exact_and_ordered():
    denoiser = denoiser_of(1.0)
    ema = EMA(denoiser, 0.5)
    denoiser.network.weight.data = torch.tensor([0.1, float("nan"), -0.0])
    before = copy.deepcopy(denoiser.state_dict())
    with pytest.raises(RuntimeError, match=r"restore\(\) needs an apply_shadow\(\) before it"):
        ema.restore()
    ema.apply_shadow()
    assert denoiser.network.weight.unique().item() == 1.0
    with pytest.raises(RuntimeError, match="already applied"):
        ema.apply_shadow()
    with pytest.raises(RuntimeError, match="update needs the trained weights"):
        ema.update()
    with pytest.raises(RuntimeError, match="not called for this model"):
        ema.restore(denoiser_of())
    ema.restore()
    for name, tensor in denoiser.state_dict().items():
        assert tensor.numpy().tobytes() == before[name].numpy().tobytes()


def test_weights_are_restored_if_the_block_fails():
    denoiser, other = denoiser_of(1.0), denoiser_of(7.0)
    ema = EMA(denoiser, 0.5)
    seen = []

    def fail_inside():
        with ema.average_parameters(other):
            seen.append(other.network.weight.unique().item())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert seen == [1.0]
    assert other.network.weight.unique().item() == 7.0


def test_a_model_of_another_architecture_is_refused():
    ema = EMA(denoiser_of(), 0.5)
    for act in (ema.update, ema.apply_shadow):
        with pytest.raises(ValueError, match="model must have the architecture"):
            act(nn.Linear(2, 3))
    assert int(ema.updates) == 0


def test_update_follows_replaced_tensors_and_dtypes():
    """Loading with ``assign`` makes new parameters, ``double`` other numbers in the same ones."""
    denoiser = denoiser_of(0.0)
    ema = EMA(denoiser, 0.5)
    ema.update()
    denoiser.load_state_dict(denoiser_of(8.0).state_dict(), assign=True)
    ema.update()
    assert ema.average.network.weight.unique().item() == 4.0
    denoiser.double()
    set_to(denoiser, 6.0)
    ema.update()
    assert ema.average.network.weight.unique().item() == 5.0
    assert ema.average.network.weight.dtype == torch.float32
