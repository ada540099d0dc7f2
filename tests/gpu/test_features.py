"""Features on a GPU: near those of the CPU, the same bit by bit in any batches, and in caches of their own."""

from __future__ import annotations

import numpy as np
import torch

from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.source import Subset
from diffusion_lab.features import create_extractor, find_or_compute

IMAGES = torch.from_numpy(emoji().images[np.linspace(0, 1900, 20, dtype=int)])


def test_they_are_near_those_of_the_cpu_and_do_not_depend_on_batches(device):
    extractor = create_extractor("efflite0", device=device)
    found = extractor(IMAGES)
    assert found.values.device.type == "cpu"
    expected = create_extractor("efflite0")(IMAGES)
    assert torch.allclose(found.values, expected.values, rtol=1e-3, atol=1e-3)
    assert torch.allclose(found.logits, expected.logits, rtol=1e-2, atol=1e-2)
    for size in (3, 7):
        parts = [extractor(part) for part in IMAGES.split(size)]
        assert torch.equal(torch.cat([part.values for part in parts]), found.values)
        assert torch.equal(torch.cat([part.logits for part in parts]), found.logits)


def test_what_the_caller_allows_is_not_used_and_left_as_it_was(device):
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


def test_each_kind_of_device_has_caches_of_its_own(tmp_path, device):
    source = Subset(emoji(), range(3))
    kinds = ("cpu", device, device)
    files = {find_or_compute(create_extractor("efflite0", device=kind), source, tmp_path).file for kind in kinds}
    assert len(files) == len(set(kinds))
