"""The registry of streams: names, descriptions, opening by name."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import clpack.benchmarks as benchmarks
from clpack.benchmarks import check, describe, describe_data_sets, get, names


def test_every_stream_is_described_exported_and_takes_the_common_arguments() -> None:
    data_sets = {data_set.name for data_set in describe_data_sets()}
    for name in names():
        info = describe(name)
        assert info.name == name
        assert info.embedded == (not info.data_sets)
        assert set(info.data_sets) <= data_sets
        assert name in benchmarks.__all__
        function = getattr(benchmarks, name)
        assert function.__name__ == name
        assert function.__module__ == f"clpack.benchmarks.{info.module}"
        common = {"n_experiences", "return_task_id", "seed", "dataset_root"}
        missing = {"n_experiences"} if name == "FiveDatasets" else set()  # its tasks are listed
        assert common - set(inspect.signature(function).parameters) == missing


def test_description_prints_what_a_user_asks_first() -> None:
    assert str(describe("PermutedMNIST")) == (
        "PermutedMNIST: domain-incremental, task-incremental\n"
        "  data       local files of MNIST\n"
        "  classes    10\n"
        "  images     1 x 28 x 28\n"
        "  reference  I. Goodfellow et al., An Empirical Investigation of Catastrophic Forgetting, 2013, "
        "arXiv:1312.6211"
    )
    assert "embedded (scikit-learn digits)" in str(describe("SplitDigits"))


def test_description_for_given_arguments() -> None:
    info = describe("SplitMedMNIST", name="organamnist", size=64, n_experiences=2)
    assert (info.n_classes, info.image_shape, info.data_set) == (11, (1, 64, 64), "organamnist_64")
    assert describe("SplitMedMNIST").data_set is None
    assert describe("SplitMNIST", n_experiences=2) == describe("SplitMNIST")


@pytest.mark.parametrize("name", ["SplitDigits", "PermutedDigits", "NoisyDigits"])
def test_descriptions_agree_with_the_embedded_streams(name: str) -> None:
    info, benchmark = describe(name), get(name, n_experiences=2)
    assert benchmark.train_stream[0].dataset[0][0].shape == info.image_shape
    assert len({c for experience in benchmark.train_stream for c in experience.classes_in_this_experience}) == (
        info.n_classes
    )


def test_get_passes_the_arguments_on() -> None:
    benchmark = get("SplitDigits", n_experiences=2, fixed_class_order=[3, 1], return_task_id=True)
    assert benchmark.classes_order == [3, 1]
    assert [experience.task_labels for experience in benchmark.train_stream] == [[0], [1]]


def test_unknown_stream() -> None:
    with pytest.raises(ValueError, match=r"unknown stream 'splitdigit': did you mean 'SplitDigits'\? expected one of"):
        get("splitdigit")
    with pytest.raises(ValueError, match="unknown stream 'xyz': expected one of SplitDigits, PermutedDigits, Noisy"):
        describe("xyz")


def test_unknown_or_missing_argument() -> None:
    with pytest.raises(
        TypeError,
        match=r"unknown SplitDigits argument 'n_experience': did you mean 'n_experiences'\? expected one of n_e.*root",
    ):
        get("SplitDigits", n_experience=5)
    with pytest.raises(TypeError, match="SplitMNIST needs the argument n_experiences, got none"):
        get("SplitMNIST")
    with pytest.raises(TypeError, match=r"SplitMNIST needs the argument n_experiences, got \['seed'\]"):
        get("SplitMNIST", seed=1)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("SplitDigits", {"n_experiences": 3}, ValueError, "must divide the 10 classes evenly: got 3"),
        ("SplitCIFAR100", {"n_experiences": 3}, ValueError, "must divide the 100 classes evenly: got 3"),
        (
            "SplitFMNIST",
            {"n_experiences": 5, "first_batch_with_half_classes": True},
            ValueError,
            "first experience of 5",
        ),
        ("SplitMNIST", {"n_experiences": 5, "fixed_class_order": [1, 1]}, ValueError, "each class once"),
        ("PermutedMNIST", {"n_experiences": 0}, ValueError, "n_experiences must be at least 1, got 0"),
        ("PermutedMNIST", {"n_experiences": 3, "seed": 2**32}, ValueError, "seed must be at most 4294967295"),
        ("PermutedDigits", {"seed": 4_000_001}, ValueError, "seed must be at most 4000000 for this stream"),
        ("RotatedMNIST", {"n_experiences": 3, "fixed_class_order": [1]}, TypeError, "unknown RotatedMNIST argument"),
        ("SplitMNIST", {}, TypeError, "SplitMNIST needs the argument n_experiences, got none"),
        ("SplitMNITS", {}, ValueError, "unknown stream 'SplitMNITS': did you mean 'SplitMNIST'"),
    ],
)
def test_check_refuses(name: str, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check(name, **arguments)


@pytest.mark.parametrize("name", names())
def test_check_needs_no_data_and_leaves_the_global_generator(name: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    needed: dict[str, dict[str, Any]] = {
        "FiveDatasets": {},
        "GenImageCL": {"generator": "BigGAN", "n_experiences": 5},
        "SplitMedMNIST": {"name": "bloodmnist", "n_experiences": 5},
    }
    for seed in (None, 7, describe(name).largest_seed):
        check(name, **needed.get(name, {"n_experiences": 5}), seed=seed, dataset_root=str(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


def test_no_such_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'SplitNothing'"):
        _ = benchmarks.SplitNothing
    assert "SplitDigits" in dir(benchmarks)


def test_listing_imports_neither_torch_nor_avalanche() -> None:
    program = (
        "import sys; from clpack.benchmarks import describe, describe_data_sets, names\n"
        "lines = [str(describe(name)) for name in names()] + describe_data_sets()\n"
        "print(sorted({'torch', 'avalanche', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
