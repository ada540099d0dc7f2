"""Features on a GPU: close to those of the CPU, bitwise equal in any batches, and in separate caches."""

from __future__ import annotations

import numpy as np
import torch

from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.source import Subset
from diffusion_lab.features import create_extractor, find_or_compute

IMAGES = torch.from_numpy(emoji().images[np.linspace(0, 1900, 20, dtype=int)])


def test_features_are_close_to_those_of_the_cpu_and_independent_of_batches(device):
    extractor = create_extractor("efflite0", device=device)
    actual = extractor(IMAGES)
    assert actual.values.device.type == "cpu"
    expected = create_extractor("efflite0")(IMAGES)
    assert torch.allclose(actual.values, expected.values, rtol=1e-3, atol=1e-3)
    assert torch.allclose(actual.logits, expected.logits, rtol=1e-2, atol=1e-2)
    for size in (3, 7):
        parts = [extractor(part) for part in IMAGES.split(size)]
        assert torch.equal(torch.cat([part.values for part in parts]), actual.values)
        assert torch.equal(torch.cat([part.logits for part in parts]), actual.logits)


def test_precision_flags_of_the_caller_are_ignored_and_kept(device):
    extractor = create_extractor("efflite0", device=device)
    expected = extractor(IMAGES[:4]).values
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        with torch.autocast(device, torch.bfloat16):
            assert torch.equal(extractor(IMAGES[:4]).values, expected)
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


def test_each_type_of_device_has_separate_caches(tmp_path, device):
    source = Subset(emoji(), range(3))
    kinds = ("cpu", device, device)
    files = {find_or_compute(create_extractor("efflite0", device=kind), source, tmp_path).file for kind in kinds}
    assert len(files) == len(set(kinds))
