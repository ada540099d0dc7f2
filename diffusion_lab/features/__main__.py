"""Features of image sets: ``python -m diffusion_lab.features compute DATA`` and ``… list``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.config.evaluation_section import MIN_IMAGES
from diffusion_lab.config.report import run_and_report

LATER = "every later evaluation of these images starts from it"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, and do what it asks for."""
    given = _parser().parse_args(arguments)
    run_and_report(lambda: given.do(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_lab.features",
        description="The features of a reference set, computed once for every later evaluation of it.",
    )
    commands = parser.add_subparsers(required=True, metavar="compute|list")
    compute = commands.add_parser("compute", help="compute the features of a set of images, and keep them")
    compute.add_argument(
        "data",
        metavar="DATA",
        help="a folder of images, a folder made by sample.py, an npz of the ADM suite, a run folder or checkpoint (its "
        "own images), or a name: digits, emoji, mnist, cifar10, fashion_mnist",
    )
    compute.add_argument(
        "--features",
        default="auto",
        metavar="NAME",
        help="efflite0, pixels, digits, inception, dinov2, clip, or the dotted path of a class of your own; default: "
        "auto, as in evaluate.py",
    )
    compute.add_argument("--image-size", type=_positive, metavar="S", help="side in pixels; default: as the images are")
    compute.add_argument("--channels", type=int, choices=(1, 3), help="default: as the images are")
    compute.add_argument("--split", choices=("train", "val"), help="which images of a run; default: train")
    compute.add_argument("--weights", type=_path, metavar="FILE", help="weights of inception, dinov2 or clip")
    compute.add_argument("--sha256", metavar="HASH", help="SHA-256 of that file, where it is not a published one")
    compute.add_argument("--device", default="auto", help="auto (the best there is), cpu, cuda, cuda:1, mps")
    compute.add_argument(
        "--cache-dir", type=_path, metavar="DIR", help="folder of all caches; default: diffusion_lab in the user's"
    )
    compute.add_argument("--trust", nargs="+", default=(), metavar="CLASS", help="classes that a run's data may name")
    compute.set_defaults(do=_compute)
    listing = commands.add_parser("list", help="list the features there are, and what they need")
    listing.set_defaults(do=_list)
    return parser


def _compute(given: argparse.Namespace) -> None:
    from diffusion_lab.config.faults import ConfigWarning
    from diffusion_lab.config.import_class import find_classes_in
    from diffusion_lab.features import create_extractor, find_or_compute, open_image_set
    from diffusion_lab.features.digits import DigitsExtractor
    from diffusion_lab.features.opaque import without_transparency
    from diffusion_lab.messages import show_plain_warnings
    from diffusion_lab.run_images.sources import progress_bar
    from diffusion_lab.terminal import printable

    show_plain_warnings()
    find_classes_in(None)
    cache = {"cache_dir": given.cache_dir, "cache_key": "--cache-dir"}
    source = without_transparency(
        open_image_set(
            given.data,
            given.image_size,
            given.channels,
            split=given.split,
            key="DATA",
            size_key="--image-size",
            trust=given.trust,
            **cache,
        )
    )
    with progress_bar("fetching", "bytes") as told:
        extractor = create_extractor(
            given.features,
            source=source,
            weights=given.weights,
            sha256=given.sha256,
            device=given.device,
            progress=told,
            **cache,
        )
    found = find_or_compute(extractor, source, **cache)
    if isinstance(extractor, DigitsExtractor):
        right, asked = extractor.held_out_accuracy, extractor.num_held_out
        print(f"classifier trained on these images: {right:.1%} of {asked:,} held-out ones are classified correctly")
    features = found.features
    images, columns, classes = len(features), features.values.shape[1], len(features.class_names)
    labelled = f" in {classes} class{'es' * (classes > 1)}" if classes else ""
    what = f"{extractor.label} of {images:,} image{'s' * (images > 1)}{labelled}: "
    what += f"{columns:,} feature{'s' * (columns > 1)} each"
    if found.file is None:
        print(printable(f"{what}, computed and not kept"))
    elif found.was_there:
        print(printable(f"{what}, already in {found.file}: nothing is computed"))
    else:
        print(printable(f"{what}, written to {found.file}{f': {LATER}' if images >= MIN_IMAGES else ''}"))
    if images < MIN_IMAGES:
        warnings.warn(
            f"DATA = {given.data} holds {images} image{'s' * (images > 1)}, and an evaluation needs at least "
            f"{MIN_IMAGES} real images to compare samples with: give more",
            ConfigWarning,
            stacklevel=2,
        )


def _list(given: argparse.Namespace) -> None:
    from diffusion_lab.features.published import PUBLISHED
    from diffusion_lab.features.weights_file import KEYS, is_on_this_machine

    rows = {
        "efflite0": "EfficientNet-Lite0 at 96 pixels, 1,280 features; for images of 32 pixels and more",
        "digits": "a classifier trained on the images themselves, 128 features; for tiny images with classes",
        "pixels": "the pixels; for tiny images",
        "inception": "Inception-v3, 2,048 features; FID, KID and Inception Score as published",
        "dinov2": "DINOv2 ViT-L/14, 1,024 features",
        "clip": "CLIP ViT-B/32, 512 features",
    }
    for name, what in rows.items():
        print(f"{name:<10} {what}")
        for number, file in enumerate(PUBLISHED.get(name, ())):
            there = "on this machine" if is_on_this_machine(file) else f"not here; {file.megabytes:,.0f} MB, {file.url}"
            print(f"{'':<10} {'weights:' if number == 0 else 'or by path:'} {file.name}, {there}")
            print(f"{'':<12} SHA-256 {file.sha256}")
    print(f"\nA file of weights is fetched where it is not on this machine, or given: {KEYS}.")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _path(text: str) -> Path:
    return Path(text).expanduser()


if __name__ == "__main__":
    main()
