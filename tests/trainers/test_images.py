"""Folders of images: what is read, what is refused, and that test images stay out."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from trainers.contract import DataError
from trainers.data import Dataset, images, load
from trainers.data.dataset import PixelForm
from trainers.options import ImageData


def read(source: Path | str, cache: Path, **options: Any) -> Dataset:
    return load({"source": str(source), **options}, cache)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def file_of(folder: Path, row: int) -> Path:
    """The file that is row `row` of a flat folder."""
    return sorted(folder.glob("*/*"))[row]


def rows_of(data: Dataset, of: int) -> tuple[list[int], list[int]]:
    """The source's rows that are in `data`, and those that are not."""
    inside = data.ids.tolist()
    return inside, [row for row in range(of) if row not in inside]


def test_digits_are_scikit_learn_s(cache: Path) -> None:
    data = read("digits", cache)
    want = load_digits()
    assert np.array_equal(data.inputs[:, 0].numpy(), want.images[data.ids])
    assert np.array_equal(data.target.numpy(), want.target[data.ids])
    assert data.summary["rows"] == 1797
    assert [data.summary[part] for part in ("train", "validation", "test")] == [1079, 359, 359]
    assert not cache.exists()


def test_a_batch_is_standardized_by_the_training_rows(cache: Path) -> None:
    data = read("digits", cache)
    images, target = data.arrays(data.train)
    assert images.shape == (1079, 1, 8, 8)
    assert images.dtype == np.float32
    assert target.shape == (1079,)
    assert images.mean() == pytest.approx(0, abs=1e-5)
    assert images.std() == pytest.approx(1, abs=1e-5)


def test_a_flat_folder_is_split_by_fractions(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=20)
    data = read(folder, cache, validation=0.25, test=0.25)
    assert data.classes == ("blue", "green", "red")
    assert data.shape == (3, 8, 8)
    for rows, each in ((data.train, 10), (data.validation, 5)):
        assert data.target[rows].bincount().tolist() == [each] * 3
    for place, row in enumerate(data.ids.tolist()):
        want = np.asarray(Image.open(file_of(folder, row))).transpose(2, 0, 1)
        assert np.array_equal(data.inputs[place].numpy(), want)
    assert data.summary == json.loads(json.dumps(data.summary))
    assert data.summary["class_counts"] == [20, 20, 20]


def test_folders_of_splits_are_used(image_folder: Any, cache: Path) -> None:
    image_folder("images/train", each=10)
    image_folder("images/valid", each=4, seed=1)
    folder = image_folder("images/test", each=3, seed=2).parent
    data = read(folder, cache)
    parts = [data.summary[part] for part in ("train", "validation", "test")]
    assert parts == [30, 12, 9]


def test_what_no_folder_sets_aside_is_split_off(image_folder: Any, cache: Path) -> None:
    image_folder("images/train", each=20)
    folder = image_folder("images/test", each=3).parent
    data = read(folder, cache, validation=0.25)
    assert [data.summary[p] for p in ("train", "validation", "test")] == [45, 15, 9]


def test_classes_may_be_called_like_splits(image_folder: Any, cache: Path) -> None:
    data = read(image_folder(classes=("test", "train")), cache)
    assert data.classes == ("test", "train")


@pytest.mark.parametrize("split", [False, True])
def test_test_images_never_enter(image_folder: Any, cache: Path, split: bool) -> None:
    if split:
        image_folder("images/train", each=10)
        folder = image_folder("images/test", each=5, seed=9).parent
        test_files = sorted(folder.glob("test/*/*"))
    else:
        folder = image_folder(each=10)
        _, outside = rows_of(read(folder, cache), 30)
        test_files = [file_of(folder, row) for row in outside]
    before = read(folder, cache)
    for number, file in enumerate(test_files):
        if number % 2:
            file.write_bytes(b"poison")
        else:
            Image.fromarray(np.full((3, 5, 3), 255, np.uint8)).save(file)
    after = read(folder, cache, skip_bad=True)
    assert torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.splits[0].mean, after.splits[0].mean)  # type: ignore[arg-type]
    assert torch.equal(before.ids, after.ids)
    assert torch.equal(before.train, after.train)
    assert before.summary["fingerprint"] != after.summary["fingerprint"]


def test_validation_images_do_not_enter_the_statistics(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=10)
    before = read(folder, cache)
    for row in before.ids[before.validation].tolist():
        Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(file_of(folder, row))
    after = read(folder, cache)
    assert not torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.splits[0].mean, after.splits[0].mean)  # type: ignore[arg-type]


