"""Networks without packaged weights: their published weights files, and selection of the file to use."""

from __future__ import annotations

import re
from pathlib import Path

from diffusion_lab.features.weights_file import KEYS, Progress, PublishedFile, file_sha256, find_weights

INCEPTION = (
    PublishedFile(
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        95.6,
    ),
)
"""Inception-v3 of the FID definition (2015-12-05), converted from TensorFlow by torch-fidelity."""

DINOV2 = tuple(
    PublishedFile(
        f"{name}_pretrain.pth", sha256, f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth", size
    )
    for name, sha256, size in (
        ("dinov2_vitl14", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1217.6),
        ("dinov2_vitb14", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346.4),
        ("dinov2_vits14", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88.3),
    )
)
"""DINOv2 without registers; arXiv:2306.04675 uses ViT-L/14, the first."""

_CLIP = "https://openaipublic.azureedge.net/clip/models"
CLIP = tuple(
    PublishedFile(f"clip-{name.lower()}-{sha256}.pt", sha256, f"{_CLIP}/{sha256}/{name}.pt", size)
    for name, sha256, size in (
        ("ViT-B-32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 353.9),
        ("ViT-B-16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 351.0),
        ("ViT-L-14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 932.8),
    )
)
"""CLIP as published by OpenAI, with the file names of torch-fidelity."""

PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {"inception": INCEPTION, "dinov2": DINOV2, "clip": CLIP}
"""Weights files by the name of the features; the first is the default."""

HEXADECIMAL = re.compile(r"[0-9a-fA-F]{64}")


def resolve_weights(
    features: str, weights: str | Path | None, sha256: str | None, progress: Progress | None = None
) -> tuple[Path, str]:
    """Return the weights file to use and its expected SHA-256.

    Args:
        features: ``inception``, ``dinov2`` or ``clip``.
        weights: The file; None for the published one, which is downloaded if it is not on this machine.
        sha256: SHA-256 of ``weights`` in hexadecimal; None if it must be a published file.
        progress: Called with (bytes downloaded, total bytes).

    Raises:
        ValueError: The file is not a published one and no hash is given, or the hash is malformed.
        OSError: The file does not exist, or cannot be downloaded.
    """
    published = PUBLISHED[features]
    if sha256 is not None and not HEXADECIMAL.fullmatch(sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    if weights is None:
        if sha256 is not None:
            raise ValueError(f"sha256 is the hash of the file in weights, which is not given: {KEYS}")
        return find_weights(features, published[0], progress), published[0].sha256
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"weights of features={features} must be a file, got {str(weights)!r}, which is none")
    if sha256 is not None:
        return path, sha256.lower()
    actual = file_sha256(path)
    if actual not in {file.sha256 for file in published}:
        names = ", ".join(file.name for file in published)
        raise ValueError(
            f"weights of features={features} must be a published file ({names}), got {str(weights)!r} with another "
            f"SHA-256, {actual}: it is damaged or another file, and is not read. If you trust it, pass that as "
            "sha256 as well (evaluation.sha256=HASH, --sha256 HASH)"
        )
    return path, actual
