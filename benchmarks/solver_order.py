"""Order of convergence of each ODE sampler on Gaussian data, whose ODE has a known solution.

    python -m benchmarks.solver_order

prints the table and writes docs/images/solver-order.png. Ten seconds on one core.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from diffusion_lab.diffusion.continuous import EDMSchedule
from diffusion_lab.evaluation.exact import GaussianData
from diffusion_lab.samplers import SAMPLERS, HeunSampler, Sampler

PLOT = Path(__file__).resolve().parents[1] / "docs" / "images" / "solver-order.png"
ODE_SAMPLERS = ("ddim", "euler", "heun", "dpm_solver_pp_2m", "unipc", "dpm_solver_pp_3m")
STEPS = (5, 10, 20, 40, 80, 160, 320)

Errors = dict[str, list[float]]


def measure(steps: tuple[int, ...] = STEPS) -> Errors:
    """Return the root-mean-square error at the end of a trajectory, by sampler, for each number of steps."""
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64)
    covariance = torch.tensor([[0.30, 0.12], [0.12, 0.10]], dtype=torch.float64)
    data = GaussianData(EDMSchedule(), mean, covariance)
    return {name: [data.ode_error(sampler_of(name, count)) for count in steps] for name in ODE_SAMPLERS}


def sampler_of(name: str, steps: int) -> Sampler:
    """Return a sampler by name; Heun with slopes only, since its switch to estimates depends on the number of steps."""
    if name == "heun":
        return HeunSampler(steps=steps, spacing="karras", average="slopes")
    return SAMPLERS[name](steps=steps, spacing="karras")


def order(errors: list[float]) -> float:
    """Return the measured order: the power of the steps with which the error decreases, at the last doubling."""
    return math.log2(errors[-2] / errors[-1])


def table(errors: Errors) -> str:
    """Return a Markdown table of all errors, and the order at the last doubling of the steps."""
    lines = [
        "| sampler | " + " | ".join(f"{count} steps" for count in STEPS) + " | order |",
        "|---|" + "---|" * (len(STEPS) + 1),
    ]
    for name, values in errors.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.1e}" for value in values) + f" | {order(values):.2f} |")
    return "\n".join(lines)


def draw(errors: Errors, path: Path) -> None:
    """Plot the errors on logarithmic axes, where a method of order p is a line of slope -p."""
    import matplotlib

    matplotlib.use("Agg")  # no display needed
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    markers = iter("osD^vP")
    for name, values in errors.items():
        dashes = "--" if name == "euler" else "-"  # the same line as ddim's
        axes.loglog(STEPS, values, dashes, marker=next(markers), label=f"{name}  (order {order(values):.2f})")
    for slope, height in ((1, 0.05), (2, 0.004), (3, 2.5e-5)):
        start, end = STEPS[-3], STEPS[-1]
        axes.loglog((start, end), (height, height * (start / end) ** slope), color="0.6", linewidth=1, zorder=0)
        middle = (start * end) ** 0.5
        axes.annotate(
            f"slope −{slope}",
            (middle, height * (start / middle) ** slope),
            (4, 4),
            textcoords="offset points",
            color="0.4",
        )
    axes.set_xticks(STEPS, [str(count) for count in STEPS])
    axes.minorticks_off()
    axes.set_xlabel("steps (heun asks the network twice a step)")
    axes.set_ylabel("root-mean-square error to the exact ODE")
    axes.set_title("Error against steps: correlated Gaussian data, EDM process, karras spacing")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    measured = measure()
    print(table(measured))
    draw(measured, PLOT)
    print(f"Wrote {PLOT}")