def test_size_and_channels_bring_images_together(image_folder: Any, cache: Path) -> None:
    folder = image_folder(size=(30, 20))
    image_folder(classes=("blue",), each=2, size=(9, 50), mode="L", suffix="jpg")
    with pytest.raises(DataError, match="different sizes, from 9 × 50 to 30 × 20") as caught:
        read(folder, cache)
    assert caught.value.key == "data.size"
    assert read(folder, cache, size=16).shape == (3, 16, 16)
    assert read(folder, cache, size=16, channels=1).shape == (1, 16, 16)


def test_images_of_another_shape_are_cropped_padded_or_squashed(
    image_folder: Any, cache: Path
) -> None:
    """Ten columns of black, ten of white, ten of black."""
    folder = image_folder(size=(30, 10))
    for file in folder.glob("*/*"):
        pixels = np.zeros((10, 30), np.uint8)
        pixels[:, 10:20] = 255
        Image.fromarray(pixels).save(file)
    rows = {}
    for resize in ("crop", "pad", "squash"):
        data = read(folder, cache, size=10, resize=resize)
        rows[resize] = data.inputs[0, 0].numpy() > 127
    assert rows["crop"].all()
    assert np.flatnonzero(rows["pad"].any(axis=1)).tolist() in ([3, 4, 5], [4, 5, 6])
    assert (rows["squash"].sum(axis=0) > 0).sum() in (3, 4)
    assert rows["squash"].any(axis=1).all()
    with pytest.raises(DataError, match="only with data.size") as caught:
        read(folder, cache, resize="pad")
    assert caught.value.key == "data.resize"


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [("L", "png", 1), ("1", "png", 1), ("P", "gif", 3), ("RGBA", "png", 3), ("RGB", "webp", 3),
     ("CMYK", "jpg", 3), ("I;16", "png", 1), ("LA", "png", 1)],
)  # fmt: skip
def test_kinds_of_images(
    image_folder: Any, cache: Path, mode: str, suffix: str, channels: int
) -> None:
    if mode == "I;16":
        folder = image_folder(mode="L")
        for file in folder.glob("*/*"):
            wide = np.asarray(Image.open(file)).astype(np.uint16) * 257
            Image.fromarray(wide).save(file)
    else:
        folder = image_folder(mode=mode, suffix=suffix)
    data = read(folder, cache)
    assert data.shape == (channels, 8, 8)
    assert data.inputs.float().std() > 20


def test_a_photo_is_turned_as_its_camera_was(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=10)
    tall = np.zeros((8, 8, 3), np.uint8)
    tall[:4] = 200
    rotated = Image.fromarray(tall)
    rotated.getexif()[0x0112] = 6  # to be turned by 90° clockwise
    for file in folder.glob("*/*"):
        rotated.save(file, exif=rotated.getexif())
    pixels = read(folder, cache).inputs[0, 0]
    assert pixels[:, 4:].min() == 200
    assert pixels[:, :4].max() == 0


