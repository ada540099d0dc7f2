"""Metrics equal those of torchmetrics, torch-fidelity and prdc on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from diffusion_lab.evaluation.metrics import (
    density_coverage,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)

pytestmark = pytest.mark.filterwarnings("ignore:Metric `.*` will save all extracted features")

SIZE = 48


def features(count, seed, stretch=1.0, shift=0.0):
    """Return correlated, nonnegative features, similar to those of networks."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)) / SIZE**0.5
    return (torch.randn(count, SIZE, generator=generator) * stretch @ mixing + shift).relu()


@pytest.fixture(scope="module")
def sets():
    return features(300, 1, 0.85, 0.05), features(400, 2)


class Identity(torch.nn.Module):
    """Network for torchmetrics that returns its input, which are features."""

    num_features = SIZE

    def forward(self, features):
        return features


def test_frechet_distance(sets):
    samples, reference = sets
    ours = frechet_distance(samples, reference)
    theirs = FrechetInceptionDistance(Identity()).set_dtype(torch.float64)
    theirs.update(samples.double(), real=False)
    theirs.update(reference.double(), real=True)
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)
    statistics = [fid_features_to_statistics(found.double()) for found in sets]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert ours == pytest.approx(fidelity, rel=1e-6)


def test_kernel_distance(sets):
    """On a single subset with all images, because each library draws its own random subsets."""
    samples, reference = sets[0], sets[1][:300]
    ours = kernel_distance(samples, reference, subset_size=300)
    theirs = KernelInceptionDistance(Identity(), subsets=1, subset_size=300)
    theirs.update(samples.double(), real=False)
    theirs.update(reference.double(), real=True)
    assert ours.value == pytest.approx(theirs.compute()[0].item(), rel=1e-6)
    fidelity = kid_features_to_metric(
        samples.double(), reference.double(), kid_subsets=1, kid_subset_size=300, verbose=False
    )
    assert ours.value == pytest.approx(fidelity[KEY_METRIC_KID_MEAN], rel=1e-6)


def test_kernel_distance_of_many_subsets(sets):
    """Random subsets differ, but the means agree within five standard errors."""
    ours = kernel_distance(*sets, subsets=200, subset_size=100)
    fidelity = kid_features_to_metric(
        *(found.double() for found in sets), kid_subsets=200, kid_subset_size=100, verbose=False
    )
    assert abs(ours.value - fidelity[KEY_METRIC_KID_MEAN]) < 5 * ours.subset_deviation * (2 / 200) ** 0.5


def test_inception_score_on_equal_parts(monkeypatch):
    logits = 3 * torch.randn(203, 10, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(np.random, "default_rng", lambda seed: type("", (), {"permutation": staticmethod(np.arange)}))
    ours = inception_score(logits, splits=4)
    fidelity = isc_features_to_metric(logits, splits=4, shuffle=False)
    assert ours.value == pytest.approx(fidelity[KEY_METRIC_ISC_MEAN], rel=1e-9)
    assert ours.standard_error == pytest.approx(fidelity[KEY_METRIC_ISC_STD] / 3**0.5, rel=1e-9)


def test_inception_score_of_torchmetrics():
    """Parts differ because torchmetrics shuffles with the global generator, so all parts have equal logits."""
    logits = torch.eye(4).repeat(25, 1)[torch.arange(100) % 4 == 0]
    theirs = InceptionScore(Identity(), splits=5)
    theirs.update(logits)
    assert inception_score(logits, splits=5).value == pytest.approx(theirs.compute()[0].item(), rel=1e-6)


def test_precision_and_recall(sets):
    ours = precision_recall(*sets)
    fidelity = prc_features_to_metric(
        *(found.double() for found in sets), prc_neighborhood=3, prc_batch_size=1000, verbose=False
    )
    assert ours.precision.value == pytest.approx(fidelity[KEY_METRIC_PRECISION], rel=1e-6)
    assert ours.recall.value == pytest.approx(fidelity[KEY_METRIC_RECALL], rel=1e-6)
    assert 0.1 < ours.recall.value < 0.95


@pytest.mark.parametrize("k", [3, 5])
def test_precision_recall_density_and_coverage(sets, k):
    from prdc import compute_prdc

    samples, reference = (found.double() for found in sets)
    theirs = compute_prdc(reference.numpy(), samples.numpy(), k)
    for ours in (precision_recall(samples, reference, k=k), density_coverage(samples, reference, k=k)):
        for name, estimate in ours._asdict().items():
            assert estimate.value == pytest.approx(theirs[name], rel=1e-6), name
