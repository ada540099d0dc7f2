"""Config hash and data fingerprint: equal where the results must be, different where they may differ."""

from __future__ import annotations

import copy
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffusion_lab.config import get_default_config
from diffusion_lab.config.validate import parse_config
from diffusion_lab.data.digits import digits
from diffusion_lab.data.image_folder import ImageFolderSource
from diffusion_lab.data.source import ArraySource, ImageSource, Subset
from diffusion_lab.runs.identity import config_hash, data_fingerprint
from diffusion_lab.typed_settings.section import Section

HERE = Path(__file__).parent


def tree_with(**values):
    """The default settings with dotted keys (``__`` for the dot) changed or added."""
    tree = copy.deepcopy(get_default_config())
    tree["data"]["paths"]["train"] = str(HERE)
    for key, value in values.items():
        *sections, name = key.split("__")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return tree


def hash_of(**values):
    return config_hash(parse_config(tree_with(**values)))


BEFORE = hash_of()


def shuffled(tree):
    keys = list(tree)
    random.Random(1).shuffle(keys)
    return {key: shuffled(tree[key]) if isinstance(tree[key], dict) else tree[key] for key in keys}


def test_hash_is_a_sha256_independent_of_key_order():
    assert len(bytes.fromhex(BEFORE)) == 32
    assert config_hash(parse_config(shuffled(tree_with()))) == BEFORE


def test_an_evaluation_that_drives_the_learning_rate_counts():
    kid = {"training__validation__metric": "val/kid_pixels"}
    plateau = {"training__scheduler": {"type": "plateau"}}
    one, other = ({"evaluation": {"enabled": True, "features": "pixels", "num_samples": n}} for n in (20, 30))
    assert hash_of(**kid, **one) == hash_of(**kid, **other)
    assert hash_of(**kid, **plateau, **one) != hash_of(**kid, **plateau, **other)


def test_guidance_of_such_an_evaluation_counts():
    driving = {"training__validation__metric": "val/kid_pixels", "training__scheduler": {"type": "plateau"}}
    driving["model__conditioning"] = {"type": "class", "num_classes": 3, "class_dropout_prob": 0.1}
    rescaled = {"guidance__rescale": 0.5}
    for scale, counts in ((1.0, False), (3.0, True)):
        driving["evaluation"] = {"enabled": True, "features": "pixels", "guidance_scale": scale}
        assert (hash_of(**driving) != hash_of(**driving, **rescaled)) == counts


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "other"},
        {"preview": True},
        {"tune": {"learning_rate": True}},
        {"output__base_dir": "elsewhere"},
        {"output__overwrite": True},
        {"compute__device": "cpu"},
        {"data__paths__train": str(HERE.parent)},
        {"data__loading__num_workers": 7},
        {"data__loading__pin_memory": False},
        {"data__cache": "none"},
        {"data__cache_dir": "elsewhere"},
        {"logger__backends": ["tensorboard"]},
        {"generation__sampling__num_samples": 3},
        {"sampler": {"type": "heun", "steps": 3}},
        {"guidance__rescale": 0.5},
        {"training__log_interval": 3},
        {"training__checkpointing__save_frequency": 3},
        {"training__visualization__num_samples": 3},
        {"training__resume": {**get_default_config()["training"]["resume"], "enabled": True, "checkpoint": __file__}},
    ],
)
def test_settings_that_do_not_affect_weights_do_not_change_the_hash(change):
    assert hash_of(**change) == BEFORE


@pytest.mark.parametrize(
    "change",
    [
        {"compute__seed": 12345},
        {"model__architecture__num_res_blocks": 3},
        {"model__diffusion__num_timesteps": 77},
        {"data__loading__batch_size": 5},
        {"data__augmentation__horizontal_flip": not get_default_config()["data"]["augmentation"]["horizontal_flip"]},
        {"data__background": "black"},
        {"training__epochs": 77},
        {"training__optimizer__learning_rate": 0.123},
        {"training__ema__decay": 0.5},
        {"training__loss__penalty": {"type": "huber"}},
        {"training__loss__stratified": False},
        {"training__performance__use_amp": not get_default_config()["training"]["performance"]["use_amp"]},
    ],
)
def test_settings_that_affect_weights_change_the_hash(change):
    assert hash_of(**change) != BEFORE