def spoil(folder: Path, rows: list[int]) -> list[str]:
    """Make files bad in different ways; their names as messages have them."""
    names = []
    for number, row in enumerate(rows):
        file = file_of(folder, row)
        content = file.read_bytes()
        kinds = [b"", b"no image", content[: len(content) // 2], b"GIF89a" + b"\xff" * 40]
        file.write_bytes(kinds[number % len(kinds)])
        names.append(file.relative_to(folder).as_posix())
    return names


def test_bad_files_are_named_and_counted(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=10)
    names = spoil(folder, [3, 12, 17, 25])
    with pytest.raises(DataError) as caught:
        read(folder, cache)
    assert caught.value.key == "data.source"
    assert "4 of 30 files are not readable images" in str(caught.value)
    assert all(name in str(caught.value) for name in names)
    assert "skip_bad" in str(caught.value.hint)


def test_a_link_to_nowhere_is_bad(image_folder: Any, cache: Path) -> None:
    folder = image_folder()
    (folder / "red" / "link.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"red/link.png \(No such file or directory\)"):
        read(folder, cache)


def test_many_bad_files_are_counted_and_ten_named(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=10)
    spoil(folder, list(range(2, 17)))
    with pytest.raises(DataError, match="15 of 30 files .* and 5 more"):
        read(folder, cache)


def test_skip_bad_leaves_them_out(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=10)
    whole = read(folder, cache)
    spoiled = [whole.ids[whole.train[0]].item(), whole.ids[whole.validation[1]].item()]
    names = spoil(folder, [int(row) for row in spoiled])
    data = read(folder, cache, skip_bad=True)
    kept = [place for place, row in enumerate(whole.ids.tolist()) if row not in spoiled]
    assert torch.equal(data.inputs, whole.inputs[kept])
    assert torch.equal(data.target, whole.target[kept])
    assert (data.ids[data.train] == whole.ids[whole.train][1:]).all()
    assert data.summary["rows"] == 28
    assert [entry.split(" ")[0] for entry in data.summary["skipped"]] == sorted(names)


def test_a_text_file_and_an_image_outside_a_class_are_bad(image_folder: Any, cache: Path) -> None:
    folder = image_folder()
    (folder / "red" / "notes.txt").write_text("hello")
    shutil.copy(file_of(folder, 0), folder / "stray.png")
    (folder / "README.md").write_text("about these images")
    (folder / "red" / ".DS_Store").write_bytes(b"hidden")
    with pytest.raises(DataError, match="2 of 32 files") as caught:
        read(folder, cache)
    assert "red/notes.txt" in str(caught.value)
    assert "stray.png (in no class's folder)" in str(caught.value)


def test_an_image_of_too_many_pixels_is_bad(
    image_folder: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder()
    Image.new("RGB", (60, 50)).save(file_of(folder, 4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(DataError, match=r"004.png \(too many pixels to be safe\)"):
        read(folder, cache)


def only_class(folder: Path) -> None:
    for other in ("green", "red"):
        shutil.rmtree(folder / other)


def no_class(folder: Path) -> None:
    only_class(folder)
    shutil.rmtree(folder / "blue")


def empty_class(folder: Path) -> None:
    (folder / "yellow").mkdir()


def nothing_readable(folder: Path) -> None:
    for file in folder.glob("*/*"):
        file.write_text("not an image")


def nothing_whole(folder: Path) -> None:
    for file in folder.glob("*/*"):
        file.write_bytes(file.read_bytes()[:100])


def all_texts(folder: Path) -> None:
    for file in list(folder.glob("*/*")):
        file.rename(file.with_suffix(".txt"))


def unknown_in_validation(folder: Path) -> None:
    shutil.copytree(folder, folder / "train")
    for name in ("blue", "green", "red"):
        shutil.rmtree(folder / name)
    shutil.copytree(folder / "train" / "red", folder / "val" / "pink")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (only_class, {}, "at least two classes; there is one, 'blue'"),
        (no_class, {}, "at least two classes; there is none"),
        (empty_class, {}, "yellow is empty"),
        (nothing_readable, {}, "none of 30 files can be read: not a"),
        (all_texts, {}, "has texts in it, for another trainer"),
        (nothing_readable, {"skip_bad": True}, "none of 30 files can be read"),
        (nothing_whole, {"skip_bad": True}, "none of 30 files can be read: .*truncated"),
        (unknown_in_validation, {}, "pink is of a class that .*train does not have"),
    ],
)
def test_folders_without_usable_classes_are_refused(
    image_folder: Any, cache: Path, change: Any, options: dict[str, Any], words: str
) -> None:
    folder = image_folder()
    change(folder)
    with pytest.raises(DataError, match=words) as caught:
        read(folder, cache, **options)
    assert caught.value.key == "data.source"


def test_a_class_left_without_training_images_is_refused(image_folder: Any, cache: Path) -> None:
    folder = image_folder()
    spoil(folder, list(range(10)))
    with pytest.raises(DataError, match="class 'blue' has no image to train on"):
        read(folder, cache, skip_bad=True)


def test_a_folder_that_cannot_be_read_is_named(
    image_folder: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder()
    scan = os.scandir

    def denied(path: Any) -> Any:  # file modes do not stop root, who may run this
        if Path(path).name == "green":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match="green cannot be read: Permission denied"):
        read(folder, cache)


def test_the_second_load_decodes_nothing(image_folder: Any, cache: Path) -> None:
    folder = image_folder()
    first = read(folder, cache)
    made = {file: file.stat().st_mtime_ns for file in cache.glob("*/*")}
    assert len(made) == 4  # what all files are, and the pixels of those that are kept
    second = read(folder, cache)
    assert {file: file.stat().st_mtime_ns for file in cache.glob("*/*")} == made
    assert torch.equal(first.inputs, second.inputs)
    assert first.summary == second.summary


def test_a_changed_file_is_decoded_again(image_folder: Any, cache: Path) -> None:
    folder = image_folder()
    first = read(folder, cache)
    row = int(first.ids[0])
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(file_of(folder, row))
    os.utime(file_of(folder, row), (time.time() + 5, time.time() + 5))
    second = read(folder, cache)
    assert (second.inputs[0] == 77).all()
    assert first.summary["fingerprint"] != second.summary["fingerprint"]


def test_writing_to_the_pixels_changes_nobody_else_s(image_folder: Any, cache: Path) -> None:
    folder = image_folder()
    first = read(folder, cache)
    before = first.inputs.clone()
    first.inputs.zero_()
    assert torch.equal(read(folder, cache).inputs, before)


def test_a_crash_while_decoding_leaves_no_half_cache(image_folder: Any, cache: Path) -> None:
    folder = image_folder(size=(8, 8))
    image_folder(classes=("blue",), each=1, size=(9, 9))
    with pytest.raises(DataError, match="different sizes"):
        read(folder, cache)
    assert not list(cache.glob("*/pixels.npy"))
    assert not list(cache.glob(".*[!k]"))


def test_folds_share_the_pixels(image_folder: Any, cache: Path) -> None:
    data = read(image_folder(each=12), cache, folds=3)
    assert len(data.splits) == 3
    assert len({split.inputs.data_ptr() for split in data.splits}) == 1
    validated = torch.cat([split.validation for split in data.splits])
    assert torch.equal(validated.sort().values, torch.arange(len(data.ids)))


# -- duplicates and groups


def test_equal_files_are_counted_and_named(image_folder: Any, cache: Path) -> None:
    image_folder("images/train", each=10)
    folder = image_folder("images/test", each=5, seed=1).parent
    shutil.copy(folder / "train/red/003.png", folder / "test/red/again.png")
    shutil.copy(folder / "train/blue/000.png", folder / "train/red/blue.png")
    data = read(folder, cache, split_seed=1)
    said = data.summary["report"]["duplicates"]
    assert (said["rows"], said["of_other_classes"]) == (2, 1)
    validated = {data.ids[row].item() for row in data.validation.tolist()}
    # Row 23 is the third red one of train/, in which 10 blue and 10 green ones come first.
    of_validation = 23 in validated
    assert said["across"]["validation/test"] == of_validation
    assert said["across"]["train/test"] == (not of_validation)
    assert ["train/red/003.png", "test/red/again.png"] in said["examples"]
    counts = data.summary["report"]["class_counts"]
    assert counts["test"] == [5, 5, 6]
    assert sum(counts["train"]) == len(data.train)
    with pytest.raises(DataError, match="2 rows have a copy .* that of train/") as caught:
        read(folder, cache, duplicates="refuse")
    assert caught.value.key == "data.duplicates"


def test_copies_stay_together(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=10)
    for file in sorted(folder.glob("*/*")):
        shutil.copy(file, file.with_name(f"{file.stem}b.png"))  # beside it: each image twice
    apart = read(folder, cache).summary["report"]["duplicates"]
    assert sum(apart["across"].values()) > 10
    data = read(folder, cache, duplicates="together")
    assert data.summary["report"]["duplicates"]["across"] == dict.fromkeys(apart["across"], 0)
    assert data.target[data.train].bincount().tolist() == [12, 12, 12]
    rows, ids, _ = load_test_rows(folder, duplicates="together")
    assert sorted([*rows.tolist(), *data.ids.tolist()]) == list(range(60))
    assert ids.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def load_test_rows(folder: Path, **options: Any) -> Any:
    form = PixelForm((3, 8, 8), 255, "crop")
    return images.test_rows(ImageData(source=str(folder), **options), [form])


def test_copies_of_what_is_given_are_not_trained_on(image_folder: Any, cache: Path) -> None:
    image_folder("images/train", each=10)
    image_folder("images/val", each=5, seed=1)
    folder = image_folder("images/test", each=5, seed=2).parent
    shutil.copy(folder / "train/red/003.png", folder / "test/red/again.png")
    shutil.copy(folder / "val/blue/000.png", folder / "train/blue/again.png")
    shutil.copy(folder / "val/blue/001.png", folder / "test/blue/again.png")
    data = read(folder, cache, duplicates="together")
    assert [data.summary[part] for part in ("train", "validation", "test")] == [29, 14, 17]
    assert not any(data.summary["report"]["duplicates"]["across"].values())


def test_groups_are_found_in_names(image_folder: Any, cache: Path) -> None:
    folder = image_folder(each=20)
    # Of 15 patients, each with images of every class.
    for row, file in enumerate(sorted(folder.glob("*/*"))):
        file.rename(file.with_name(f"patient{row % 15}_{file.name}"))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
    data = read(folder, cache, group=r"(patient\d+)_", folds=3)
    for split in data.splits:
        sides = [
            {names[data.ids[row]].split("/")[1].split("_")[0] for row in rows.tolist()}
            for rows in (split.train, split.validation)
        ]
        assert not sides[0] & sides[1]
        assert len(sides[0] | sides[1]) == 12
        for first, second in ((0, 1), (10, 30)):
            same = names[data.ids[first]].split("_")[0] == names[data.ids[second]].split("_")[0]
            assert (split.groups[first] == split.groups[second]).item() == same
    with pytest.raises(DataError, match="is not found in blue/patient0_000.png") as caught:
        read(folder, cache, group=r"(doctor\d+)")
    assert caught.value.key == "data.group"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group": "("}, "is not a regular expression"),
        ({"group": "patient"}, "has no parentheses"),
        ({"source": "torchvision:MNIST"}, "say in which folder"),
        ({"root": "there"}, "root is for source: torchvision:NAME"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ImageData(**{"source": "folder", **options})


# -- data sets of torchvision


def write_mnist(root: Path, name: str = "MNIST", train: int = 60, test: int = 20) -> Path:
    """Files as torchvision's MNIST has them; class k has a bright row k."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.random.default_rng(count).integers(0, 100, (count, 28, 28), dtype=np.uint8)
        pixels[np.arange(count), labels] = 255
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        header = np.array([2049, count], ">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_is_read_as_torchvision_reads_it(tmp_path: Path, cache: Path, name: str) -> None:
    root = write_mnist(tmp_path / "data", name)
    section = {"source": f"torchvision:{name}", "root": str(root)}
    data = load(section, cache)
    assert [data.summary[part] for part in ("train", "validation", "test")] == [48, 12, 20]
    assert data.shape == (1, 28, 28)
    own = getattr(datasets, name)(root, train=True)
    assert list(data.classes or ()) == own.classes
    assert torch.equal(data.inputs[:, 0], own.data)
    assert torch.equal(data.target, own.targets)
    form = PixelForm((1, 28, 28), 255, "crop")
    rows, labels, pixels = images.test_rows(ImageData(**section), [form])
    test = getattr(datasets, name)(root, train=False)
    assert rows.tolist() == list(range(60, 80))
    assert labels.tolist() == test.targets.tolist()
    assert torch.equal(pixels[form][:, 0], test.data)
    made = {file: file.stat().st_mtime_ns for file in cache.glob("*/*")}
    assert torch.equal(load(section, cache).inputs, data.inputs)
    assert {file: file.stat().st_mtime_ns for file in cache.glob("*/*")} == made


def test_parts_are_those_that_the_data_set_has(
    tmp_path: Path, cache: Path, image_folder: Any
) -> None:
    image_folder("data/rendered-sst2/train", ("negative", "positive"), each=6)
    image_folder("data/rendered-sst2/valid", ("negative", "positive"), each=4, seed=1)
    image_folder("data/rendered-sst2/test", ("negative", "positive"), each=3, seed=2)
    section = {"source": "torchvision:RenderedSST2", "root": str(tmp_path / "data")}
    data = load(section, cache)
    assert [data.summary[part] for part in ("train", "validation", "test")] == [12, 8, 6]
    assert data.classes == ("negative", "positive")


def test_without_parts_it_is_split(tmp_path: Path, cache: Path, image_folder: Any) -> None:
    image_folder("data/eurosat/2750", ("Forest", "River", "Sea"), each=10)
    section = {"source": "torchvision:EuroSAT", "root": str(tmp_path / "data")}
    data = load(section, cache)
    assert [data.summary[part] for part in ("train", "validation", "test")] == [18, 6, 6]
    assert data.classes == ("Forest", "River", "Sea")


@pytest.mark.parametrize(
    ("name", "key", "words", "hint"),
    [
        ("MNIST", "data.root", r"MNIST is not in .*data holds CIFAR", "MNIST.*download=True"),
        ("CIFAR10", "data.root", "CIFAR10 is not in", "download=True"),
        ("MINST", "data.source", "no data set 'MINST'; the closest are .*MNIST", "torchvision:"),
        ("FakeData", "data.source", "no data set 'FakeData'", "torchvision:"),
    ],
)
def test_a_data_set_that_is_not_there_is_not_downloaded(
    tmp_path: Path, cache: Path, name: str, key: str, words: str, hint: str
) -> None:
    (tmp_path / "data" / "CIFAR").mkdir(parents=True)
    with pytest.raises(DataError, match=words) as caught:
        load({"source": f"torchvision:{name}", "root": str(tmp_path / "data")}, cache)
    assert caught.value.key == key
    assert re.search(hint, caught.value.hint or "")
    assert len(list((tmp_path / "data").iterdir())) == 1
