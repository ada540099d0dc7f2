"""Compute and list features of image sets: ``diffusion-lab features compute DATA`` and ``… list``."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from diffusion_lab.cli.report import run_and_report
from diffusion_lab.console.command_line import usage
from diffusion_lab.console.terminal import quiet_broken_pipe
from diffusion_lab.metric_names import MIN_IMAGES

CACHE_NOTE = "every later evaluation of these images reads them"


@quiet_broken_pipe()
def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    options = create_parser().parse_args(arguments)
    run_and_report(lambda: options.run(options))


def create_parser() -> argparse.ArgumentParser:
    """Create the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=usage("features"),
        description="Features of a reference set, computed once for all later evaluations.",
    )
    commands = parser.add_subparsers(required=True, metavar="compute|list")
    compute = commands.add_parser("compute", help="compute and cache the features of a set of images")
    compute.add_argument(
        "data",
        metavar="DATA",
        help="image folder, folder of generated images, npz file of the ADM suite, run folder or checkpoint (images of "
        "the run), or a name: digits, emoji, mnist, cifar10, fashion_mnist",
    )
    compute.add_argument(
        "--features",
        default="auto",
        metavar="NAME",
        help="efflite0, pixels, digits, inception, dinov2, clip, or the dotted path of a custom class; default: auto, "
        "as in evaluations",
    )
    compute.add_argument(
        "--image-size", type=_positive, metavar="S", help="side in pixels; default: that of the images"
    )
    compute.add_argument("--channels", type=int, choices=(1, 3), help="default: those of the images")
    compute.add_argument("--split", choices=("train", "val"), help="split of a run; default: train")
    compute.add_argument("--weights", type=_path, metavar="FILE", help="weights file of inception, dinov2 or clip")
    compute.add_argument("--sha256", metavar="HASH", help="SHA-256 of that file, unless it is a published one")
    compute.add_argument("--device", default="auto", help="auto (the best available), cpu, cuda, cuda:1, mps")
    compute.add_argument(
        "--cache-dir", type=_path, metavar="DIR", help="cache folder; default: diffusion_lab in that of the user"
    )
    compute.add_argument(
        "--trust", nargs="+", default=(), metavar="CLASS", help="classes that may be imported for the data of a run"
    )
    compute.set_defaults(run=_compute)
    listing = commands.add_parser("list", help="list the available features and their requirements")
    listing.set_defaults(run=_list)
    return parser


def _compute(options: argparse.Namespace) -> None:
    from diffusion_lab.console.messages import show_plain_warnings
    from diffusion_lab.console.terminal import printable
    from diffusion_lab.faults import ConfigWarning
    from diffusion_lab.features import create_extractor, find_or_compute, open_image_set
    from diffusion_lab.features.digits import DigitsExtractor
    from diffusion_lab.features.opaque import without_transparency
    from diffusion_lab.run_images.sources import progress_bar
    from diffusion_lab.runtime.import_class import find_classes_in

    show_plain_warnings()
    find_classes_in(None)
    cache = {"cache_dir": options.cache_dir, "cache_key": "--cache-dir"}
    source = without_transparency(
        open_image_set(
            options.data,
            options.image_size,
            options.channels,
            split=options.split,
            key="DATA",
            size_key="--image-size",
            trust=options.trust,
            **cache,
        )
    )
    with progress_bar("downloading", "bytes") as progress:
        extractor = create_extractor(
            options.features,
            source=source,
            weights=options.weights,
            sha256=options.sha256,
            device=options.device,
            progress=progress,
            **cache,
        )
    cached = find_or_compute(extractor, source, **cache)
    if isinstance(extractor, DigitsExtractor):
        accuracy, num_images = extractor.held_out_accuracy, extractor.num_held_out
        print(f"classifier trained on these images: {accuracy:.1%} of {num_images:,} held-out images correct")
    features = cached.features
    images, columns, classes = len(features), features.values.shape[1], len(features.class_names)
    labelled = f" in {classes} class{'es' * (classes > 1)}" if classes else ""
    description = f"{extractor.label} of {images:,} image{'s' * (images > 1)}{labelled}: "
    description += f"{columns:,} feature{'s' * (columns > 1)} each"
    if cached.file is None:
        print(printable(f"{description}, computed but not cached"))
    elif cached.was_cached:
        print(printable(f"{description}, already in {cached.file}: nothing is computed"))
    else:
        print(printable(f"{description}, written to {cached.file}{f': {CACHE_NOTE}' if images >= MIN_IMAGES else ''}"))
    if images < MIN_IMAGES:
        warnings.warn(
            f"DATA = {options.data} holds {images} image{'s' * (images > 1)}, and an evaluation needs at least "
            f"{MIN_IMAGES} real images to compare samples with: use more",
            ConfigWarning,
            stacklevel=2,
        )


def _list(options: argparse.Namespace) -> None:
    from diffusion_lab.features.published import PUBLISHED
    from diffusion_lab.features.weights_file import KEYS, is_downloaded

    rows = {
        "efflite0": "EfficientNet-Lite0 at 96 pixels, 1,280 features; for images of 32 pixels and more",
        "digits": "a classifier trained on the images themselves, 128 features; for tiny images with classes",
        "pixels": "the pixels; for tiny images",
        "inception": "Inception-v3, 2,048 features; FID, KID and Inception Score as published",
        "dinov2": "DINOv2 ViT-L/14, 1,024 features",
        "clip": "CLIP ViT-B/32, 512 features",
    }
    for name, description in rows.items():
        print(f"{name:<10} {description}")
        for number, file in enumerate(PUBLISHED.get(name, ())):
            status = "on this machine" if is_downloaded(file) else f"not here; {file.megabytes:,.0f} MB, {file.url}"
            print(f"{'':<10} {'weights:' if number == 0 else 'or by path:'} {file.name}, {status}")
            print(f"{'':<12} SHA-256 {file.sha256}")
    print(f"\nA weights file that is not on this machine is downloaded, or given by {KEYS}.")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _path(text: str) -> Path:
    return Path(text).expanduser()