@pytest.mark.parametrize(
    "written_out",
    [
        {"training__accumulate_batches": 1},
        {"training__loss__penalty": {"type": "mse"}},
        {"data__validation_split": {"fraction": 0.1, "seed": 0}},
        {"model__architecture__num_res_blocks": 2},
    ],
)
def test_explicit_defaults_are_the_same_settings(written_out):
    assert hash_of(**written_out) == BEFORE


def test_options_of_a_class_at_their_defaults_are_the_same_settings():
    plain = {"type": "huber"}
    settings = parse_config(tree_with(training__loss__penalty=plain))
    complete = settings.training.loss.penalty.complete().model_dump()
    assert set(complete) > {"type"}
    assert hash_of(training__loss__penalty=complete) == hash_of(training__loss__penalty=plain)
    changed = {key: value * 2 if isinstance(value, float) else value for key, value in complete.items()}
    assert hash_of(training__loss__penalty=changed) != hash_of(training__loss__penalty=plain)


def test_a_later_version_with_a_new_key_keeps_the_hash():
    """The new key is in the training section."""
    config = parse_config(tree_with())
    base = type(config.training)

    class Further(base):
        novelty: bool = False

    class Later(type(config)):
        training: Further

    values = {name: getattr(config, name) for name in type(config).model_fields}
    training = {name: getattr(config.training, name) for name in base.model_fields}
    for novelty in (False, True):
        later = Later.model_construct(**values | {"training": Further.model_construct(**training, novelty=novelty)})
        assert isinstance(later, Section)
        assert (config_hash(later) == BEFORE) == (not novelty)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)
LABELS = [0, 1, 1, 0, 1, 0]


class Loading(ImageSource):
    """Custom source without its own fingerprint."""

    def __init__(self, images):
        self.images, self.labels, self.class_names = images, np.array(LABELS), ("cat", "dog")
        self.channels, self.image_size = 3, 4

    def load(self, index, rng):
        return self.images[index]


def test_images_in_memory_are_identified_by_their_bytes():
    prints = {
        data_fingerprint(source)
        for source in (
            ArraySource(IMAGES, LABELS, ("cat", "dog")),
            ArraySource(IMAGES ^ (np.arange(6) == 3)[:, None, None, None], LABELS, ("cat", "dog")),
            ArraySource(IMAGES, LABELS[::-1], ("cat", "dog")),
            ArraySource(IMAGES, LABELS, ("cat", "fox")),
            Subset(ArraySource(IMAGES, LABELS, ("cat", "dog")), range(6)),
            Subset(ArraySource(IMAGES, LABELS, ("cat", "dog")), range(5)),
            Subset(ArraySource(IMAGES, LABELS, ("cat", "dog")), [0, 2, 1, 3, 4]),
        )
    }
    assert len(prints) == 7
    assert data_fingerprint(ArraySource(IMAGES.copy(), LABELS, ("cat", "dog"))) in prints


def test_custom_source_is_identified_by_what_it_loads():
    assert data_fingerprint(Loading(IMAGES)) == data_fingerprint(ArraySource(IMAGES, LABELS, ("cat", "dog")))


def test_the_digits_are_always_the_same():
    assert data_fingerprint(digits()) == data_fingerprint(digits())
    assert data_fingerprint(digits()) != data_fingerprint(digits(subset="heldout"))


@pytest.fixture
def folder(tmp_path):
    for index, image in enumerate(IMAGES):
        file = tmp_path / "here" / ("cat", "dog")[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(file)
    return tmp_path / "here"


def read(folder, **options):
    return data_fingerprint(ImageFolderSource(folder, **{"image_size": 4, "channels": 3, **options}))


def test_folder_is_identified_by_its_files_not_its_path(folder, tmp_path):
    before = read(folder)
    shutil.copytree(folder, tmp_path / "there")
    assert read(tmp_path / "there") == before


@pytest.mark.parametrize("option", [{"image_size": 8}, {"channels": 1}, {"crop": "random"}, {"background": "black"}])
def test_processing_of_the_files_counts(folder, option):
    assert read(folder, **option) != read(folder)


def test_content_names_and_classes_count(folder):
    seen = [read(folder)]
    file = folder / "cat" / "0.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    seen.append(read(folder))
    file.rename(folder / "cat" / "9.png")
    seen.append(read(folder))
    (folder / "cat" / "9.png").rename(folder / "dog" / "9.png")
    seen.append(read(folder))
    assert len(set(seen)) == 4
