"""Metrics of image sets, computed from their features: in float64, with confidence intervals, deterministic."""

from diffusion_lab.evaluation.metrics.estimate import Estimate
from diffusion_lab.evaluation.metrics.frechet import (
    Extrapolation,
    frechet_distance,
    frechet_distance_infinity,
    frechet_estimate,
)
from diffusion_lab.evaluation.metrics.inception_score import inception_score
from diffusion_lab.evaluation.metrics.kernel import KernelEstimate, kernel_distance
from diffusion_lab.evaluation.metrics.label_agreement import Agreement, LabelClassifier
from diffusion_lab.evaluation.metrics.manifold import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from diffusion_lab.evaluation.metrics.memorization import Memorization, NearestPair, memorization

__all__ = [
    "Agreement",
    "DensityCoverage",
    "Estimate",
    "Extrapolation",
    "KernelEstimate",
    "LabelClassifier",
    "Memorization",
    "NearestPair",
    "PrecisionRecall",
    "density_coverage",
    "frechet_distance",
    "frechet_distance_infinity",
    "frechet_estimate",
    "inception_score",
    "kernel_distance",
    "memorization",
    "precision_recall",
]
