"""Compiling a network in place: weight names stay the same, and without a compiler it runs eagerly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compile_in_place(network: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile a network at its next call.

    The first calls take long. If the compiler is missing or fails, for the output or its gradient, a warning is issued
    and the network runs eagerly as before. Copies of the network are not compiled.

    Args:
        network: Network whose arguments are all batches, of any size.
        backend: Backend as in ``torch.compile``.
    """
    # The attribute that nn.Module.compile sets; the value it would set has no fallback.
    network._compiled_call_impl = _Compiled(network, backend)


def reset_compiler() -> None:
    """Discard all compiled code of this process. Networks of one class share the few programs that torch keeps."""
    torch._dynamo.reset()


class _Compiled:
    """Compiled calls of a network, falling back to eager mode if compilation fails."""

    def __init__(self, network: nn.Module, backend: str | Callable[..., Any]) -> None:
        self.network = network
        self.run = torch.compile(network._call_impl, backend=backend)
        self.tried: set[bool] = set()

    def __call__(self, *arguments: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, Tensor) and len(argument) > 1:
                # One program for all batch sizes: otherwise an epoch's smaller last batch is recompiled.
                torch._dynamo.maybe_mark_dynamic(argument, 0)
        with_gradient = torch.is_grad_enabled()
        if with_gradient in self.tried:
            return self.run(*arguments)
        try:
            self._try(arguments)
        except Exception as error:
            self.network._compiled_call_impl = None
            self.network(*arguments)  # re-raises errors that are not caused by the compiler
            warnings.warn(f"the network runs without being compiled: {_reason(error)}", stacklevel=2)
            return self.network(*arguments)
        self.tried.add(with_gradient)
        return self.run(*arguments)

    def _try(self, arguments: tuple[Any, ...]) -> None:
        """Compile forward and backward; torch would compile the latter in the backward pass, too late to fall back."""
        weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        devices = {weight.device.index for weight in weights if weight.is_cuda}
        with torch.random.fork_rng(devices=[index for index in devices if index is not None]):
            output = self.run(*arguments)
            if output.requires_grad:
                torch.autograd.grad(output.float().sum(), weights, allow_unused=True)


def _reason(error: Exception) -> str:
    """Return the first line of an error, which may be pages long."""
    error = getattr(error, "inner_exception", error)  # the backend's error, which torch wraps
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
