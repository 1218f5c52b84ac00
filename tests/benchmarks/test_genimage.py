"""The GenImage streams from a small forged download, from what is prepared of it, and from tensors of the authors."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils.data_loader import TaskBalancedDataLoader
from filelock import FileLock
from PIL import Image

from clpack.benchmarks import GenImageCL, GenImageDisjoint, check, get, prepare_genimage, verify_data_sets
from clpack.benchmarks import _genimage_decode as decode_module
from clpack.benchmarks import _genimage_files as files_module
from clpack.benchmarks import _genimage_prepare as prepare_module
from clpack.benchmarks._genimage_classes import (
    GENERATORS,
    Form,
    Split,
    _tables,
    class_set,
    imagenet_classes,
    parse_file_name,
    task_and_label,
)
from clpack.benchmarks._genimage_files import GenImageFiles, TaskImages
from clpack.benchmarks._genimage_prepared import verify_genimage
from clpack.benchmarks._genimage_raw import to_pixels
from clpack.strategies.loader import ExperienceLoader

MEAN, STD = (
    np.array(values, dtype=np.float32)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)
PARTS: list[tuple[Split, Form]] = [(split, form) for split in ("train", "val") for form in ("nature", "ai")]
COPIES = {"train": 2, "val": 1}  # images per class
HALF: dict[str, Any] = {"val_fraction": 0.5}
ENDS = [  # the first and the last class of each set
    ("n02417914", "n07831146"),
    ("n02102040", "n04523525"),
    ("n02110063", "n03063599"),
    ("n02442845", "n04325704"),
    ("n02077923", "n03729826"),
    ("n02096294", "n03047690"),
]


def color(index: int, form: Form, number: int = 0) -> tuple[int, int, int]:
    """What an image looks like all over; JPEG keeps it as it is, give or take a little."""
    return index // 4, 40 * (index % 4) + 100, (40 if form == "nature" else 200) + 30 * number


def forge(root: Path, generator: str, tasks: list[int]) -> Path:
    """Makes the download of a generator with a few images of each class of some tasks."""
    validation_images: dict[int, int] = {}
    for number, devkit in enumerate(_tables()["validation"], start=1):
        validation_images.setdefault(devkit, number)
    folder = root / GENERATORS[generator].archive
    for split, form in PARTS:
        (folder / split / form).mkdir(parents=True)
        for entry in (entry for task in tasks for entry in class_set(task)):
            for number in range(COPIES[split]):
                image = Image.new("RGB", (12, 10), color(entry.index, form, number))
                if form == "ai":
                    name = synthetic_name(generator, entry.index, number)
                elif split == "train":
                    name = f"{entry.wnid}_{number}.JPEG"
                else:
                    name = f"ILSVRC2012_val_{validation_images[entry.devkit]:08}.JPEG"
                image.save(folder / split / form / name)
    return folder


def synthetic_name(generator: str, index: int, number: int) -> str:
    return {"ADM": f"{index}_adm_{number}.PNG", "BigGAN": f"{index:03}_biggan_{number:05}.png"}[generator]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download: tasks 0 and 1 of ADM, task 1 of BigGAN, and some files that are of no use."""
    root = tmp_path_factory.mktemp("raw")
    adm = forge(root, "ADM", [0, 1])
    forge(root, "BigGAN", [1])
    (adm / "train/ai/readme.txt").write_text("not an image")
    (adm / "train/ai/1_adm_1.PNG").write_bytes(b"a class that no task has")
    (adm / "train/ai" / synthetic_name("ADM", class_set(0)[0].index, 7)).write_bytes(b"")
    broken = adm / "train/nature" / f"{class_set(1)[5].wnid}_7.JPEG"
    broken.write_bytes((adm / "train/nature" / f"{class_set(1)[5].wnid}_0.JPEG").read_bytes()[:200])
    return root


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset root with the arrays made of the download."""
    root = tmp_path_factory.mktemp("prepared")
    prepare_genimage(raw, root)
    return root


def raise_(error: Exception) -> NoReturn:
    raise error


def fsync_fails_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the disk be full at a certain flush."""
    calls = itertools.count(1)

    def fsync(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def content(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".prepare.lock"
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def colors(dataset: Any) -> torch.Tensor:
    return torch.stack([dataset[i][0].mean((1, 2)) * 255 for i in range(len(dataset))])


class TestClasses:
    def test_sets_are_disjoint_and_labels_follow_the_devkit(self) -> None:
        assert len(task_and_label()) == 600
        for task in range(6):
            devkits = [entry.devkit for entry in class_set(task)]
            assert devkits == sorted(devkits)
            assert len(devkits) == 100
        assert [entry.wnid for entry in imagenet_classes()] == sorted(entry.wnid for entry in imagenet_classes())
        assert [(class_set(task)[0].wnid, class_set(task)[-1].wnid) for task in range(6)] == ENDS
        granny_smith = imagenet_classes()[948]
        assert (granny_smith.wnid, granny_smith.name, granny_smith.devkit) == ("n07742313", "Granny_Smith", 318)
        assert task_and_label()[948] == (0, 36)

    def test_file_names(self) -> None:
        with np.load(Path(__file__).parents[1] / "golden/epochloss/filenames.npz") as recorded:
            rows = list(zip(*(recorded[name].tolist() for name in recorded.files), strict=True))
            columns = recorded.files
        checked = set()
        for row in rows:
            known = dict(zip(columns, row, strict=True))
            if known["generator"] not in GENERATORS:  # Stable Diffusion 1.5, of which there is no stream
                continue
            parsed = parse_file_name(known["generator"], known["split"], known["kind"], known["filename"])
            assert parsed is not None, known
            entry = imagenet_classes()[parsed[0]]
            assert (entry.index, entry.wnid, entry.devkit - 1) == (
                known["imagenet_index"],
                known["wnid"],
                known["stored_label"],
            )
            middle = f"{known['generator']}_" if known["kind"] == "ai" else ""
            assert known["processed_name"] == f"{entry.wnid}_{middle}{parsed[1]}.png"
            checked.add((known["generator"], known["kind"]))
        assert {generator for generator, kind in checked if kind == "ai"} == set(GENERATORS)

    @pytest.mark.parametrize(
        ("generator", "split", "form", "name"),
        [
            ("ADM", "train", "ai", "116_biggan_00094.png"),
            ("ADM", "train", "ai", "1000_adm_1.PNG"),
            ("ADM", "train", "ai", "115_adm_141.PNG.part"),
            ("glide", "train", "ai", "808_glide_00033.png"),
            ("ADM", "train", "nature", "ILSVRC2012_val_00000001.JPEG"),
            ("ADM", "train", "nature", "n99999999_1.JPEG"),
            ("ADM", "val", "nature", "ILSVRC2012_val_00050001.JPEG"),
            ("ADM", "val", "nature", "ILSVRC2012_val_00000000.JPEG"),
        ],
    )
    def test_other_names_are_none(self, generator: str, split: Split, form: Form, name: str) -> None:
        assert parse_file_name(generator, split, form, name) is None


def test_pixels_are_the_recorded_ones() -> None:
    with np.load(Path(__file__).parents[1] / "golden/epochloss/preprocess.npz") as recorded:
        names = sorted({name.split("_")[0] for name in recorded.files})
        assert len(names) == 5
        for name in names:
            image = Image.fromarray(recorded[f"{name}_in"].squeeze())
            pixels = to_pixels(image, "ai" if name.startswith("ai") else "nature")
            assert pixels.dtype == np.uint8
            normalized = (pixels.astype(np.float32) / 255 - MEAN) / STD
            np.testing.assert_allclose(normalized, recorded[f"{name}_out"], atol=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "RGBA", "P", "L"])
def test_pixels_of_other_modes(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert("RGB").convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[..., 3]))  # resampling such an image mixes the alpha in
    np.testing.assert_array_equal(to_pixels(image, "nature"), to_pixels(image.convert("RGB"), "nature"))
    np.testing.assert_array_equal(
        to_pixels(image, "ai"), np.asarray(image.resize((64, 64)).convert("RGB")).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("kind", ["raw", "prepared"])
def test_streams(kind: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out of the download
        options: dict[str, Any] = {"synthetic_tasks": ["nature", "ai"], "val_fraction": 0.5}
        benchmark = GenImageCL("ADM", 2, **options, dataset_root=root)
    sizes = {name: [len(experience.dataset) for experience in stream] for name, stream in benchmark.streams.items()}
    assert sizes == {
        "train": [100, 100],
        "valid": [100, 100],
        "test": [100, 100],
        "test_natural": [100, 100],
        "test_synthetic": [100, 100],
    }
    forms: dict[str, list[Form]] = {
        "train": ["nature", "ai"],
        "valid": ["nature", "ai"],
        "test": ["nature", "nature"],
        "test_natural": ["nature", "nature"],
        "test_synthetic": ["ai", "ai"],
    }
    for name, stream in benchmark.streams.items():
        for task, experience in enumerate(stream):
            assert experience.task_labels == [task]
            dataset = experience.dataset
            targets = list(dataset.targets)
            assert sorted(targets) == list(range(100))
            assert targets != list(range(100))
            form = forms[name][task]
            expected = torch.tensor([color(class_set(task)[label].index, form) for label in targets])
            difference = (colors(dataset) - expected).abs()
            assert difference[:, :2].max() < 4  # of 255; JPEG
            assert difference[:, 2].max() < 34
    image, label, task = benchmark.train_stream[1].dataset[3]
    assert (image.shape, image.dtype, task) == ((3, 64, 64), torch.float32, 1)
    assert label in range(100)
    assert f"GenImage ({kind}), training images of ADM nature, ADM ai" == benchmark.data_description


def test_prepared_images_are_those_of_the_download_in_the_order_of_their_names(raw: Path, prepared: Path) -> None:
    folder = prepared / "genimage/ADM/1/train/ai"
    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    names = sorted(
        path.name
        for path in (raw / GENERATORS["ADM"].archive / "train/ai").glob("*_adm_*.PNG")
        if task_and_label().get(int(path.name.split("_")[0]), (0,))[0] == 1
    )
    assert len(names) == len(images) == 200
    for row in (0, 77, 199):
        index = int(names[row].split("_")[0])
        assert task_and_label()[index] == (1, labels[row])
        number = int(names[row].split("_")[2].removesuffix(".PNG"))
        assert (images[row] == np.array(color(index, "ai", number))[:, None, None]).all()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["images"] == 200
    assert manifest["images_per_class"] == [2] * 100
    for path in prepared.rglob("images.npy"):
        assert path.stat().st_size == 128 + np.load(path, mmap_mode="r").nbytes  # also where a file was skipped


def test_disjoint_stream_takes_each_generator_once(prepared: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no train/nature images of VQDM for task 0 .* neither prepared"):
        GenImageDisjoint(1, reverse_generators=True, dataset_root=prepared)
    benchmark = GenImageDisjoint(2, synthetic_tasks=[1], val_fraction=0, dataset_root=prepared)
    assert benchmark.data_description == "GenImage (prepared), training images of ADM nature, BigGAN ai"
    assert set(benchmark.streams) == {"train", "test", "test_natural", "test_synthetic"}
    assert [len(experience.dataset) for experience in benchmark.train_stream] == [200, 200]


def test_reversed_generators_keep_the_classes(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = set()

    def find(files: GenImageFiles, generator: str, task: int, split: Split, form: Form) -> TaskImages | None:
        opened.add((task, generator))
        return original(files, "ADM", 0, split, form)

    original = GenImageFiles.find
    monkeypatch.setattr(GenImageFiles, "find", find)
    for reverse, generators in ((False, list(GENERATORS)), (True, list(GENERATORS)[::-1])):
        opened.clear()
        benchmark = GenImageDisjoint(reverse_generators=reverse, val_fraction=0, dataset_root=prepared)
        assert opened == set(enumerate(generators))
        assert benchmark.data_description.endswith(", ".join(f"{generator} nature" for generator in generators))


def test_natural_stream_without_synthetic_test_images(tmp_path: Path) -> None:
    folder = forge(tmp_path, "ADM", [0])
    for path in (folder / "val/ai").iterdir():
        path.unlink()
    prepare_genimage(tmp_path, tmp_path / "out")
    for root in (tmp_path, tmp_path / "out"):
        assert set(GenImageCL("ADM", 1, **HALF, dataset_root=root).streams) == {
            "train",
            "valid",
            "test",
            "test_natural",
        }
        with pytest.raises(FileNotFoundError, match="there are no val/ai images of ADM for task 0"):
            GenImageCL("ADM", 1, synthetic_tasks=1, val="test", dataset_root=root)


def test_prepared_images_stay_on_the_disk(prepared: Path) -> None:
    files = GenImageFiles(prepared)
    tracemalloc.start()
    images = files.find("ADM", 0, "train", "nature")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images is not None
    assert images.data.images.nbytes == 200 * 64 * 64 * 3 > 4 * peak


def test_classes_numbered_over_all_tasks(prepared: Path) -> None:
    options: dict[str, Any] = {**HALF, "return_task_id": False, "class_ids_from_zero_in_each_exp": False}
    benchmark = GenImageCL("ADM", 2, **options, dataset_root=prepared)
    for stream in benchmark.streams.values():
        assert [sorted(experience.classes_in_this_experience) for experience in stream] == (
            [list(range(100)), list(range(100, 200))]
        )
        assert [experience.task_labels for experience in stream] == [[0], [0]]


def test_options_of_pixels_and_order(prepared: Path) -> None:
    stored = GenImageCL("ADM", 1, eval_order="stored", **HALF, dataset_root=prepared).test_stream[0].dataset
    shuffled = GenImageCL("ADM", 1, **HALF, dataset_root=prepared).test_stream[0].dataset
    normalized = GenImageCL("ADM", 1, eval_order="stored", normalize=True, **HALF, dataset_root=prepared)
    labels = np.load(prepared / "genimage/ADM/0/val/nature/labels.npy").tolist()
    assert list(stored.targets) == labels
    assert list(shuffled.targets) != labels
    np.testing.assert_allclose(normalized.test_stream[0].dataset[9][0], (stored[9][0].numpy() - MEAN) / STD, atol=1e-6)
    cut = GenImageCL("ADM", 1, truncate_to=70, val_fraction=0, dataset_root=prepared)
    assert (len(cut.train_stream[0].dataset), len(cut.test_stream[0].dataset)) == (140, 70)
    with pytest.raises(ValueError, match=r"number of images, 100 in val/nature of ADM for task 0, got 101"):
        GenImageCL("ADM", 1, truncate_to=101, val_fraction=0, dataset_root=prepared)
    flipped = GenImageCL("ADM", 1, train_transform=torch.neg, eval_transform=torch.exp, **HALF, dataset_root=prepared)
    assert flipped.train_stream[0].dataset[0][0].max() <= 0
    assert flipped.train_stream[0].dataset.eval()[0][0].min() >= 1
    assert flipped.valid_stream[0].dataset[0][0].min() >= 1
    assert flipped.test_stream[0].dataset[0][0].min() >= 1


def test_validation_images_depend_on_the_seed_only(prepared: Path) -> None:
    def chosen(**options: Any) -> list[int]:
        benchmark = GenImageCL("ADM", 2, val_fraction=0.5, eval_order="stored", dataset_root=prepared, **options)
        return [round(blue) for blue in (colors(benchmark.valid_stream[1].dataset)[:, 2] / 10).tolist()]

    state = torch.get_rng_state()
    assert chosen() == chosen(seed=0)
    assert chosen() != chosen(seed=1)
    assert chosen(seed=None) == chosen(seed=None)
    assert torch.equal(torch.get_rng_state(), state)
    test = GenImageCL("ADM", 2, val="test", synthetic_tasks=1, dataset_root=prepared)
    assert [len(experience.dataset) for experience in test.train_stream] == [200, 200]
    assert (colors(test.valid_stream[0].dataset)[:, 2] - 200).abs().max() < 4
    assert (colors(test.valid_stream[1].dataset)[:, 2] - 40).abs().max() < 4


def test_batches_are_gathered(prepared: Path) -> None:
    dataset = GenImageCL("ADM", 2, normalize=True, **HALF, dataset_root=prepared).train_stream[1].dataset
    loader = ExperienceLoader(TaskBalancedDataLoader(dataset, batch_size=16))
    assert loader.gathers
    images, labels, tasks = next(iter(loader))
    assert (images.shape, images.dtype) == ((16, 3, 64, 64), torch.float32)
    assert labels.tolist() == [dataset[i][1] for i in range(16)]
    assert set(tasks.tolist()) == {1}


@pytest.mark.parametrize(
    ("place", "test"),
    [
        ("Synthetic/ADM/0", "test"),
        ("processedSingleGenerators/ADM/single_generator/0", "val"),
        ("processed/ADM/disjoint", "val"),
        ("genimage/ADM/0", "val"),
    ],
)
def test_tensors_of_the_authors(place: str, test: str, prepared: Path, tmp_path: Path) -> None:
    ours = prepared / "genimage/ADM/0"
    for split, form in PARTS:
        target = tmp_path / place / (test if split == "val" else split) / form
        target.mkdir(parents=True)
        images = np.load(ours / split / form / "images.npy")
        labels = np.load(ours / split / form / "labels.npy")
        torch.save(torch.from_numpy((images.astype(np.float32) / 255 - MEAN) / STD), target / "X.pt")
        torch.save(torch.tensor([class_set(0)[label].devkit - 1 for label in labels]), target / "y.pt")
    theirs = GenImageCL("ADM", 1, synthetic_tasks=1, **HALF, dataset_root=tmp_path)
    same = GenImageCL("ADM", 1, synthetic_tasks=1, **HALF, dataset_root=prepared)
    for name, stream in theirs.streams.items():
        one, other = stream[0].dataset, same.streams[name][0].dataset
        assert list(one.targets) == list(other.targets)
        torch.testing.assert_close(one[5][0], other[5][0])
        assert one[5][0].min() >= 0
        assert one[5][0].max() <= 1

    torch.save(
        torch.zeros(len(np.load(ours / "train/ai/labels.npy")), dtype=torch.int64), target.parents[1] / "train/ai/y.pt"
    )
    with pytest.raises(ValueError, match=r"y.pt has labels \[0\], which are no classes of task 0"):
        GenImageCL("ADM", 1, synthetic_tasks=1, **HALF, dataset_root=tmp_path)
    torch.save(torch.zeros(200), target.parents[1] / "train/ai/y.pt")
    with pytest.raises(ValueError, match=r"y.pt must hold int64 labels, got torch.float32"):
        GenImageCL("ADM", 1, synthetic_tasks=1, **HALF, dataset_root=tmp_path)
    (target.parents[1] / "train/ai/X.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="train/ai/X.pt is damaged or no file of torch.save"):
        GenImageCL("ADM", 1, synthetic_tasks=1, **HALF, dataset_root=tmp_path)


class TestPrepare:
    def test_report(self, raw: Path, prepared: Path) -> None:
        report = prepare_genimage(raw, prepared)
        assert report.images == {
            **{("ADM", split, form): COPIES[split] * 200 for split, form in PARTS},
            **{("BigGAN", split, form): COPIES[split] * 100 for split, form in PARTS},
        }
        assert len(report.missing) == 400 * 4 + 500 * 4
        archive = GENERATORS["ADM"].archive
        empty = synthetic_name("ADM", class_set(0)[0].index, 7)
        broken = f"{class_set(1)[5].wnid}_7.JPEG"
        assert sorted(report.skipped) == sorted(
            [
                (f"{archive}/train/ai/{empty}", "empty file"),
                (f"{archive}/train/ai/readme.txt", "no image of GenImage"),
                (f"{archive}/train/nature/{broken}", report.skipped[-1].reason),
            ]
        )
        assert "truncated" in report.skipped[-1].reason.lower()
        assert report.absent == ["Midjourney", "glide", "stable_diffusion_v_1_4", "VQDM"]
        assert report.unused_folders == []
        assert report.unused_images == 1
        assert "not used: images of classes that no task has (1)\n" in str(report)
        assert "ADM val/ai: no image of 100 classes of task 5, " in str(report)
        assert str(report).endswith(f"images in {prepared / 'genimage'}, 3 files skipped")
        lists = {name: (prepared / "genimage" / name / "skipped.csv").read_text() for name in ("ADM", "BigGAN")}
        assert [text.count("\n") for text in lists.values()] == [4, 1]

    def test_folders_that_are_no_generator(self, tmp_path: Path) -> None:
        forge(tmp_path, "ADM", [])
        (tmp_path / "imagenet_ai_0419_bigan/train/ai").mkdir(parents=True)
        report = prepare_genimage(tmp_path, tmp_path / "out")
        assert report.unused_folders == ["imagenet_ai_0419_bigan"]
        assert "not in the download: BigGAN, Midjourney, glide, stable_diffusion_v_1_4, VQDM\n" in str(report)
        assert "not used: imagenet_ai_0419_bigan, which belongs to no generator\n" in str(report)
        assert verify_genimage(tmp_path / "out") == []

    def test_entries_that_are_no_images(self, tmp_path: Path) -> None:
        folder = forge(tmp_path / "raw", "ADM", []) / "train/ai"
        first, second, third = (synthetic_name("ADM", class_set(0)[0].index, number) for number in range(3))
        (folder / first).mkdir()
        (folder / second).symlink_to("nowhere")
        (folder / third).symlink_to(third)
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).touch()
        report = prepare_genimage(tmp_path / "raw", tmp_path)
        place = f"{GENERATORS['ADM'].archive}/train/ai"
        names = [first, second, third, r"caf\xe9.png"]
        assert report.skipped == [(f"{place}/{name}", "no image of GenImage") for name in names]
        assert r"caf\xe9.png" in (tmp_path / "genimage/ADM/skipped.csv").read_text()

    @pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EIO])
    def test_files_that_cannot_be_read(self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = forge(tmp_path / "raw", "ADM", []) / "train/ai"
        path, other = (folder / synthetic_name("ADM", class_set(0)[0].index, number) for number in range(2))
        for place in (path, other):
            Image.new("RGB", (8, 8)).save(place)

        def open_other(name: str) -> Any:
            return raise_(OSError(number, os.strerror(number))) if name == str(path) else original(name)

        original = Image.open
        monkeypatch.setattr(prepare_module, "CHUNK", 1)
        with monkeypatch.context() as patch:
            patch.setattr(Image, "open", open_other)
            if number == errno.EIO:
                with pytest.raises(OSError, match=rf"Input/output error: '{path}'"):
                    prepare_genimage(tmp_path / "raw", tmp_path)
                return
            ((place, reason),) = prepare_genimage(tmp_path / "raw", tmp_path).skipped
        assert (Path(place).name, reason) == (path.name, f"[Errno {number}] {os.strerror(number)}")
        assert prepare_genimage(tmp_path / "raw", tmp_path).skipped == []  # it was tried again
        assert len(np.load(tmp_path / "genimage/ADM/0/train/ai/labels.npy")) == 2

    def test_a_download_that_goes_away_takes_nothing_along(self, tmp_path: Path) -> None:
        folder = forge(tmp_path / "raw", "BigGAN", [1]) / "val/ai"
        prepare_genimage(tmp_path / "raw", tmp_path / "out")
        before = content(tmp_path / "out")
        Image.new("RGB", (8, 8)).save(folder / synthetic_name("BigGAN", class_set(1)[0].index, 9))
        with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{folder}"):
            prepare_genimage(
                tmp_path / "raw",
                tmp_path / "out",
                progress=lambda done, total: None if done else (tmp_path / "raw").rename(tmp_path / "elsewhere"),
            )
        assert content(tmp_path / "out") == before

    @pytest.mark.parametrize(
        "error", [Image.DecompressionBombError("large"), NotImplementedError("new"), MemoryError()]
    )
    def test_what_decoders_raise(self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = forge(tmp_path / "raw", "ADM", [0])
        dataset = GenImageCL("ADM", 1, **HALF, dataset_root=tmp_path / "raw").train_stream[0].dataset
        monkeypatch.setattr(decode_module, "to_pixels", lambda image, form: raise_(error))
        monkeypatch.setattr(files_module, "to_pixels", lambda image, form: raise_(error))
        with pytest.raises(
            ValueError, match=rf"{folder}/train/nature/n\d+_\d.JPEG cannot be decoded \({type(error).__name__}"
        ):
            dataset[0]
        if isinstance(error, MemoryError):
            with pytest.raises(OSError, match=rf"not enough memory to decode it: '{folder}/train/nature/n\d+_\d.JPEG'"):
                prepare_genimage(tmp_path / "raw", tmp_path)
        else:
            assert {reason for _, reason in prepare_genimage(tmp_path / "raw", tmp_path).skipped} == {str(error)}

    def test_several_processes_make_the_same_bytes(self, raw: Path, prepared: Path, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        prepare_genimage(raw, tmp_path, jobs=2, progress=lambda done, total: seen.append((done, total)))
        assert content(tmp_path) == content(prepared)
        assert seen[0] == (0, 1802)
        assert seen[-1] == (1802, 1802)

    def test_a_process_that_ends(self, raw: Path, tmp_path: Path) -> None:
        def progress(done: int, total: int) -> None:
            if done:
                multiprocessing.active_children()[0].kill()

        with pytest.raises(OSError, match="a process that decodes images ended, perhaps for lack of memory"):
            prepare_genimage(raw, tmp_path, jobs=2, progress=progress)
        assert not list(tmp_path.rglob("*.partial"))

    @pytest.mark.parametrize("images", [1, 7])
    def test_how_many_images_are_decoded_at_a_time_does_not_matter(
        self, images: int, raw: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prepare_module, "CHUNK", images)  # of 1 image: nothing is left of some chunks
        prepare_genimage(raw, tmp_path)
        assert content(tmp_path) == content(prepared)

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_goes_on_where_it_was_interrupted(
        self, jobs: int, raw: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop_at(limit: int) -> Callable[[int, int], None]:
            def progress(done: int, total: int) -> None:
                if done >= limit:
                    raise KeyboardInterrupt

            return progress

        with pytest.raises(KeyboardInterrupt):
            prepare_genimage(raw, tmp_path, jobs=jobs, progress=stop_at(900))
        manifests = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("manifest.json")}
        assert manifests
        assert not list(tmp_path.rglob("*.partial"))
        for name in (".images.npy.partial", ".images.npy.abc.partial"):
            (next(iter(manifests)).parent / name).write_bytes(b"of a process that was killed")
        prepare_genimage(raw, tmp_path)
        assert content(tmp_path) == content(prepared)
        assert {path: path.stat().st_mtime_ns for path in manifests} == manifests

        monkeypatch.setattr(prepare_module, "decode", None)  # nothing is left to decode
        prepare_genimage(raw, tmp_path)

    def test_what_changed_in_the_download_is_converted_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = forge(tmp_path / "raw", "BigGAN", [1])
        arrays = tmp_path / "genimage/BigGAN/1/val/ai"
        prepare_genimage(tmp_path / "raw", tmp_path)

        def first_pixel_after(change: Callable[[Path], object]) -> int:
            change(min((folder / "val/ai").iterdir()))
            prepare_genimage(tmp_path / "raw", tmp_path)
            return int(np.load(arrays / "images.npy")[0, 0, 0, 0])

        def save(path: Path, color: int, times: tuple[int, int] | None = None) -> None:
            Image.new("L", (8, 8), color).save(path, compress_level=0)
            if times is not None:
                os.utime(path, ns=times)

        def mend(path: Path, color: int, *, longer: bool) -> None:
            """Changes the size or the time of a file, and not the other."""
            old = path.stat()
            save(path, color)
            with path.open("ab") as file:
                file.write(b"x" * longer)
            os.utime(path, ns=(0, old.st_mtime_ns + (not longer)))

        assert first_pixel_after(lambda path: save(path, 77)) == 77
        assert first_pixel_after(lambda path: mend(path, 78, longer=False)) == 78
        assert first_pixel_after(lambda path: mend(path, 79, longer=True)) == 79
        Image.new("RGB", (8, 8)).save(folder / "val/ai" / synthetic_name("BigGAN", class_set(1)[0].index, 9))
        assert first_pixel_after(lambda path: os.truncate(arrays / "images.npy", 100)) == 79
        assert np.load(arrays / "labels.npy").tolist().count(0) == 2
        same = manifest_of(arrays)
        for manifest in ("[]", "{", json.dumps(same | {"format": 0})):
            assert first_pixel_after(lambda path, text=manifest: (arrays / "manifest.json").write_text(text)) == 79
            assert manifest_of(arrays) == same
        assert first_pixel_after(lambda path: os.truncate(arrays / "images.npy", 100)) == 79
        assert first_pixel_after(lambda path: path.rename(f"{path}".replace("_00000.", "_00001."))) == 79
        assert manifest_of(arrays)["source"] != same["source"]
        with monkeypatch.context() as patch:  # a file that vanishes meanwhile
            patch.setattr(prepare_module, "record", lambda name, status: raise_(FileNotFoundError(errno.ENOENT, name)))
            assert first_pixel_after(lambda path: None) == 79
        assert all(problem is None for _, problem in verify_genimage(tmp_path))

    def test_old_arrays_stay_until_the_new_ones_are_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = forge(tmp_path / "raw", "BigGAN", [1]) / "val/ai"
        prepare_genimage(tmp_path / "raw", tmp_path)

        def images() -> int | None:
            found = GenImageFiles(tmp_path).find("BigGAN", 1, "val", "ai")
            return None if found is None else len(found.data)

        Image.new("RGB", (8, 8)).save(folder / synthetic_name("BigGAN", class_set(1)[0].index, 9))
        for failing in range(1, 5):  # parts.json, then the three files
            fsync_fails_at(failing, monkeypatch)
            with pytest.raises(OSError, match="is full"):
                prepare_genimage(tmp_path / "raw", tmp_path)
            monkeypatch.undo()
            assert images() == 100

        def replace(path: Path, target: Path) -> Path:
            if target.name == "labels.npy":
                raise KeyboardInterrupt
            return original(path, target)

        original = Path.replace
        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            prepare_genimage(tmp_path / "raw", tmp_path)
        monkeypatch.undo()
        assert images() is None  # one array is new, the other is not
        prepare_genimage(tmp_path / "raw", tmp_path)
        assert images() == 101

    def test_full_disk(self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fsync_fails_at(11, monkeypatch)  # two lists of parts, six for the first part, and two of the second
        with pytest.raises(OSError, match="the disk of .*genimage is full; what is finished is kept"):
            prepare_genimage(raw, tmp_path)
        assert len(list(tmp_path.rglob("manifest.json"))) == 1
        assert [status.problem for status in verify_data_sets(tmp_path, ["genimage"])].count(None) == 2
        with pytest.raises(FileNotFoundError, match="no train/nature images of ADM for task 1"):
            GenImageCL("ADM", 2, **HALF, dataset_root=tmp_path)

    def test_images_that_cannot_be_written(self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        error = OSError(errno.EIO, os.strerror(errno.EIO))
        monkeypatch.setattr(decode_module, "_open_as_it_is", lambda path, flags: raise_(error))
        with pytest.raises(OSError, match=rf"Input/output error: '{tmp_path}/.*/\.images\.npy\.partial'"):
            prepare_genimage(raw, tmp_path)

    def test_one_process_at_a_time(self, raw: Path, tmp_path: Path) -> None:
        (tmp_path / "genimage").mkdir()
        with FileLock(tmp_path / "genimage/.prepare.lock"), pytest.raises(OSError, match="by another process; wait"):
            prepare_genimage(raw, tmp_path)
        assert not list(tmp_path.rglob("*.npy"))

    def test_too_little_space_is_seen_first(self, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type("Usage", (), {"free": 10**6})
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(OSError, match=r"needs 0.0 GB for 1802 images, but its disk has 0.0"):
            prepare_genimage(raw, tmp_path)

    def test_bad_downloads(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            prepare_genimage(tmp_path / "nowhere", tmp_path / "out")
        with pytest.raises(
            FileNotFoundError, match="holds no GenImage download: expected one or more of the folders im"
        ):
            prepare_genimage(tmp_path, tmp_path / "out")
        (tmp_path / "VQDM/raw/train/ai").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match="missing are the folders .*VQDM/raw/train/nature, .*val/nature, "):
            prepare_genimage(tmp_path, tmp_path / "out")
        with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
            prepare_genimage(tmp_path, tmp_path / "out", jobs=0)
        assert not (tmp_path / "out").exists()

    def test_verify(self, prepared: Path, tmp_path: Path) -> None:
        statuses = verify_data_sets(prepared, ["genimage"])
        assert len(statuses) == 12 * 2
        assert all(status.ok for status in statuses)
        for name, data in content(prepared).items():
            if "BigGAN" in name:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(data)
        folder = tmp_path / "genimage/BigGAN/1/val/ai"

        def problems() -> dict[str, str]:
            statuses = verify_data_sets(tmp_path, ["genimage"])
            base = tmp_path / "genimage/BigGAN"
            return {str(status.path.relative_to(base)): status.problem for status in statuses if status.problem}

        assert problems() == {}
        with (folder / "images.npy").open("r+b") as file:
            file.seek(500)
            file.write(b"x")
        (found,) = problems().items()
        assert found[0] == "1/val/ai/images.npy"
        assert found[1].startswith("wrong content, SHA-256")
        assert found[1].endswith("; remove its folder and run clpack data prepare genimage again")
        (folder / "labels.npy").unlink()
        assert problems()["1/val/ai/labels.npy"].startswith("missing; remove its folder")
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["files"]["images.npy"]
        for text in (json.dumps(manifest), "{", "[]"):
            (folder / "manifest.json").write_text(text)
            assert list(problems()) == ["1/val/ai/manifest.json"]
        (folder / "manifest.json").unlink()
        (folder / ".images.npy.abc.partial").touch()
        not_finished = "not finished; run clpack data prepare genimage again"
        assert problems() == dict.fromkeys(["1/val/ai", "1/val/ai/.images.npy.abc.partial"], not_finished)
        shutil.rmtree(folder)
        assert problems() == {"1/val/ai": not_finished}
        (tmp_path / "genimage/BigGAN/parts.json").unlink()
        assert problems() == {"parts.json": "missing or damaged; run clpack data prepare genimage again"}

    def test_verify_where_nothing_is_prepared(self, tmp_path: Path) -> None:
        (status,) = verify_data_sets(tmp_path, ["genimage"])
        assert status.path == tmp_path / "genimage"
        assert str(status.problem).startswith("nothing is prepared; unpack the archives")
        assert "genimage" not in {status.data_set for status in verify_data_sets(tmp_path)}


class TestBadInput:
    @pytest.fixture
    def root(self, prepared: Path, tmp_path: Path) -> Path:
        """A copy of the arrays of BigGAN, to be damaged."""
        for name, data in content(prepared).items():
            if "BigGAN" in name:
                target = tmp_path / name.replace("BigGAN/1", "ADM/0")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        return tmp_path

    def test_truncated_array(self, root: Path) -> None:
        path = root / "genimage/ADM/0/train/nature/images.npy"
        GenImageCL("ADM", 1, **HALF, dataset_root=root)
        os.truncate(path, 1000)
        with pytest.raises(
            ValueError, match=r"images.npy: 1000 bytes where 2457728 are expected; remove its folder and run clpack"
        ):
            GenImageCL("ADM", 1, **HALF, dataset_root=root)
        path.unlink()
        with pytest.raises(ValueError, match=r"images.npy: missing; remove its folder"):
            GenImageCL("ADM", 1, **HALF, dataset_root=root)
        np.save(root / "genimage/ADM/0/val/nature/labels.npy", np.full(100, 100, dtype=np.uint8))
        with pytest.raises(
            ValueError, match=r"val/nature/labels.npy holds 100, which is no label from 0 to 99; remove"
        ):
            GenImageFiles(root).find("ADM", 0, "val", "nature")
        (path.parent / "manifest.json").write_text("[]")
        with pytest.raises(ValueError, match=r"manifest.json is damaged"):
            GenImageCL("ADM", 1, **HALF, dataset_root=root)

    def test_missing_class(self, raw: Path, tmp_path: Path) -> None:
        folder = forge(tmp_path, "ADM", [0])
        entry = class_set(0)[42]
        for path in (folder / "val/nature").iterdir():
            parsed = parse_file_name("ADM", "val", "nature", path.name)
            assert parsed is not None
            if parsed[0] == entry.index:
                path.unlink()
        with pytest.raises(
            ValueError,
            match=rf"ADM val/nature has no image of 1 of the 100 classes of task 0: {entry.wnid} \({entry.name}\); c",
        ):
            GenImageCL("ADM", 1, **HALF, dataset_root=tmp_path)
        with pytest.warns(UserWarning, match="ADM val/nature has no image of 1 of the 100"):
            benchmark = GenImageCL("ADM", 1, on_missing="warn", **HALF, dataset_root=tmp_path)
        assert sorted(benchmark.test_stream[0].classes_in_this_experience) == [i for i in range(100) if i != 42]

    def test_files_of_the_download_that_cannot_be_used(self, raw: Path) -> None:
        with pytest.warns(
            UserWarning, match="train/ai: 1 entries that are no files of GenImage and 1 empty or unreadable"
        ):
            GenImageCL("ADM", 1, synthetic_tasks=1, **HALF, dataset_root=raw)
        dataset = GenImageCL("ADM", 2, val_fraction=0, dataset_root=raw).train_stream[1].dataset
        with pytest.raises(ValueError, match=f"{class_set(1)[5].wnid}_7.JPEG cannot be decoded"):
            _ = [dataset[i] for i in range(len(dataset))]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"generator": "adm"}, ValueError, "unknown generator 'adm': did you mean 'ADM'?"),
            ({"generator": "BigGAM"}, ValueError, "unknown generator 'BigGAM': did you mean 'BigGAN'?"),
            ({"n_experiences": 7}, ValueError, "n_experiences must be at most 6, got 7"),
            ({"n_experiences": "2"}, TypeError, "n_experiences must be an integer"),
            ({"synthetic_tasks": 7}, ValueError, "a number of tasks from 0 to 6, got 7"),
            ({"synthetic_tasks": [0, 6]}, ValueError, r"must name tasks 0..5, each at most once, got \[0, 6\]"),
            ({"synthetic_tasks": [1, 1]}, ValueError, "each at most once"),
            ({"synthetic_tasks": ["ai"]}, ValueError, r"'ai' or 'nature' for each task, got \['ai'\] for 6 tasks"),
            ({"synthetic_tasks": ["ai"] * 5 + ["natural"]}, ValueError, "'ai' or 'nature' for each task"),
            ({"synthetic_tasks": ["ai"] * 5 + [1]}, ValueError, "'ai' or 'nature' for each task"),
            (
                {"synthetic_tasks": "ai"},
                TypeError,
                "synthetic_tasks must be a number of tasks, their indices or a list",
            ),
            ({"synthetic_tasks": True}, TypeError, "synthetic_tasks must be a number of tasks"),
            ({"synthetic_tasks": [0.0]}, TypeError, "must hold integer indices"),
            ({"val_fraction": 1}, ValueError, "val_fraction must be at least 0 and less than 1, got 1"),
            ({"val_fraction": "0.1"}, TypeError, "val_fraction must be a number"),
            ({"val": "valid"}, ValueError, "val must be one of train, test, got 'valid'"),
            ({"on_missing": "ignore"}, ValueError, "on_missing must be one of error, warn"),
            ({"eval_order": None}, ValueError, "eval_order must be one of shuffled, stored"),
            ({"truncate_to": 0}, ValueError, "truncate_to must be a positive integer or None, got 0"),
            ({"truncate_to": True}, ValueError, "truncate_to must be a positive integer or None, got True"),
            ({"seed": -1}, ValueError, "seed must not be negative"),
            ({"generator": ["ADM"]}, ValueError, r"unknown generator \"\['ADM'\]\""),
            ({"return_task_id": 1}, TypeError, "return_task_id must be True or False, got 1"),
            ({"class_ids_from_zero_in_each_exp": None}, TypeError, "zero_in_each_exp must be True or False, got None"),
            ({"normalize": "no"}, TypeError, "normalize must be True or False, got 'no'"),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
        for attempt in (check, get, lambda name, **given: GenImageCL(**given)):
            with pytest.raises(error, match=message):
                attempt("GenImageCL", **{"generator": "ADM", **arguments}, dataset_root=tmp_path)

    def test_reverse_generators(self, tmp_path: Path) -> None:
        for attempt in (check, get, lambda name, **given: GenImageDisjoint(**given)):
            with pytest.raises(TypeError, match="reverse_generators must be True or False, got 'no'"):
                attempt("GenImageDisjoint", reverse_generators="no", dataset_root=tmp_path)

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=f"\n  clpack data prepare genimage RAW {tmp_path}$"):
            get("GenImageDisjoint", dataset_root=tmp_path)
        with pytest.raises(FileNotFoundError, match="clpack downloads nothing by itself"):
            get("GenImageCL", generator="glide", dataset_root=tmp_path / "nowhere")
