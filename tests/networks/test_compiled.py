"""A compiled network: the same names, the same numbers, few programs, and a run that no missing compiler ends.

``backend="eager"`` follows the network as a real compiler does, and needs none.
"""

from __future__ import annotations

import copy
import gc
import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from diffusion_lab.networks.compiled import compile_in_place, reset_compiler
from tests.networks.small_networks import unet, with_random_outputs


@pytest.fixture(autouse=True)
def fresh_compiler():
    reset_compiler()
    yield
    reset_compiler()


def batch(count: int):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.rand(count, generator=generator)


def gradient(network: torch.nn.Module, count: int) -> list[torch.Tensor]:
    network.zero_grad()
    network(*batch(count)).square().mean().backward()
    return [weight.grad.clone() for weight in network.parameters()]


def test_one_program_serves_all_batch_sizes_and_keeps_names():
    network, programs = with_random_outputs(unet()), CompileCounter()
    plain, names = copy.deepcopy(network), list(network.state_dict())
    compile_in_place(network, programs)
    for count in (6, 4, 6, 5, 3, 6):
        torch.testing.assert_close(gradient(network, count), gradient(plain, count))
    assert programs.frame_count == 1
    assert list(network.state_dict()) == names


def test_a_copy_is_not_compiled():
    network, programs = with_random_outputs(unet()), CompileCounter()
    compile_in_place(network, programs)
    copy.deepcopy(network)(*batch(2))
    assert programs.frame_count == 0


def test_compiling_draws_no_random_numbers():
    network = with_random_outputs(unet(dropout=0.5))
    plain = copy.deepcopy(network)
    compile_in_place(network, "eager")
    found = []
    for each in (network, plain):
        torch.manual_seed(3)
        found.append(each(*batch(4)))
    torch.testing.assert_close(*found)


def fails_in_forward(graph, inputs):
    raise RuntimeError("No working C++ compiler found\n" + 50 * "in a long story\n")


class FailsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("no working Triton")


def fails_in_backward(graph, inputs):
    return lambda *given: tuple(FailsInBackward.apply(output) for output in graph(*given))


@pytest.mark.parametrize(
    ("backend", "why"),
    [(fails_in_forward, "No working C\\+\\+ compiler found"), (fails_in_backward, "no working Triton")],
)
def test_failed_compilation_warns_once_and_runs_eagerly(backend, why):
    network = with_random_outputs(unet())
    plain = copy.deepcopy(network)
    compile_in_place(network, backend)
    gc.collect()  # what earlier tests left behind is not warned about below
    with pytest.warns(UserWarning, match=f"runs without being compiled: .*{why}[^\n]*$") as warned:
        found = [gradient(network, count) for count in (4, 5, 4)]
    messages = [str(warning.message) for warning in warned if "on Python 3.13.0" not in str(warning.message)]
    assert len(messages) == 1, messages  # torch advises against that one Python at each guard
    torch.testing.assert_close(found, [gradient(plain, count) for count in (4, 5, 4)])


def test_error_of_the_network_is_not_attributed_to_the_compiler():
    network = with_random_outputs(unet())
    compile_in_place(network, "eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(RuntimeError, match="channels"):
            network(torch.randn(2, 3, 8, 8), torch.rand(2))
