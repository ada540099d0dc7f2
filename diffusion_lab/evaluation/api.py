"""Evaluation from Python: a checkpoint against the data of its run, or any two sets of images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from diffusion_lab.config.compose_evaluation import EvaluationRequest, parse_evaluation
from diffusion_lab.config.evaluation_section import DEFAULT_METRICS
from diffusion_lab.evaluation.command import find_results
from diffusion_lab.evaluation.progress import Reporter
from diffusion_lab.evaluation.result import Result


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
    metrics: Sequence[str] = DEFAULT_METRICS,
    features: str = "auto",
    weights: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    base_dir: str | Path | None = None,
    trust: Collection[str] = (),
    show_progress: bool = False,
) -> Result:
    """Sample from a checkpoint and compare the images with the data of its run, as ``evaluate.py ckpt=PATH`` does.

    Images and measurements are kept, and used again by the next call with the same arguments.

    Args:
        path: Checkpoint file or run folder.
        num_samples: Images to generate and to measure.
        split: Images of the run to compare with.
        sampler: Name of the method, or a mapping with ``type`` and its options, such as ``steps``.
        guidance_scale: Classifier-free guidance; 1 is the plain conditional model.
        use_ema: Sample from the averaged weights.
        ema_decay: Which average; the main one where None.
        reference: Folder or npz file of real images to compare with instead.
        held_out: More real images beside ``reference``.
        metrics: Names of metrics.
        features: Name or dotted path of the feature extractor.
        weights: File of its weights.
        seed: Of the images and of random subsets.
        device: Where to compute.
        base_dir: Folder of images and measurements; ``evaluation`` in the run folder where None.
        trust: Dotted paths of classes that may be imported because the checkpoint names them.
        show_progress: Say on standard error what is being done.

    Raises:
        ValueError: Naming the key of ``evaluate.py`` that the argument stands for, the value and the rule.
        FileNotFoundError: There is no checkpoint.
    """
    evaluation = _evaluation(metrics, features, weights, reference, held_out)
    evaluation |= {"num_samples": num_samples, "split": split}
    tree = {
        "generation": {
            "checkpoint": str(path),
            "trust": list(trust),
            "sampling": {"guidance_scale": guidance_scale, "use_ema": use_ema, "ema_decay": ema_decay},
        },
        "sampler": {"type": sampler} if isinstance(sampler, str) else dict(sampler),
        "evaluation": evaluation,
        "compute": {"seed": seed, "device": device},
        "output": {"base_dir": None if base_dir is None else str(base_dir)},
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
    seed: int = 0,
    device: str = "auto",
    base_dir: str | Path | None = None,
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
        seed: Of random subsets.
        device: Where to compute.
        base_dir: Folder in which measurements are kept; a folder in ``outputs/evaluation`` where None.
        show_progress: Say on standard error what is being done.

    Raises:
        ValueError: Naming the key of ``evaluate.py`` that the argument stands for, the value and the rule.
        OSError: Images cannot be read.
    """
    evaluation = _evaluation(metrics, features, weights, reference, held_out)
    evaluation |= {"samples": str(samples), "num_samples": num_samples, "image_size": image_size}
    tree = {
        "evaluation": evaluation,
        "compute": {"seed": seed, "device": device},
        "output": {"base_dir": None if base_dir is None else str(base_dir)},
    }
    return _only(parse_evaluation(tree), show_progress)


def _evaluation(
    metrics: Sequence[str],
    features: str,
    weights: str | Path | None,
    reference: str | Path | None,
    held_out: str | Path | None,
) -> dict[str, Any]:
    paths = {"weights": weights, "reference": reference, "held_out": held_out}
    told = {name: None if path is None else str(path) for name, path in paths.items()}
    return {"metrics": list(metrics), "features": features, **told}


def _only(request: EvaluationRequest, show_progress: bool) -> Result:
    results, _ = find_results(request, Reporter(show_progress))
    return results[0]
