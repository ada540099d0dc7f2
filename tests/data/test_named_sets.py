"""Digits, emoji and torchvision's sets."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import diffusion_lab  # noqa: F401  (lets torchvision be imported)
from diffusion_lab.data.digits import digits
from diffusion_lab.data.emoji import ARCHIVE, emoji
from diffusion_lab.data.torchvision_sets import torchvision_set


def test_digits_are_those_of_scikit_learn():
    source = digits(subset="all")
    original = load_digits()
    assert (len(source), source.image_size, source.channels) == (1797, 8, 1)
    assert source.class_names == tuple("0123456789")
    np.testing.assert_array_equal(source.labels, original.target)
    assert np.abs(source.images[:, 0] / 255 * 16 - original.images).max() <= 0.5 / 255 * 16
    assert (source.images.min(), source.images.max()) == (0, 255)


def test_held_out_digits_are_a_fifth_of_each_class_and_never_trained_on():
    train, heldout = digits(subset="train"), digits(subset="heldout")
    assert len(train) + len(heldout) == 1797
    for label in range(10):
        share = (heldout.labels == label).sum() / ((train.labels == label).sum() + (heldout.labels == label).sum())
        assert share == pytest.approx(0.2, abs=0.005)
    whole = {image.tobytes() for image in digits(subset="all").images}
    halves = [{image.tobytes() for image in part.images} for part in (train, heldout)]
    assert halves[0] | halves[1] == whole
    assert not halves[0] & halves[1]


def test_digits_of_another_size_and_in_colour():
    source = digits(image_size=32, channels=3)
    assert source.load(0, None).shape == (3, 32, 32)
    np.testing.assert_array_equal(source.images[:, 0], source.images[:, 2])
    small = digits().images.astype(float).mean((1, 2, 3))
    assert np.abs(source.images.astype(float).mean((1, 2, 3)) - small).max() < 5


def test_emoji_in_ten_named_groups():
    source = emoji()
    assert (len(source), source.channels, source.image_size) == (1911, 3, 32)
    assert len(source.class_names) == 10
    counts = dict(zip(source.class_names, np.bincount(source.labels).tolist(), strict=True))
    assert counts["Flags"] == 270
    assert counts["Smileys & Emotion"] == 169
    assert counts["Component"] == 5


def test_emoji_have_the_requested_background():
    white, red, clear = emoji(), emoji(background="red"), emoji(channels=4)
    transparent = clear.images[:, 3] == 0
    assert transparent.mean() > 0.1
    assert (white.images.transpose(1, 0, 2, 3)[:, transparent] == 255).all()
    assert (red.images.transpose(1, 0, 2, 3)[:, transparent].T == (255, 0, 0)).all()
    opaque = clear.images[:, 3] == 255
    np.testing.assert_array_equal(
        white.images.transpose(1, 0, 2, 3)[:, opaque], clear.images.transpose(1, 0, 2, 3)[:3, opaque]
    )


def test_the_first_emoji_is_a_yellow_face():
    with np.load(ARCHIVE) as archive:
        assert archive["names"][0] == "grinning"
    red, green, blue = emoji().images[0, :, 8, 16].tolist()
    assert red > 230
    assert green > 180
    assert blue < 120


def test_included_archive_is_small_and_has_its_licence():
    assert ARCHIVE.stat().st_size < 2.5e6
    notice = ARCHIVE.with_name("EMOJI_LICENSE.md").read_text()
    for required in ("Twemoji", "Twitter", "jdecked", "creativecommons.org/licenses/by/4.0", "Changes made"):
        assert required in notice
    with zipfile.ZipFile(ARCHIVE) as archive:  # no time of day: the same input gives the same bytes
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_building_emoji_from_something_else_fails_with_one_line(tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "build_emoji.py"
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    command = [sys.executable, script, "--tarball", tmp_path / "no.tgz", "--output", tmp_path / "out.npz"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    assert ran.stderr.startswith("build_emoji: cannot read")
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def write_mnist(folder, images, labels, prefix):
    """MNIST's own file format (IDX), so that torchvision reads a manually placed data set."""
    folder.mkdir(parents=True)
    header = struct.pack(">4i", 2051, *images.shape)
    for name, content in {
        f"{prefix}-images-idx3-ubyte": header + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": struct.pack(">2i", 2049, len(labels)) + labels.tobytes(),
    }.items():
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_existing_torchvision_set_needs_no_network(tmp_path, name, kind):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.arange(5, dtype=np.uint8)
    write_mnist(tmp_path / kind / "raw", images, labels, "train")
    for part in ("images-idx3", "labels-idx1"):  # torchvision asks for both parts to be there
        (tmp_path / kind / "raw" / f"t10k-{part}-ubyte").write_bytes(b"")
    source = torchvision_set(name, tmp_path, train=True, image_size=28, channels=1)
    np.testing.assert_array_equal(source.images[:, 0], images)
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    assert len(source.class_names) == 10
    assert source.class_names[0] == {"mnist": "0", "fashion_mnist": "T-shirt/top"}[name]
    larger = torchvision_set(name, tmp_path, train=True, image_size=32, channels=3)
    assert larger.images.shape == (5, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "where"),
    [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw"), ("cifar10", "cifar-10")],
)
def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch, name, where):
    def no_network(*args, **kwargs):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(FileNotFoundError, match=rf"data\.type = {name} .*data\.paths\.train") as raised:
        torchvision_set(name, tmp_path, train=True, image_size=32, channels=3)
    message = str(raised.value)
    assert where in message
    assert "on another machine" in message
    assert "data=digits" in message
