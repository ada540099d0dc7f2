"""Feature extractors: bit-identical for any batching, without global randomness, and sensitive to image quality."""

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


def select_pixels(source, count):
    return torch.from_numpy(source.images[np.linspace(0, len(source) - 1, count, dtype=int)])


def is_equal(actual, expected):
    return torch.equal(actual.values, expected.values) and (
        (actual.logits is None and expected.logits is None) or torch.equal(actual.logits, expected.logits)
    )


def extract_in_batches(extractor, pixels, size):
    parts = [extractor(part) for part in pixels.split(size)]
    logits = [part.logits for part in parts if part.logits is not None]
    return type(parts[0])(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)


def tiny_classifier(source, folder, monkeypatch):
    monkeypatch.setattr(digits_module, "STEPS", 5)
    return create_extractor("digits", source=source, cache_dir=folder)


class TestReproducibility:
    @pytest.mark.parametrize("name", ["efflite0", "digits", "pixels"])
    def test_batches_of_1_7_and_64_give_the_same_features(self, name, efflite0, classifier):
        extractors = {"efflite0": efflite0, "digits": classifier, "pixels": create_extractor("pixels", source=DIGITS)}
        extractor, pixels = extractors[name], select_pixels(DIGITS, 65 if name != "efflite0" else 10)
        expected = extractor(pixels)
        assert expected.values.shape == (len(pixels), extractor.num_features)
        assert expected.values.dtype == torch.float32
        for size in (1, 7, 64):
            assert is_equal(extract_in_batches(extractor, pixels, size), expected)

    def test_an_empty_batch_has_the_usual_number_of_columns(self, classifier):
        empty = classifier(torch.zeros(0, 1, 8, 8, dtype=torch.uint8))
        assert (empty.values.shape, empty.logits.shape) == ((0, 128), (0, 10))

    def test_features_of_an_image_do_not_depend_on_other_images(self, efflite0):
        pixels = select_pixels(EMOJI, 16)
        alone = efflite0(pixels[3:4])
        among = efflite0(torch.cat([pixels[3:4], pixels[8:]]))
        assert torch.equal(among.values[:1], alone.values)

    def test_the_memory_format_does_not_matter(self, efflite0):
        pixels = select_pixels(EMOJI, 3)
        assert is_equal(efflite0(pixels.contiguous(memory_format=torch.channels_last)), efflite0(pixels))

    def test_autocast_of_the_caller_does_not_matter(self, efflite0):
        pixels = select_pixels(EMOJI, 2)
        expected = efflite0(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            assert is_equal(efflite0(pixels), expected)

    def test_global_random_generators_are_not_used(self, tmp_path, monkeypatch):
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        before = torch.rand(1).item(), np.random.rand(), random.random()
        torch.manual_seed(3), np.random.seed(3), random.seed(3)
        extract(create_extractor("efflite0"), ArraySource(EMOJI.images[:2], EMOJI.labels[:2], EMOJI.class_names))
        tiny_classifier(DIGITS, tmp_path, monkeypatch)
        assert (torch.rand(1).item(), np.random.rand(), random.random()) == before


class TestExtract:
    def test_a_feature_set_records_labels_and_fingerprints(self, classifier):
        features = extract(classifier, DIGITS)
        assert len(features) == len(DIGITS)
        assert features.labels.tolist() == DIGITS.labels.tolist()
        assert (features.extractor, features.class_names) == ("digits@8", tuple("0123456789"))
        assert features.extractor_fingerprint == classifier.fingerprint
        assert features.data_fingerprint == DIGITS.fingerprint()
        part = features.subset([5, 2])
        assert torch.equal(part.values, features.values[[5, 2]])
        assert part.labels.tolist() == DIGITS.labels[[5, 2]].tolist()
        assert torch.equal(part.logits, features.logits[[5, 2]])

    def test_images_without_classes_have_no_labels(self):
        source = ArraySource(DIGITS.images[:3], [0] * 3, ())
        assert extract(create_extractor("pixels", source=source), source).labels is None

    def test_the_number_of_images_in_memory_is_bounded(self):
        class Counting(ArraySource):
            largest = 0

            def load_batch(self, indices, rng):
                self.largest = max(self.largest, len(indices))
                return super().load_batch(indices, rng)

        source = Counting(DIGITS.images, DIGITS.labels, DIGITS.class_names)
        progress = []
        features = extract(create_extractor("pixels", source=source), source, lambda *counts: progress.append(counts))
        assert 0 < source.largest <= BLOCK
        assert progress[-1] == (len(source), len(source))
        assert torch.equal(features.values, torch.from_numpy(DIGITS.images).flatten(1).float() / 255)

    def test_an_empty_set_is_refused(self):
        with pytest.raises(ValueError, match="at least one image"):
            extract(create_extractor("pixels", source=DIGITS), ArraySource(DIGITS.images[:0], [], ()))


class TestEffLite0:
    def test_distance_increases_with_noise_and_blur(self, efflite0):
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

    def test_gray_images_are_repeated_to_three_channels(self, efflite0):
        pixels = select_pixels(DIGITS, 2)
        assert is_equal(efflite0(pixels), efflite0(pixels.expand(-1, 3, -1, -1)))

    def test_it_classifies(self, efflite0):
        """A photograph of a temple is classified as palace, bell cote or monastery of ImageNet."""
        from sklearn.datasets import load_sample_images

        temple = torch.from_numpy(load_sample_images().images[0][None, :, 106:533].transpose(0, 3, 1, 2).copy())
        assert {698, 442, 663} & set(efflite0(temple).logits[0].topk(5).indices.tolist())


class TestDigits:
    def test_nearly_all_held_out_digits_are_classified_correctly(self, classifier):
        assert classifier.num_held_out > 250
        assert classifier.held_out_accuracy > 0.96  # 0.993 measured
        unseen = digits(subset="heldout")
        predicted = classifier(torch.from_numpy(unseen.images)).logits.argmax(1)
        assert (predicted.numpy() == unseen.labels).mean() > 0.95

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

    def test_the_classifier_is_trained_once_and_then_cached(self, tmp_path, monkeypatch, capsys):
        one = tiny_classifier(DIGITS, tmp_path, monkeypatch)
        assert "of 287 held-out ones correctly" in capsys.readouterr().err
        monkeypatch.setattr(digits_module, "_train_classifier", None)
        other = create_extractor("digits", source=DIGITS, cache_dir=tmp_path)
        assert (other.fingerprint, other.held_out_accuracy) == (one.fingerprint, one.held_out_accuracy)
        assert other.notes == one.notes
        (note,) = one.notes
        assert f"trained on 1,151 images; it classifies {one.held_out_accuracy:.1%} of 287 others correctly." in note
        assert not capsys.readouterr().err

    def test_each_version_of_torch_has_its_own_classifier(self, tmp_path, monkeypatch, capsys):
        tiny_classifier(DIGITS, tmp_path, monkeypatch)
        with monkeypatch.context() as other:
            other.setattr(torch, "__version__", "99.0")
            tiny_classifier(DIGITS, tmp_path, other)
        assert "damaged" not in capsys.readouterr().err
        monkeypatch.setattr(digits_module, "_train_classifier", None)
        tiny_classifier(DIGITS, tmp_path, monkeypatch)

    @pytest.mark.parametrize(("size", "channels"), [(1, 1), (5, 3), (16, 1), (40, 3)])
    def test_images_of_any_size_can_be_classified(self, tmp_path, monkeypatch, size, channels):
        monkeypatch.setattr(digits_module, "STEPS_LARGE", 3)
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (20, channels, size, size), dtype=np.uint8)
        extractor = tiny_classifier(ArraySource(images, np.arange(20) % 2, ("a", "b")), tmp_path, monkeypatch)
        assert extractor.label == f"digits@{min(size, 32)}"
        assert extractor(torch.from_numpy(images)).logits.shape == (20, 2)
        other = torch.from_numpy(rng.integers(0, 256, (3, 4 - channels, 9, 9), dtype=np.uint8))
        assert extractor(other).values.shape == (3, 128)  # size and channels differ from the training images

    def test_a_large_set_is_subsampled_over_all_classes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(digits_module, "MAX_IMAGES", 100)
        extractor = tiny_classifier(DIGITS, tmp_path, monkeypatch)
        assert 10 <= extractor.num_held_out <= 30

    def test_one_image_per_class_is_too_few(self, tmp_path):
        source = ArraySource(DIGITS.images[:2], [0, 1], ("a", "b"))
        with pytest.raises(ValueError, match="two images or more of some class"):
            DigitsExtractor(source, cache_dir=tmp_path)

    def test_images_without_classes_are_refused_with_advice(self):
        source = ArraySource(DIGITS.images, np.zeros(len(DIGITS)), ())
        with pytest.raises(ValueError, match=r"two classes or more, got 0: .*features=pixels"):
            DigitsExtractor(source)


