"""The small parts that all layers stand on: random streams, files, in-memory data, messages."""

from __future__ import annotations

import pytest
import torch

from clpack.data import BatchTransform, PixelPermutation, TensorImages
from clpack.files import atomic_path, write_bytes, write_text
from clpack.names import unknown_name
from clpack.randomness import derive_seed, generator_for


def test_streams_of_a_seed_are_fixed_and_differ():
    assert derive_seed(1, "data order", 0) == 7114109423164919585
    seeds = {derive_seed(seed, name, k) for seed in range(5) for name in ("a", "b") for k in range(5)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, again, other = (torch.rand(3, generator=generator_for(1, name)) for name in ("x", "x", "y"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_streams_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    torch.rand(3, generator=generator_for(1, "x"))
    assert torch.equal(state, torch.get_rng_state())


def test_bad_seed():
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5 of type float"):
        derive_seed(1.5)


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), atomic_path(path) as partial:
        partial.write_text((tmp_path / "missing").read_text())
    assert path.read_text() == "old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    assert path.stat().st_mode & 0o444 == 0o444


def test_tensor_images():
    data = TensorImages(torch.arange(6.0).view(3, 2), torch.tensor([2, 0, 1]))
    assert len(data) == 3
    assert data.targets == [2, 0, 1]
    image, target = data[1]
    assert torch.equal(image, torch.tensor([2.0, 3.0]))
    assert type(target) is int
    with pytest.raises(ValueError, match="same length, got 3 and 2"):
        TensorImages(torch.zeros(3, 1), [0, 1])
    with pytest.raises(TypeError, match=r"integer class labels, got dtype torch\.float32"):
        TensorImages(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(TypeError, match="must be a tensor"):
        TensorImages([1, 2], [0, 1])


def test_permutation_moves_pixels_of_one_image_and_of_a_batch():
    permute = PixelPermutation(torch.tensor([3, 0, 2, 1]))
    image = torch.tensor([[[10.0, 11.0], [12.0, 13.0]]])
    assert permute(image).flatten().tolist() == [13.0, 10.0, 12.0, 11.0]
    assert torch.equal(permute(torch.stack((image, image + 1)))[1], permute(image + 1))
    with pytest.raises(ValueError, match=r"must hold each of 0\.\.3 once"):
        PixelPermutation(torch.tensor([0, 1, 1, 2]))
    with pytest.raises(ValueError, match="over 4 pixels, but images of shape .* have 9"):
        permute(torch.zeros(1, 3, 3))


def test_a_batch_transform_must_say_what_it_does():
    with pytest.raises(TypeError, match="__call__"):
        BatchTransform()


def test_unknown_names_suggest_the_closest():
    message = unknown_name("stream", "splitdigit", ["SplitDigits", "PermutedDigits"])
    assert message == (
        "unknown stream 'splitdigit': did you mean 'SplitDigits'? expected one of SplitDigits, PermutedDigits"
    )
    assert unknown_name("thing", "zzz", []) == "unknown thing 'zzz': expected one of (none)"
