"""Extractors: the same features bit by bit however images arrive, nothing drawn, and features that see what matters."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusion_lab.data.digits import digits
from diffusion_lab.data.emoji import emoji
from diffusion_lab.data.source import ArraySource
from diffusion_lab.features import chosen_features, create_extractor, extract
from diffusion_lab.features import digits as digits_module
from diffusion_lab.features.digits import DigitsExtractor
from diffusion_lab.features.extraction import BLOCK
from tests.features.own_features import Brightness

DIGITS = digits()
EMOJI = emoji()


@pytest.fixture(scope="module")
def efflite0():
    return create_extractor("efflite0")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return create_extractor("digits", source=DIGITS, cache_dir=tmp_path_factory.mktemp("cache"))


def pixels_of(source, count):
    return torch.from_numpy(source.images[np.linspace(0, len(source) - 1, count, dtype=int)])


def equal(found, expected):
    return torch.equal(found.values, expected.values) and (
        (found.logits is None and expected.logits is None) or torch.equal(found.logits, expected.logits)
    )


def in_calls_of(extractor, pixels, size):
    parts = [extractor(part) for part in pixels.split(size)]
    logits = [part.logits for part in parts if part.logits is not None]
    return type(parts[0])(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)


def tiny_classifier(source, folder, monkeypatch):
    monkeypatch.setattr(digits_module, "STEPS", 5)
    return create_extractor("digits", source=source, cache_dir=folder)


class TestSameBits:
    @pytest.mark.parametrize("name", ["efflite0", "digits", "pixels"])
    def test_batches_of_1_7_and_64_give_the_same(self, name, efflite0, classifier):
        known = {"efflite0": efflite0, "digits": classifier, "pixels": create_extractor("pixels", source=DIGITS)}
        extractor, pixels = known[name], pixels_of(DIGITS, 65 if name != "efflite0" else 10)
        expected = extractor(pixels)
        assert expected.values.shape == (len(pixels), extractor.num_features)
        assert expected.values.dtype == torch.float32
        for size in (1, 7, 64):
            assert equal(in_calls_of(extractor, pixels, size), expected)

    def test_no_image_has_no_features_and_still_so_many_columns(self, classifier):
        found = classifier(torch.zeros(0, 1, 8, 8, dtype=torch.uint8))
        assert (found.values.shape, found.logits.shape) == ((0, 128), (0, 10))

    def test_an_image_does_not_depend_on_its_neighbours(self, efflite0):
        pixels = pixels_of(EMOJI, 16)
        alone = efflite0(pixels[3:4])
        among = efflite0(torch.cat([pixels[3:4], pixels[8:]]))
        assert torch.equal(among.values[:1], alone.values)

    def test_a_memory_layout_is_no_content(self, efflite0):
        pixels = pixels_of(EMOJI, 3)
        assert equal(efflite0(pixels.contiguous(memory_format=torch.channels_last)), efflite0(pixels))

    def test_the_caller_may_compute_in_any_precision(self, efflite0):
        pixels = pixels_of(EMOJI, 2)
        expected = efflite0(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            assert equal(efflite0(pixels), expected)

    def test_nothing_is_drawn_from_the_generators_of_training(self, tmp_path, monkeypatch):
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        before = torch.rand(1).item(), np.random.rand(), random.random()
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        extract(create_extractor("efflite0"), ArraySource(EMOJI.images[:2], EMOJI.labels[:2], EMOJI.class_names))
        tiny_classifier(DIGITS, tmp_path, monkeypatch)
        assert (torch.rand(1).item(), np.random.rand(), random.random()) == before


class TestExtract:
    def test_the_set_tells_what_it_is_of(self, classifier):
        found = extract(classifier, DIGITS)
        assert len(found) == len(DIGITS)
        assert found.labels.tolist() == DIGITS.labels.tolist()
        assert (found.extractor, found.class_names) == ("digits@8", tuple("0123456789"))
        assert found.extractor_fingerprint == classifier.fingerprint
        assert found.data_fingerprint == DIGITS.fingerprint()
        part = found.subset([5, 2])
        assert torch.equal(part.values, found.values[[5, 2]])
        assert part.labels.tolist() == DIGITS.labels[[5, 2]].tolist()
        assert torch.equal(part.logits, found.logits[[5, 2]])

    def test_images_without_classes_have_no_labels(self):
        source = ArraySource(DIGITS.images[:3], [0] * 3, ())
        assert extract(create_extractor("pixels", source=source), source).labels is None

    def test_a_bounded_number_of_images_is_in_memory(self):
        class Counting(ArraySource):
            most = 0

            def load_batch(self, indices, rng):
                self.most = max(self.most, len(indices))
                return super().load_batch(indices, rng)

        source = Counting(DIGITS.images, DIGITS.labels, DIGITS.class_names)
        told = []
        found = extract(create_extractor("pixels", source=source), source, lambda *counts: told.append(counts))
        assert 0 < source.most <= BLOCK
        assert told[-1] == (len(source), len(source))
        assert torch.equal(found.values, torch.from_numpy(DIGITS.images).flatten(1).float() / 255)

    def test_a_set_of_none_is_refused(self):
        with pytest.raises(ValueError, match="at least one image"):
            extract(create_extractor("pixels", source=DIGITS), ArraySource(DIGITS.images[:0], [], ()))


class TestEffLite0:
    def test_it_orders_real_images_before_noise_and_blur(self, efflite0):
        rng = np.random.default_rng(0)
        images = torch.from_numpy(EMOJI.images[rng.permutation(len(EMOJI))[:192]])
        reference, real = efflite0(images[:96]).values.double(), images[96:]

        def distance(pixels):
            return kernel_distance(efflite0(pixels).values.double(), reference)

        noise = [noisy(real, sigma, rng) for sigma in (12, 25, 50)]
        blur = [blurred(real, sigma) for sigma in (1.0, 2.0)]
        at_random = torch.from_numpy(rng.integers(0, 256, tuple(real.shape), dtype=np.uint8))
        for series in (noise, blur):
            distances = [abs(distance(real)), *map(distance, [*series, at_random])]
            assert all(less * 1.15 < more for less, more in itertools.pairwise(distances)), distances

    def test_gray_is_seen_as_colour_of_equal_parts(self, efflite0):
        pixels = pixels_of(DIGITS, 2)
        assert equal(efflite0(pixels), efflite0(pixels.expand(-1, 3, -1, -1)))

    def test_it_classifies(self, efflite0):
        """A temple by the classes of ImageNet: palace, bell cote or monastery."""
        from sklearn.datasets import load_sample_images

        temple = torch.from_numpy(load_sample_images().images[0][None, :, 106:533].transpose(0, 3, 1, 2).copy())
        assert {698, 442, 663} & set(efflite0(temple).logits[0].topk(5).indices.tolist())


class TestDigits:
    def test_it_is_right_of_nearly_all_held_out_digits(self, classifier):
        assert classifier.num_held_out > 250
        assert classifier.held_out_accuracy > 0.96  # 0.993 here
        unseen = digits(subset="heldout")
        taken_for = classifier(torch.from_numpy(unseen.images)).logits.argmax(1)
        assert (taken_for.numpy() == unseen.labels).mean() > 0.95

    def test_training_does_not_depend_on_seeds_and_threads(self, tmp_path, monkeypatch):
        torch.manual_seed(1)
        one = tiny_classifier(DIGITS, tmp_path / "one", monkeypatch)
        torch.manual_seed(2)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            other = tiny_classifier(DIGITS, tmp_path / "other", monkeypatch)
        finally:
            torch.set_num_threads(threads)
        assert one.fingerprint == other.fingerprint

    def test_it_is_trained_once_and_then_from_the_cache(self, tmp_path, monkeypatch, capsys):
        one = tiny_classifier(DIGITS, tmp_path, monkeypatch)
        assert "of 287 held-out ones correctly" in capsys.readouterr().err
        monkeypatch.setattr(digits_module, "_trained", None)
        other = create_extractor("digits", source=DIGITS, cache_dir=tmp_path)
        assert (other.fingerprint, other.held_out_accuracy) == (one.fingerprint, one.held_out_accuracy)
        assert other.notes == one.notes
        (note,) = one.notes
        assert f"trained on 1,151 images; it classifies {one.held_out_accuracy:.1%} of 287 others correctly." in note
        assert not capsys.readouterr().err

    def test_each_version_of_torch_has_a_classifier_of_its_own(self, tmp_path, monkeypatch, capsys):
        tiny_classifier(DIGITS, tmp_path, monkeypatch)
        with monkeypatch.context() as other:
            other.setattr(torch, "__version__", "99.0")
            tiny_classifier(DIGITS, tmp_path, other)
        assert "damaged" not in capsys.readouterr().err
        monkeypatch.setattr(digits_module, "_trained", None)
        tiny_classifier(DIGITS, tmp_path, monkeypatch)

    @pytest.mark.parametrize(("size", "channels"), [(1, 1), (5, 3), (16, 1), (40, 3)])
    def test_images_of_any_size_can_be_classified(self, tmp_path, monkeypatch, size, channels):
        monkeypatch.setattr(digits_module, "STEPS_OF_LARGE", 3)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (20, channels, size, size), dtype=np.uint8)
        extractor = tiny_classifier(ArraySource(images, np.arange(20) % 2, ("a", "b")), tmp_path, monkeypatch)
        assert extractor.label == f"digits@{min(size, 32)}"
        assert extractor(torch.from_numpy(images)).logits.shape == (20, 2)
        other = torch.from_numpy(rng.integers(0, 256, (3, 4 - channels, 9, 9), dtype=np.uint8))
        assert extractor(other).values.shape == (3, 128)  # of other size and channels than it was trained on

    def test_of_more_images_than_fit_it_takes_some_of_each_class(self, tmp_path, monkeypatch):
        monkeypatch.setattr(digits_module, "MOST_IMAGES", 100)
        extractor = tiny_classifier(DIGITS, tmp_path, monkeypatch)
        assert 10 <= extractor.num_held_out <= 30

    def test_one_image_a_class_is_too_few(self, tmp_path):
        source = ArraySource(DIGITS.images[:2], [0, 1], ("a", "b"))
        with pytest.raises(ValueError, match="two images or more of some class"):
            DigitsExtractor(source, cache_dir=tmp_path)

    def test_images_without_classes_are_refused_with_what_to_do(self):
        source = ArraySource(DIGITS.images, np.zeros(len(DIGITS)), ())
        with pytest.raises(ValueError, match=r"two classes or more, got 0: .*features=pixels"):
            DigitsExtractor(source)


class TestPixels:
    def test_large_images_are_resized_and_the_label_says_so(self):
        large = create_extractor("pixels", source=emoji(image_size=48))
        assert (large.label, large.num_features) == ("pixels@32", 3 * 32 * 32)
        assert create_extractor("pixels", source=EMOJI).label == "pixels"

    def test_colour_becomes_gray_as_pillow_does_it(self):
        from PIL import Image

        extractor = create_extractor("pixels", source=ArraySource(np.zeros((1, 1, 32, 32), np.uint8), [0], ()))
        expected = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in EMOJI.images[:9]]
        found = extractor(torch.from_numpy(EMOJI.images[:9])).values.view(-1, 32, 32) * 255
        assert np.abs(found.numpy() - np.stack(expected)).max() < 1.01


class TestChoice:
    def test_auto_goes_by_size_and_classes(self):
        assert chosen_features("auto", EMOJI) == "efflite0"
        assert chosen_features("auto", DIGITS) == "digits"
        assert chosen_features("auto", ArraySource(DIGITS.images, np.zeros(len(DIGITS)), ())) == "pixels"
        assert chosen_features("clip", None) == "clip"

    def test_a_class_of_ones_own_is_made_with_what_it_takes(self):
        own = create_extractor("tests.features.own_features.Brightness", weights="file", source=DIGITS)
        assert type(own).__name__ == Brightness.__name__
        assert own.weights == "file"
        assert extract(own, DIGITS).extractor == "brightness"

    @pytest.mark.parametrize(
        ("name", "said"), [("WithNaN", "must be finite"), ("WithMore", r"\(64, 1\) for 64 images")]
    )
    def test_features_that_no_metric_can_use_are_refused(self, name, said):
        with pytest.raises(ValueError, match=said):
            extract(create_extractor(f"tests.features.own_features.{name}"), DIGITS)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"name": "effi"}, "features must be one of auto, efflite0, .*got 'effi'"),
            ({"name": "auto"}, "give source as well"),
            ({"name": "digits"}, "depends on the images"),
            ({"name": "efflite0", "weights": "a.pth"}, "weights must be left out with features=efflite0"),
            ({"name": "pixels", "sha256": "a"}, "sha256 must be left out with features=pixels"),
            ({"name": "tests.features.own_features.NoExtractor"}, "must derive from"),
            ({"name": "tests.features.own_features.WithoutName"}, "must have the attribute.* name"),
            ({"name": "tests.features.own_features.CalledInception"}, "a name of its own, got .inception."),
            ({"name": "tests.features.own_features.LabelledInception"}, "a name of its own, got .inception@299."),
            ({"name": "tests.features.own_features.Brightness", "sha256": "a"}, "sha256 must be left out"),
            ({"name": "tests.features.own_features.Nothing"}, "has no Nothing"),
            ({"name": "efflite0", "device": "cuda:77"}, "device must be a device of this machine"),
        ],
    )
    def test_what_cannot_be_made_is_refused(self, given, said):
        with pytest.raises(ValueError, match=said):
            create_extractor(**given)

    @pytest.mark.parametrize(
        "pixels",
        [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
    )
    def test_what_is_no_image_is_refused(self, pixels, efflite0):
        with pytest.raises(ValueError, match=r"pixels must be uint8 \(N, C, H, W\) of 1 or 3 channels"):
            efflite0(pixels)


def kernel_distance(one, other):
    """Unbiased squared distance by the cubic kernel of KID, of all images at once."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def mean_off_diagonal(a):
        values = kernel(a, a)
        return (values.sum() - values.trace()) / (len(a) * (len(a) - 1))

    return (mean_off_diagonal(one) + mean_off_diagonal(other) - 2 * kernel(one, other).mean()).item()


def noisy(pixels, sigma, rng):
    noise = torch.from_numpy(rng.standard_normal(tuple(pixels.shape)))
    return (pixels + sigma * noise).round().clamp(0, 255).byte()


def blurred(pixels, sigma):
    reach = int(3 * sigma + 0.5)
    weights = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float32) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).view(1, 1, 1, -1).repeat(pixels.shape[1], 1, 1, 1)
    padded = F.pad(pixels.float(), (reach,) * 4, mode="replicate")
    groups = pixels.shape[1]
    return F.conv2d(F.conv2d(padded, weights, groups=groups), weights.transpose(2, 3), groups=groups).round().byte()
