"""Python API of the evaluation: a checkpoint against the data of its run, or any two sets of images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from diffusion_lab.arguments import arguments_named
from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.cli.compose_evaluation import EvaluationRequest, parse_evaluation
from diffusion_lab.evaluation.command import find_results
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.result import Result
from diffusion_lab.metric_names import DEFAULT_METRICS

SINGLE_RESULT = "this returns one result; call it once for each, or use the command `evaluate` for all"


ARGUMENTS = {
    "generation.checkpoint": "path",
    "generation.trust": "trust",
    "sampler.type": "sampler",
    "data.paths": "data_paths",
    **{f"data.paths.{part}": f"data_paths[{part!r}]" for part in ("train", "val")},
    **{f"generation.sampling.{name}": name for name in ("guidance_scale", "use_ema", "ema_decay", "num_samples")},
    **{
        f"evaluation.{name}": name
        for name in (
            *("samples", "reference", "held_out", "num_samples", "image_size", "split", "metrics", "features"),
            *("weights", "sha256", "cache_dir"),
        )
    },
    "compute.seed": "seed",
    "compute.device": "device",
    "output.base_dir": "base_dir",
}
"""Arguments by the keys of ``evaluate.py`` that they fill."""


@arguments_named(ARGUMENTS)
def evaluate_checkpoint(
    path: str | Path,
    *,
    num_samples: int = 1000,
    split: Literal["train", "val"] = "train",
    sampler: str | Mapping[str, Any] = "ddim",
    guidance_scale: float = 1.0,
    use_ema: bool = True,
    ema_decay: float | None = None,
    reference: str | Path | None = None,
    held_out: str | Path | None = None,
    data_paths: Mapping[str, str | Path] = MappingProxyType({}),
    metrics: Sequence[str] = DEFAULT_METRICS,
    features: str = "auto",
    weights: str | Path | None = None,
    sha256: str | None = None,
    seed: int = 0,
    device: str = "auto",
    base_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    trust: Collection[str] = (),
    show_progress: bool = False,
) -> Result:
    """Sample from a checkpoint and compare the images with the data of its run, as ``evaluate.py ckpt=PATH`` does.

    Images and measurements are stored, and reused by the next call with the same arguments.

    Args:
        path: Checkpoint file or run folder. A sweep is refused, as are several values of a setting.
        num_samples: Number of images to generate and evaluate.
        split: Images of the run to compare with.
        sampler: Name of the sampler, or a mapping with ``type`` and its options, such as ``steps``.
        guidance_scale: Classifier-free guidance; 1 is the plain conditional model.
        use_ema: Whether to sample from the averaged weights.
        ema_decay: Decay of the average to use; None for the main one.
        reference: Folder or npz file of real images to compare with instead.
        held_out: More real images, besides ``reference``.
        data_paths: Current folders of the run's images, if they have moved, by ``train`` and ``val``.
        metrics: Names of metrics.
        features: Name or dotted path of the feature extractor.
        weights: File with its weights.
        sha256: Required SHA-256 of this file, in hexadecimal; None for that of the published file.
        seed: Seed of the images and of random subsets.
        device: Device to compute on.
        base_dir: Folder of images and measurements; None for ``evaluation`` in the run folder.
        cache_dir: Folder of the caches; None for the user's cache.
        trust: Dotted paths of classes that may be imported because the checkpoint, or a run among the other sets, names
            them.
        show_progress: Whether to print progress to standard error.

    Raises:
        ValueError: A value is invalid; the message has the argument, the value and the rule.
        FileNotFoundError: There is no checkpoint.
    """
    tree = {
        "generation": {
            "checkpoint": str(path),
            "trust": list(trust),
            "sampling": {"guidance_scale": guidance_scale, "use_ema": use_ema, "ema_decay": ema_decay},
        },
        "sampler": {"type": sampler} if isinstance(sampler, str) else dict(sampler),
        "evaluation": {
            "num_samples": num_samples,
            "split": split,
            "metrics": list(metrics),
            "features": features,
            "sha256": sha256,
            **_as_strings(weights=weights, reference=reference, held_out=held_out, cache_dir=cache_dir),
        },
        "data": {"paths": _as_strings(**data_paths)},
        "compute": {"seed": seed, "device": device},
        "output": _as_strings(base_dir=base_dir),
    }
    return _single_result(parse_evaluation(tree), show_progress)


@arguments_named(ARGUMENTS)
def evaluate_folders(
    samples: str | Path,
    reference: str | Path,
    *,
    held_out: str | Path | None = None,
    num_samples: int | None = None,
    image_size: int | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    features: str = "auto",
    weights: str | Path | None = None,
    sha256: str | None = None,
    seed: int = 0,
    device: str = "auto",
    base_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    trust: Collection[str] = (),
    show_progress: bool = False,
) -> Result:
    """Compare two sets of images, as ``evaluate.py samples=DIR reference=DIR`` does.

    Args:
        samples: Folder of images, output folder of ``sample.py``, or npz file of the ADM suite.
        reference: Real images, in one of the same forms.
        held_out: More real images, none of which is in ``reference``.
        num_samples: Number of images to evaluate, drawn at random if there are more; None for all.
        image_size: Height and width in pixels to which images are resized and cropped; None to leave them unchanged.
        metrics: Names of metrics.
        features: Name or dotted path of the feature extractor.
        weights: File with its weights.
        sha256: Required SHA-256 of this file, in hexadecimal; None for that of the published file.
        seed: Seed of random subsets.
        device: Device to compute on.
        base_dir: Folder of measurements; None for a folder in ``outputs/evaluation``.
        cache_dir: Folder of the caches; None for the user's cache.
        trust: Dotted paths of classes that may be imported because a run among the sets names them.
        show_progress: Whether to print progress to standard error.

    Raises:
        ValueError: A value is invalid; the message has the argument, the value and the rule.
        OSError: Images cannot be read.
    """
    tree = {
        "generation": {"trust": list(trust)},
        "evaluation": {
            "samples": str(samples),
            "num_samples": num_samples,
            "image_size": image_size,
            "metrics": list(metrics),
            "features": features,
            "sha256": sha256,
            **_as_strings(weights=weights, reference=reference, held_out=held_out, cache_dir=cache_dir),
        },
        "compute": {"seed": seed, "device": device},
        "output": _as_strings(base_dir=base_dir),
    }
    return _single_result(parse_evaluation(tree), show_progress)


def _as_strings(**paths: str | Path | None) -> dict[str, str | None]:
    """Convert paths to strings, as settings contain them."""
    return {name: None if path is None else str(path) for name, path in paths.items()}


def _single_result(request: EvaluationRequest, show_progress: bool) -> Result:
    """Return the only result of a request. Raises ValueError if it has several."""
    checkpoint = request.config.generation.checkpoint
    if isinstance(checkpoint, Path) and is_sweep(checkpoint):
        raise ValueError(
            f"path must be a checkpoint file or a run folder, got {str(checkpoint)!r}, which is a sweep: "
            f"{SINGLE_RESULT}"
        )
    for key in request.points[0].values if len(request.points) > 1 else ():
        all_values = [point.values[key] for point in request.points]
        values = [value for index, value in enumerate(all_values) if value not in all_values[:index]]
        if len(values) > 1:
            raise ValueError(f"{key} must be a single value, got {values}: {SINGLE_RESULT}")
    results, _ = find_results(request, Reporter(show_progress))
    return results[0]
