"""Folders of real files: every kind, every layout, and everything that can be wrong with them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from PIL import Image, features

from diffusion_lab.data.image_folder import ImageFolderSource

COLOUR = (200, 100, 50)


def save(path, colour=COLOUR, size=(20, 12), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    image.save(path, **options)


def save_broken(path):
    """A PNG cut short in the middle of its pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])


def folder(path, **options) -> ImageFolderSource:
    return ImageFolderSource(path, **{"image_size": 8, "channels": 3, **options})


def every_kind(root):
    """One file of each kind, all of about the same colour; returns how many."""
    save(root / "rgb.png")
    save(root / "photo.jpg")
    save(root / "photo.JPEG", size=(500, 300))
    save(root / "picture.bmp")
    save(root / "picture.tif")
    save(root / "picture.TIFF")
    save(root / "palette.gif", mode="P")
    save(root / "palette.png", mode="P")
    save(root / "rgba.png", mode="RGBA")
    save(root / "cmyk.jpg", mode="CMYK")
    save(root / "cmyk.tif", mode="CMYK")
    save(root / "odd.png", size=(7, 333))
    save(root / "tiny.png", size=(1, 1))
    frames = [Image.new("RGB", (20, 12), c) for c in (COLOUR, (0, 0, 0))]
    frames[0].save(root / "animated.gif", save_all=True, append_images=frames[1:])
    frames[0].save(root / "animated.png", save_all=True, append_images=frames[1:])
    count = 15
    if features.check("webp"):
        save(root / "picture.webp")
        frames[0].save(root / "animated.webp", save_all=True, append_images=frames[1:], lossless=True)
        count += 2
    return count


def test_every_kind_of_colour_file(tmp_path):
    count = every_kind(tmp_path)
    source = folder(tmp_path)
    source.check()
    assert (len(source), source.skipped) == (count, 0)
    for index, path in enumerate(source.paths):
        image = source.load(index, None)
        assert image.shape == (3, 8, 8)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - np.reshape(COLOUR, (3, 1, 1))).max() <= 6, path.name


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_gray_file(tmp_path, channels):
    Image.new("L", (9, 9), 128).save(tmp_path / "gray.png")
    Image.new("LA", (9, 9), (128, 255)).save(tmp_path / "gray_alpha.png")
    Image.fromarray(np.full((9, 9), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((9, 9), 128 * 257, np.uint16)).save(tmp_path / "deep.tif")
    Image.fromarray(np.full((9, 9), 128 * 257, np.int32)).save(tmp_path / "deeper.tif")
    Image.fromarray(np.full((9, 9), 128 / 255, np.float32)).save(tmp_path / "float.tif")
    source = folder(tmp_path, channels=channels)
    source.check()
    assert len(source) == 6
    for index, path in enumerate(source.paths):
        image = source.load(index, None)
        assert image.shape == (channels, 8, 8)
        assert set(image[:3].ravel().tolist()) == {128}, path.name
        assert channels < 4 or (image[3] == 255).all()


def test_alpha_is_composited_or_kept(tmp_path):
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (folder(tmp_path, background="white").load(0, None) == 255).all()
    assert folder(tmp_path, background="#0000ff").load(0, None)[:, 0, 0].tolist() == [0, 0, 255]
    assert (folder(tmp_path, channels=4).load(0, None)[3] == 0).all()


def test_class_subfolders_are_numbered_by_name_and_may_nest(tmp_path):
    save(tmp_path / "dog" / "b.png", (1, 1, 1))
    save(tmp_path / "dog" / "more" / "a.png", (2, 2, 2))
    save(tmp_path / "cat" / "c.png", (3, 3, 3))
    save(tmp_path / "cat" / ".hidden.png")
    save(tmp_path / ".cache" / "d.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    source = folder(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0, 1, 1]
    assert [source.load(i, None)[0, 0, 0] for i in range(3)] == [3, 1, 2]


def test_flat_folder_has_no_classes(tmp_path):
    save(tmp_path / "b.png")
    save(tmp_path / "a.png")
    source = folder(tmp_path)
    assert source.class_names == ()
    assert source.labels.tolist() == [0, 0]
    assert [path.name for path in source.paths] == ["a.png", "b.png"]


def test_val_is_numbered_by_the_classes_of_train(tmp_path):
    save(tmp_path / "dog" / "a.png")
    source = folder(tmp_path, class_names=("cat", "dog"), key="data.paths.val")
    assert (source.class_names, source.labels.tolist()) == (("cat", "dog"), [1])


def test_val_of_an_unlabelled_train_has_no_classes(tmp_path):
    save(tmp_path / "dog" / "a.png")
    source = folder(tmp_path, class_names=())
    assert (source.class_names, source.labels.tolist()) == ((), [0])


def test_class_unknown_to_train_is_named(tmp_path):
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "wolf" / "a.png")
    with pytest.raises(ValueError, match=r"data\.paths\.val .*\(cat, dog\).*wolf"):
        folder(tmp_path, class_names=("cat", "dog"), key="data.paths.val")


def test_flat_val_of_a_labelled_train_is_refused(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"data\.paths\.val must hold a subfolder for each class"):
        folder(tmp_path, class_names=("cat",), key="data.paths.val")


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=r"data\.paths\.train must be an existing folder .*nowhere"):
        folder(tmp_path / "nowhere")