class TestPixels:
    def test_large_images_are_resized_and_the_label_says_so(self):
        large = create_extractor("pixels", source=emoji(image_size=48))
        assert (large.label, large.num_features) == ("pixels@32", 3 * 32 * 32)
        assert create_extractor("pixels", source=EMOJI).label == "pixels"

    def test_colour_is_converted_to_gray_like_in_pillow(self):
        from PIL import Image

        extractor = create_extractor("pixels", source=ArraySource(np.zeros((1, 1, 32, 32), np.uint8), [0], ()))
        expected = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in EMOJI.images[:9]]
        gray = extractor(torch.from_numpy(EMOJI.images[:9])).values.view(-1, 32, 32) * 255
        assert np.abs(gray.numpy() - np.stack(expected)).max() < 1.01


class TestChoice:
    def test_auto_depends_on_size_and_classes(self):
        assert chosen_features("auto", EMOJI) == "efflite0"
        assert chosen_features("auto", DIGITS) == "digits"
        assert chosen_features("auto", ArraySource(DIGITS.images, np.zeros(len(DIGITS)), ())) == "pixels"
        assert chosen_features("clip", None) == "clip"

    def test_a_custom_class_gets_only_the_arguments_it_accepts(self):
        custom = create_extractor("tests.features.own_features.Brightness", weights="file", source=DIGITS)
        assert type(custom).__name__ == Brightness.__name__
        assert custom.weights == "file"
        assert extract(custom, DIGITS).extractor == "brightness"

    @pytest.mark.parametrize(
        ("name", "message"), [("WithNaN", "must be finite"), ("WithMore", r"\(64, 1\) for 64 images")]
    )
    def test_features_that_no_metric_can_use_are_refused(self, name, message):
        with pytest.raises(ValueError, match=message):
            extract(create_extractor(f"tests.features.own_features.{name}"), DIGITS)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"name": "effi"}, "features must be one of auto, efflite0, .*got 'effi'"),
            ({"name": "auto"}, "pass source"),
            ({"name": "digits"}, "depends on the images"),
            ({"name": "efflite0", "weights": "a.pth"}, "weights must be left out with features=efflite0"),
            ({"name": "pixels", "sha256": "a"}, "sha256 must be left out with features=pixels"),
            ({"name": "tests.features.own_features.NoExtractor"}, "must derive from"),
            ({"name": "tests.features.own_features.WithoutName"}, "must have the attribute.* name"),
            ({"name": "tests.features.own_features.CalledInception"}, "a unique name, got .inception."),
            ({"name": "tests.features.own_features.LabelledInception"}, "a unique name, got .inception@299."),
            ({"name": "tests.features.own_features.Brightness", "sha256": "a"}, "sha256 must be left out"),
            ({"name": "tests.features.own_features.Nothing"}, "has no Nothing"),
            ({"name": "efflite0", "device": "cuda:77"}, "device must be a device of this machine"),
        ],
    )
    def test_invalid_arguments_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            create_extractor(**arguments)

    @pytest.mark.parametrize(
        "pixels",
        [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)],
    )
    def test_tensors_that_are_not_images_are_refused(self, pixels, efflite0):
        with pytest.raises(ValueError, match=r"pixels must be uint8 \(N, C, H, W\) of 1 or 3 channels"):
            efflite0(pixels)


def kernel_distance(one, other):
    """Return the unbiased squared MMD with the cubic kernel of KID, of all images at once."""

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
