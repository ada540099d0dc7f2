"""Compiling a network in place: no name of a weight changes, and where no compiler is found it runs as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compile_in_place(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have a network run compiled from its next call on.

    The first calls take long. If the compiler is missing or fails there, for the output or for its gradient, one
    warning says so, and the network runs as it did before. Copies of the network are not compiled.

    Args:
        network: Takes batches, of any size, as all its arguments.
        backend: What torch.compile takes.
    """
    # The attribute that nn.Module.compile sets; what it would set knows no way back.
    network._compiled_call_impl = _Compiled(network, backend)


def reset_compiler() -> None:
    """Forget all that was compiled in this process. Networks of one class share the few programs that torch keeps."""
    torch._dynamo.reset()


class _Compiled:
    """A network's calls, compiled; not compiled once that has failed."""

    def __init__(self, network: nn.Module, backend: str | Callable[..., Any]) -> None:
        self.network = network
        self.run = torch.compile(network._call_impl, backend=backend)
        self.tried: set[bool] = set()

    def __call__(self, *arguments: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, Tensor) and len(argument) > 1:
                # One program for all sizes of a batch: else an epoch's last one, smaller, is compiled for anew.
                torch._dynamo.maybe_mark_dynamic(argument, 0)
        with_gradient = torch.is_grad_enabled()
        if with_gradient in self.tried:
            return self.run(*arguments)
        try:
            self._try(arguments)
        except Exception as error:
            self.network._compiled_call_impl = None
            self.network(*arguments)  # raises what is no fault of the compiler
            warnings.warn(f"the network runs without being compiled: {_why(error)}", stacklevel=2)
            return self.network(*arguments)
        self.tried.add(with_gradient)
        return self.run(*arguments)

    def _try(self, arguments: tuple[Any, ...]) -> None:
        """Compile, also for the gradient, which torch else does in the backward pass, where there is no way back."""
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        devices = {weight.device.index for weight in weights if weight.is_cuda}
        with torch.random.fork_rng(devices=[index for index in devices if index is not None]):
            output = self.run(*arguments)
            if output.requires_grad:
                torch.autograd.grad(output.float().sum(), weights, allow_unused=True)


def _why(error: Exception) -> str:
    """The first line of what went wrong, of an error that may be pages long."""
    error = getattr(error, "inner_exception", error)  # of the backend, which torch wraps
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