def test_file_in_place_of_a_folder(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"existing folder .*a\.png"):
        folder(tmp_path / "a.png")


@pytest.mark.parametrize("class_names", [None, (), ("cat",)])
def test_empty_folder(tmp_path, class_names):
    with pytest.raises(ValueError, match=r"data\.paths\.train holds no images: .* has no files; expected"):
        folder(tmp_path, class_names=class_names)


def test_folder_without_images_describes_its_contents(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.npy").write_bytes(b"")
    (tmp_path / "b.npy").write_bytes(b"")
    (tmp_path / "README").write_text("")
    with pytest.raises(ValueError, match=r"has only 2 × \.npy \(.*\); 1 × no suffix \(README\); expected .*\.png"):
        folder(tmp_path)


def test_images_next_to_class_folders_are_refused(tmp_path):
    save(tmp_path / "cat" / "a.png")
    save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"not both: .*subfolder\(s\) cat and 1 image\(s\) such as stray\.png"):
        folder(tmp_path)


def test_subfolder_without_images_is_reported_and_not_a_class(tmp_path):
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "notes").mkdir()
    with pytest.warns(UserWarning, match="no images in notes"):
        source = folder(tmp_path)
    assert source.class_names == ("cat",)


def corrupt_set(root):
    for name in ("cat/a.png", "cat/c.png", "dog/a.png", "dog/c.png"):
        save(root / name, (ord(name[4]),) * 3)
    save_broken(root / "cat" / "b.png")
    (root / "dog" / "b.jpg").write_bytes(b"this is no JPEG")


def test_check_drops_corrupt_files_and_names_them_in_one_warning(tmp_path):
    corrupt_set(tmp_path)
    source = folder(tmp_path)
    calls: list[tuple[int, int]] = []
    with pytest.warns(UserWarning, match="2 corrupt image") as caught:
        source.check(progress=lambda done, total: calls.append((done, total)))
    assert len(caught) == 1
    assert "b.png" in str(caught[0].message)
    assert "b.jpg" in str(caught[0].message)
    assert source.skipped == 2
    assert [path.name for path in source.paths] == ["a.png", "c.png", "a.png", "c.png"]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert calls == [(n, 6) for n in range(1, 7)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.check()


def test_check_of_a_set_with_many_corrupt_files_counts_the_rest(tmp_path):
    save(tmp_path / "good.png")
    for number in range(13):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"13 corrupt image(?s:.*)09\.png.*\n  and 3 more"):
        folder(tmp_path).check()


def test_corrupt_files_are_fatal_on_request(tmp_path):
    corrupt_set(tmp_path)
    source = folder(tmp_path, on_corrupt="error")
    with pytest.raises(ValueError, match=r"data\.on_corrupt = error (?s:.*)b\.png(?s:.*)b\.jpg"):
        source.check()
    with pytest.raises(ValueError, match=r"1 corrupt image(?s:.*)b\.png"):
        source.load(1, None)


def test_a_set_of_only_corrupt_files_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images"):
        folder(tmp_path).check()


def test_file_found_corrupt_while_loading_is_replaced_within_its_class(tmp_path):
    corrupt_set(tmp_path)
    source = folder(tmp_path)
    with pytest.warns(UserWarning, match=r"1 corrupt image(?s:.*)b\.png"):
        replaced = source.load(1, None)
    np.testing.assert_array_equal(replaced, source.load(2, None))
    (tmp_path / "cat" / "c.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"c\.png"):
        # the next of its class in a circle; never a dog
        np.testing.assert_array_equal(source.load(2, None), source.load(0, None))
    assert source.skipped == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.load(1, None)
    (tmp_path / "cat" / "a.png").unlink()
    with (
        pytest.warns(UserWarning, match=r"a\.png"),
        pytest.raises(ValueError, match="every image of the class"),
    ):
        source.load(0, None)


def test_random_crop_needs_both_the_option_and_a_generator(tmp_path):
    columns = np.tile(np.arange(32, dtype=np.uint8) * 8, (8, 1))
    Image.fromarray(columns).save(tmp_path / "wide.png")
    fixed, random = folder(tmp_path), folder(tmp_path, crop="random")
    middle = fixed.load(0, None)
    np.testing.assert_array_equal(fixed.load(0, np.random.default_rng(0)), middle)
    np.testing.assert_array_equal(random.load(0, None), middle)
    lefts = {int(random.load(0, np.random.default_rng(seed))[0, 0, 0]) for seed in range(20)}
    assert len(lefts) > 5


def test_unknown_background_is_refused_immediately(tmp_path):
    save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"data\.background"):
        folder(tmp_path, background="blurple")
