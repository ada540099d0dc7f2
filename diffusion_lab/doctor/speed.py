"""The fastest ``performance=`` settings for this machine, by training steps of a small network."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from diffusion_lab.console.command_line import command
from diffusion_lab.doctor.findings import Finding, Status, advice, fact, problem
from diffusion_lab.doctor.timing import fastest, measure_alternately, ratio

if TYPE_CHECKING:
    import torch

    from diffusion_lab.doctor.candidates import Candidate, Effect

SECONDS = 10.0


@dataclass(frozen=True)
class Timed:
    """A candidate and its times.

    Args:
        candidate: The candidate.
        seconds: Seconds of a step in each round; empty: it was not measured.
        same: Names of further candidates that compute the same on this device.
        precision: What the network computes in, such as ``bfloat16``.
        compiling: Seconds that compiling took; None: it is not compiled.
        reason: Why it was not measured.
        command: Command that measures it; None: none does.
    """

    candidate: Candidate
    seconds: tuple[float, ...] = ()
    same: tuple[str, ...] = ()
    precision: str = "float32"
    compiling: float | None = None
    reason: str = ""
    command: str | None = None


@dataclass(frozen=True)
class Speed:
    """Results of the measurement.

    Args:
        timed: The candidates, the simplest first; the first is the default.
        device: Device that training uses.
        work: Description of what was trained.
        batch: Images per step.
        threads: CPU threads; None on another device.
        busy: Whether other programs used the cores.
    """

    timed: tuple[Timed, ...]
    device: str
    work: str = ""
    batch: int = 1
    threads: int | None = None
    busy: bool = False
    measured: tuple[Timed, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", tuple(each for each in self.timed if each.seconds))

    @property
    def best(self) -> Timed:
        """The candidate to use; the default unless another is faster beyond the noise."""
        if len(self.measured) < 2:
            return self.timed[0]
        by_name = {each.candidate.name: each for each in self.measured}
        return by_name[fastest({name: each.seconds for name, each in by_name.items()})]

    def images_per_second(self, timed: Timed) -> float:
        """Return the median speed of a candidate."""
        return self.batch / statistics.median(timed.seconds)

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "best": self.best.candidate.arguments,
            "device": self.device,
            "work": self.work,
            "threads": self.threads,
            "measured": [
                {
                    "arguments": each.candidate.arguments,
                    "same": list(each.same),
                    "images_per_second": self.images_per_second(each),
                    "seconds": list(each.seconds),
                }
                for each in self.measured
            ],
        }


def measure_speed(
    compile: bool | None, compilable: bool, busy: bool, compile_command: str, report: Callable[[str], None]
) -> Speed:
    """Compare the candidates on the device that training uses by default.

    Args:
        compile: Whether to measure compiled networks too; None: on a GPU only, since a CPU takes minutes to compile.
        compilable: Whether there is a compiler.
        busy: Whether other programs use the cores.
        compile_command: Command that measures compiled networks as well.
        report: Called with a line before each part that takes long.
    """
    import torch

    from diffusion_lab.cpu import cpu_optimizations
    from diffusion_lab.doctor.candidates import all_candidates, distinct
    from diffusion_lab.doctor.training_steps import threads_for, work_for
    from diffusion_lab.networks.compiled import reset_compiler
    from diffusion_lab.runtime.devices import resolve_device, use_threads

    device = resolve_device("auto")
    with_compiled = device.type == "cuda" if compile is None else compile
    groups = distinct(all_candidates(), device)
    timed: dict[Effect, Timed] = {}
    for effect, candidates in groups.items():
        names = tuple(each.name for each in candidates[1:])
        reason, remedy = "", None
        if effect.compiled and not compilable:
            reason = "there is no compiler"
        elif effect.compiled and not with_compiled:
            reason, remedy = "compiling takes minutes on a CPU; this measures it", compile_command
        precision = str(effect.dtype).removeprefix("torch.")
        timed[effect] = Timed(candidates[0], (), names, precision, reason=reason, command=remedy)
    to_measure = [effect for effect, each in timed.items() if not each.reason]
    if len(to_measure) < 2:
        return Speed(tuple(timed.values()), device.type)
    work = work_for(device)
    threads = threads_for(work) if device.type == "cpu" else None
    reset_compiler()
    with use_threads(threads or torch.get_num_threads()), cpu_optimizations(device):
        steps: dict[Effect, Callable[[], None]] = {}
        for effect in to_measure:
            if effect.compiled:
                report("compiling a network, which takes one to five minutes")
            steps, timed[effect] = _prepared(steps, timed[effect], effect, device)
        report(f"measuring training steps for {SECONDS:.0f} s")
        for effect, seconds in measure_alternately(steps, SECONDS).items():
            timed[effect] = replace(timed[effect], seconds=tuple(seconds))
    return Speed(tuple(timed.values()), device.type, work.text(), work.batch, threads, busy)


def _prepared(
    steps: Mapping[Effect, Callable[[], None]], timed: Timed, effect: Effect, device: torch.device
) -> tuple[dict[Effect, Callable[[], None]], Timed]:
    """Return the steps with that of one more candidate, warmed up; or without, and the reason in its entry."""
    from diffusion_lab.doctor.training_steps import training_step, warm_up, work_for

    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = training_step(work_for(device), effect, device)
        failure = warm_up(step)
    except (RuntimeError, MemoryError, ValueError) as error:
        failure = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    if failure is not None:
        return dict(steps), replace(timed, reason=failure)
    compiling = time.monotonic() - began if effect.compiled else None
    return {**steps, effect: step}, replace(timed, compiling=compiling)


def speed_findings(found: Speed) -> Iterator[Finding]:
    """Yield the speed of each candidate, and which to use."""
    if found.measured:
        rounds, seconds = len(found.measured[0].seconds), sum(sum(each.seconds) for each in found.measured)
        threads = "" if found.threads is None else f", {found.threads} {'thread' if found.threads == 1 else 'threads'}"
        yield fact(
            "measured", f"training steps of {found.work} on {found.device}{threads}; {rounds} rounds in {seconds:.1f} s"
        )
    for each in found.measured:
        yield fact(each.candidate.name, _speed_text(found, each))
    left_out: dict[tuple[str, str | None], list[str]] = {}
    for each in found.timed:
        if each.reason:
            left_out.setdefault((each.reason, each.command), []).append(each.candidate.name)
    for (reason, remedy), names in left_out.items():
        yield fact("not measured", f"{', '.join(names)}: {reason}", *([remedy] if remedy else []))
    if found.timed[0].reason:
        yield problem("best", f"the default settings cannot train here: {found.timed[0].reason}")
    else:
        yield _recommendation(found)


def _speed_text(found: Speed, timed: Timed) -> str:
    speeds = [found.batch / seconds for seconds in timed.seconds]
    quartiles = statistics.quantiles(speeds, n=4) if len(speeds) > 1 else [speeds[0]] * 3
    text = f"{_number(found.images_per_second(timed))} images/s (middle half {_number(quartiles[0])} to "
    text += f"{_number(quartiles[2])})"
    default = found.measured[0]
    if timed is not default:
        compared = ratio(default.seconds, timed.seconds)
        text += f"; {compared.median:.2f} × the default"
        if compared.low > 0:
            text += f", 95 % interval {compared.low:.2f} to {compared.high:.2f}"
    if timed.precision != "float32":
        text += f"; in {timed.precision}"
    if timed.compiling is not None:
        text += f"; compiling took {timed.compiling:.0f} s"
    return text + (f"; the same as {', '.join(timed.same)}" if timed.same else "")


def _recommendation(found: Speed) -> Finding:
    best, default = found.best, found.timed[0]
    is_default = f"{best.candidate.arguments}, which is the default"
    if len(found.measured) < 2:
        text = f"{is_default}: the others compute the same on this device, or were not measured"
    elif best is default:
        text = f"{is_default}: no other is faster beyond the noise"
    else:
        gain = ratio(default.seconds, best.seconds).median
        text = f"{best.candidate.arguments}: {gain:.2f} × as fast as the default"
        if best.precision != "float32":
            text += f", computing in {best.precision}"
        if best.compiling is not None:
            minutes = max(1, round(best.compiling / (1 - 1 / gain) / 60))
            text += f"; pays off in runs of more than {minutes} minutes"
    shown = command("train", *best.candidate.arguments.split())
    if found.busy:
        again = "other programs were running: measure again when they are done"
        return advice("best", f"{text}; {again}", shown)
    return Finding(Status.OK, "best", text, (shown,))


def _number(value: float) -> str:
    """Return a speed with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
