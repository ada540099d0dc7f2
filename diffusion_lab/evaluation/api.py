"""Evaluation from Python: a checkpoint against the data of its run, or any two sets of images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from diffusion_lab.checkpoint.files import is_sweep
from diffusion_lab.cli.compose_evaluation import EvaluationRequest, parse_evaluation
from diffusion_lab.config.evaluation_section import DEFAULT_METRICS
from diffusion_lab.evaluation.command import find_results
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.result import Result

INSTEAD = "this gives one result; call it once for each, or evaluate.py, which measures all of them"


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

    Images and measurements are kept, and used again by the next call with the same arguments.

    Args:
        path: Checkpoint file or run folder. A sweep is refused, as are several values of a setting: this is one result.
        num_samples: Images to generate and to measure.
        split: Images of the run to compare with.
        sampler: Name of the method, or a mapping with ``type`` and its options, such as ``steps``.
        guidance_scale: Classifier-free guidance; 1 is the plain conditional model.
        use_ema: Sample from the averaged weights.
        ema_decay: Which average; the main one where None.
        reference: Folder or npz file of real images to compare with instead.
        held_out: More real images beside ``reference``.
        data_paths: Where the images of the run are now, if they have moved, by ``train`` and ``val``.
        metrics: Names of metrics.
        features: Name or dotted path of the feature extractor.
        weights: File of its weights.
        sha256: SHA-256 that this file must have, in hexadecimal; where None it must be a published one.
        seed: Of the images and of random subsets.
        device: Where to compute.
        base_dir: Folder of images and measurements; ``evaluation`` in the run folder where None.
        cache_dir: Folder of the caches; the user's where None.
        trust: Dotted paths of classes that may be imported because the checkpoint, or a run among the other sets, names
            them.
        show_progress: Say on standard error what is being done.

    Raises:
        ValueError: Naming the key of ``evaluate.py`` that the argument stands for, the value and the rule.
        FileNotFoundError: There is not a checkpoint.
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
            **_texts(weights=weights, reference=reference, held_out=held_out, cache_dir=cache_dir),
        },
        "data": {"paths": _texts(**data_paths)},
        "compute": {"seed": seed, "device": device},
        "output": _texts(base_dir=base_dir),
    }
    return _only(parse_evaluation(tree), show_progress)


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
        samples: Folder of images, generated folder, or npz file of the ADM suite.
        reference: Real images, in the same ways.
        held_out: More real images, none of which is in ``reference``.
        num_samples: Images to measure, drawn at random where there are more; all where None.
        image_size: Side in pixels that images are resized and cut to; as they are where None.
        metrics: Names of metrics.
        features: Name or dotted path of the feature extractor.
        weights: File of its weights.
        sha256: SHA-256 that this file must have, in hexadecimal; where None it must be a published one.
        seed: Of random subsets.
        device: Where to compute.
        base_dir: Folder in which measurements are kept; a folder in ``outputs/evaluation`` where None.
        cache_dir: Folder of the caches; the user's where None.
        trust: Dotted paths of classes that may be imported because a run among the sets names them.
        show_progress: Say on standard error what is being done.

    Raises:
        ValueError: Naming the key of ``evaluate.py`` that the argument stands for, the value and the rule.
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
            **_texts(weights=weights, reference=reference, held_out=held_out, cache_dir=cache_dir),
        },
        "compute": {"seed": seed, "device": device},
        "output": _texts(base_dir=base_dir),
    }
    return _only(parse_evaluation(tree), show_progress)


def _texts(**paths: str | Path | None) -> dict[str, str | None]:
    """Paths by their keys, as settings hold them."""
    return {name: None if path is None else str(path) for name, path in paths.items()}


def _only(request: EvaluationRequest, show_progress: bool) -> Result:
    """The one result that is asked for. Raises ValueError where several are."""
    checkpoint = request.config.generation.checkpoint
    if isinstance(checkpoint, Path) and is_sweep(checkpoint):
        raise ValueError(
            f"path must be a checkpoint file or a run folder, got {str(checkpoint)!r}, which is a sweep: {INSTEAD}"
        )
    for key in request.points[0].values if len(request.points) > 1 else ():
        every = [point.values[key] for point in request.points]
        values = [value for place, value in enumerate(every) if value not in every[:place]]
        if len(values) > 1:
            raise ValueError(f"{_argument(key)} must hold one value, got {key} = {values}: {INSTEAD}")
    results, _ = find_results(request, Reporter(show_progress))
    return results[0]


def _argument(key: str) -> str:
    """The argument of ``evaluate_checkpoint`` that a key comes from."""
    section, _, name = key.partition(".")
    return "sampler" if section == "sampler" else name.rpartition(".")[2]
