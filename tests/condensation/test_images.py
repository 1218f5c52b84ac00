"""Stored images: recordings, budgets, starts, files, and errors."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from clpack.condensation import CondensedSet, LowRankImages, PixelImages, equivalent_images_per_class


def low_rank_set(count=6, rank=2, **options):
    storage = LowRankImages(count, 3, 8, 6, rank)
    storage.fill_noise_([torch.randn(count, 3, 8, rank), torch.randn(count, 3, rank, 6)])
    return CondensedSet(storage, torch.arange(count) // 2, **options)


@pytest.mark.parametrize("case", ["c0", "c1", "c2"])
def test_recorded_factors(golden, case):
    recording = golden("condensation/lowrank").below(f"{case}_")
    (count, channels, height, rank), width = recording["a"].shape, recording["b"].shape[3]
    storage = LowRankImages(count, channels, height, width, rank)
    storage.load_state_dict({"a": recording["a"], "b": recording["b"]})
    images = storage.images()
    torch.testing.assert_close(images, recording["x"], rtol=1e-4, atol=1e-5)
    (images * recording["w"]).sum().backward()
    torch.testing.assert_close(storage.a.grad, recording["da"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(storage.b.grad, recording["db"], rtol=1e-4, atol=1e-5)


def test_recorded_numbers_of_images(golden):
    rows = golden("condensation/rules").meta["new_ipc"]
    assert len(rows) > 100
    for row in rows:
        for rounding, key in (("total", "new_ipc_documented"), ("per_image", "new_ipc_code")):
            arguments = (row["ipc"], row["height"], row["width"], row["rank"])
            if row[key] == 0:
                with pytest.raises(ValueError, match="more than the"):
                    equivalent_images_per_class(*arguments, rounding=rounding)
            else:
                assert equivalent_images_per_class(*arguments, rounding=rounding) == row[key]


def test_equal_storage_never_exceeds_the_budget():
    for height, width, rank, budget in ((28, 28, 8, 50), (17, 40, 3, 7), (64, 5, 2, 1)):
        count = equivalent_images_per_class(budget, height, width, rank)
        storage = LowRankImages(count, 1, height, width, rank)
        assert storage.numel <= PixelImages(budget, 1, height, width).numel < storage.numel * (count + 1) / count
        assert storage.equivalent_images_per_class(budget) == count
        assert storage.nbytes == 4 * storage.numel
    assert PixelImages(1, 1, 4, 4).equivalent_images_per_class(3) == 3


def test_svd_is_the_best_of_its_rank():
    images = torch.randn(4, 3, 8, 6)
    full = LowRankImages(4, 3, 8, 6, 6)
    full.fill_(images)
    torch.testing.assert_close(full.images(), images, rtol=1e-4, atol=1e-5)
    storage = LowRankImages(4, 3, 8, 6, 2)
    storage.fill_(images)
    lost = (images - storage.images()).square().sum((2, 3))
    torch.testing.assert_close(lost, torch.linalg.svdvals(images)[..., 2:].square().sum(-1), rtol=1e-4, atol=1e-4)
    pixels = PixelImages(4, 3, 8, 6)
    pixels.fill_(images)
    assert torch.equal(pixels.images(), images)


def test_indices_decode_what_all_decodes():
    condensed = low_rank_set()
    assert torch.equal(condensed.images(torch.tensor([4, 1])), condensed.images()[[4, 1]])
    assert torch.equal(condensed.images(slice(2, 4)), condensed.images()[2:4])
    assert condensed.storage.images().requires_grad
    assert not condensed.images().requires_grad


def test_file(tmp_path):
    condensed = low_rank_set(mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3], metadata={"rank": 2, "lr": 0.01})
    path = tmp_path / "set.safetensors"
    condensed.save(path)
    loaded = CondensedSet.load(path)
    assert torch.equal(loaded.images(), condensed.images())
    assert torch.equal(loaded.targets, condensed.targets)
    assert (loaded.mean, loaded.std, loaded.metadata) == (condensed.mean, condensed.std, condensed.metadata)
    assert condensed.nbytes <= path.stat().st_size <= condensed.nbytes + 1024
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["header"])["metadata"] == {"rank": 2, "lr": 0.01}
    for tensors, message in (
        ({"x": torch.zeros(1)}, "expected format clpack.condensed/1, got None"),
        (None, "not a file"),
    ):
        save_file(tensors, path) if tensors else path.write_bytes(b"no tensors")
        with pytest.raises(ValueError, match=message):
            CondensedSet.load(path)


def test_half_precision(tmp_path):
    condensed = low_rank_set()
    half = condensed.half()
    assert half.storage.nbytes * 2 == condensed.storage.nbytes
    assert half.images().dtype == torch.float32
    torch.testing.assert_close(half.images(), condensed.images(), rtol=1e-2, atol=1e-2)
    half.save(tmp_path / "half")
    assert CondensedSet.load(tmp_path / "half").nbytes == half.nbytes
    with torch.no_grad():
        condensed.storage.a[0, 0, 0, 0] = 70_000.0
    with pytest.raises(ValueError, match="whose numbers reach 70000 cannot be stored in half precision"):
        condensed.half()


def test_parts_and_joins():
    condensed = low_rank_set(metadata={"rank": 2})
    parts = [condensed.select_classes([label]) for label in (2, 0)]
    joined = CondensedSet.concat(parts)
    assert joined.targets.tolist() == [2, 2, 0, 0]
    assert torch.equal(joined.images(), condensed.images(torch.tensor([4, 5, 0, 1])))
    assert joined.metadata == {"rank": 2}
    parts[1].metadata = {"rank": 2, "lr": 0.1, "settings": {"seed": 0, "count": 2}}
    parts[0].metadata = {"rank": 3, "seed": 1, "settings": {"seed": 0, "count": 1}}
    assert CondensedSet.concat(parts).metadata == {"settings": {"seed": 0}}
    with pytest.raises(ValueError, match=r"classes must be among \[0, 1, 2\], got \[7\]"):
        condensed.select_classes([1, 7])
    with pytest.raises(ValueError, match="one kind, size and precision"):
        CondensedSet.concat([condensed, low_rank_set(rank=3)])
    with pytest.raises(ValueError, match="one kind, size and precision"):
        CondensedSet.concat([condensed, condensed.half()])


def test_pictures():
    storage = PixelImages(2, 1, 2, 2)
    storage.fill_(torch.tensor([-9.0, -1.0, 0.0, 9.0]).view(1, 1, 2, 2).repeat(2, 1, 1, 1))
    known = CondensedSet(storage, torch.zeros(2, dtype=torch.int64), mean=[0.5], std=[0.25]).pictures()
    assert known[0].flatten().tolist() == [0.0, 0.25, 0.5, 1.0]
    unknown = CondensedSet(storage, torch.zeros(2, dtype=torch.int64)).pictures()
    assert unknown[0].flatten().tolist() == pytest.approx([0, 8 / 18, 0.5, 1.0])


@pytest.mark.parametrize("core", ["_core", "core"])  # NumPy 2, and 1 with which the authors worked
def test_results_of_the_authors(tmp_path, core):
    images, labels = torch.randn(4, 1, 5, 5), torch.tensor([0, 0, 1, 1])
    runs = {"data": [[images, labels], [images + 1, labels]], "accs_all_exps": {"ConvNet": [np.float64(0.5), 0.25]}}
    torch.save(runs, tmp_path / "new.pt")
    torch.save(images, tmp_path / "images_best.pt")
    torch.save(labels, tmp_path / "labels_best.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as source, zipfile.ZipFile(tmp_path / "runs.pt", "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.", f"numpy.{core}.".encode()))
    second = CondensedSet.load_authors(tmp_path / "runs.pt", run=1)
    assert torch.equal(second.images(), images + 1)
    best = CondensedSet.load_authors(tmp_path / "images_best.pt", labels=tmp_path / "labels_best.pt")
    assert torch.equal(best.targets, labels)
    with pytest.raises(ValueError, match="below the number of runs .* 2, got 2"):
        CondensedSet.load_authors(tmp_path / "runs.pt", run=2)
    with pytest.raises(ValueError, match="must hold images and labels"):
        CondensedSet.load_authors(tmp_path / "images_best.pt")


class Intruder:
    def __reduce__(self):
        return print, ("executed",)


def test_files_of_others_execute_nothing(tmp_path, capsys):
    torch.save({"data": Intruder()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="is not a file of tensors"):
        CondensedSet.load_authors(tmp_path / "bad.pt")
    assert capsys.readouterr().out == ""


def test_bad_arguments():
    storage = PixelImages(2, 1, 4, 4)
    for build, message in (
        (lambda: LowRankImages(2, 3, 8, 6, 7), "rank must be from 1 to the shorter side of the images, 6, got 7"),
        (lambda: PixelImages(0, 3, 8, 8), "num_images must be at least 1, got 0"),
        (lambda: equivalent_images_per_class(1, 32, 32, 17), "rank 17 take 1088 numbers a channel, more than the 1024"),
        (lambda: equivalent_images_per_class(0, 32, 32, 2), "images_per_class must be at least 1, got 0"),
        (lambda: equivalent_images_per_class(1, 8, 8, 2, rounding="up"), "rounding must be .* got 'up'"),
        (lambda: storage.fill_(torch.zeros(1, 1, 4, 4)), r"images must have shape \(2, 1, 4, 4\)"),
        (lambda: CondensedSet(storage, torch.tensor([1])), r"one label per image, shape \(2,\), got \(1,\)"),
        (lambda: CondensedSet(storage, torch.tensor([1, 2]), mean=[0, 0, 0]), "each of 1 channels, got 3"),
        (lambda: CondensedSet.concat([]), "sets is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(TypeError, match="int64 tensor of class labels, got torch.int32"):
        CondensedSet(storage, torch.tensor([1, 2], dtype=torch.int32))
