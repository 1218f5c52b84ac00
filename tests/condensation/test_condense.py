"""Condensing: budgets, seeds, resuming, classes alone and together, snapshots, settings, and errors."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clpack.condensation import (
    DSA_NATURAL,
    NORMALIZATION,
    CondensedSet,
    ExpertBuffer,
    LowRankImages,
    PixelImages,
    Progress,
    Settings,
    SnapshotWriter,
    TensorBoardWriter,
    condense,
    equivalent_images_per_class,
    gradient_loops,
    published_evaluation,
    published_settings,
    train_experts,
)
from clpack.models import ConvNet

SIDE = 12


def small_network(norm="instance"):
    return ConvNet(4, input_size=SIDE, in_channels=1, width=4, depth=2, norm=norm)


@pytest.fixture(scope="module")
def data():
    """Three classes, 3, 5 and 7, of a bright corner each, and noise."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.tensor([1, 2, 3]).repeat_interleave(20)
    images = torch.randn(60, 1, SIDE, SIDE, generator=generator) * 0.3
    images[:20, :, :6, :6] += 2
    images[20:40, :, 6:, :6] += 2
    images[40:, :, 6:, 6:] += 2
    order = torch.randperm(60, generator=generator)
    return images[order], targets[order]


@pytest.fixture(scope="module")
def experts(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    return train_experts(*data, folder, num_experts=2, epochs=3, network=small_network, augmentation="none")


def arguments_of(method, experts):
    options = {"iterations": 4, "network": small_network, "batch_real": 8, "rank": 2, "method": method}
    if method == "mtt":
        return {**options, "experts": experts, "syn_steps": 2, "max_start_epoch": 2, "batch_syn": 4, "lr_img": 1.0}
    return {**options, "loops": (2, 1)} if method in ("dc", "dsa") else options


@pytest.mark.parametrize("method", ["dc", "dsa", "dm", "mtt"])
def test_same_seed_same_bits_and_resume(data, experts, method, tmp_path):
    state = torch.get_rng_state()
    arguments = arguments_of(method, experts)
    whole = condense(*data, **arguments)
    losses, seen = [], []

    def interrupt(progress):
        seen.append(progress.iteration)
        losses.append(progress.loss)
        if progress.iteration == 3:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        condense(*data, **arguments, checkpoint=path, checkpoint_every=2, callbacks=[interrupt])
    resumed = condense(*data, **arguments, checkpoint=path, checkpoint_every=2, callbacks=[])
    assert whole.images().isfinite().all()
    assert torch.equal(resumed.images(), whole.images())
    assert resumed.metadata == whole.metadata
    assert seen == [1, 2, 3]
    assert torch.equal(condense(*data, **arguments, checkpoint=path).images(), whole.images())
    assert not torch.equal(condense(*data, **arguments, seed=1).images(), whole.images())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="is of another run"):
        condense(*data, **arguments, seed=1, checkpoint=path)


def test_a_checkpoint_is_of_the_same_experts(data, experts, tmp_path):
    folder, path = tmp_path / "others", tmp_path / "checkpoint"
    options = {"num_experts": 2, "epochs": 3, "network": small_network, "augmentation": "none"}
    others = train_experts(*data, folder, lr=0.5, **options)
    whole = condense(*data, **arguments_of("mtt", experts), checkpoint=path)
    for different in (others, ExpertBuffer(experts.paths[0].parent, 1)):
        with pytest.raises(ValueError, match='is of another run(.|\n)*"lr": 0.01(.|\n)*"number": '):
            condense(*data, **arguments_of("mtt", different), checkpoint=path)
    again = train_experts(*data, tmp_path / "again", **options)
    assert torch.equal(condense(*data, **arguments_of("mtt", again), checkpoint=path).images(), whole.images())


def test_nothing_but_synthetic_images_is_kept(data, tmp_path):
    """The tensors of a checkpoint and of a set are factors, momenta and labels, far from every real image."""
    condensed = condense(*data, **arguments_of("dm", None), checkpoint=tmp_path / "checkpoint")
    condensed.save(tmp_path / "set")
    tensors = load_file(tmp_path / "checkpoint")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        f"0.{i}{kind}": parameter.shape
        for i, parameter in enumerate(condensed.storage.parameters())
        for kind in ("", ".momentum")
    }
    assert set(load_file(tmp_path / "set")) == {"a", "b", "targets"}
    distance = torch.cdist(condensed.images().flatten(1), data[0].flatten(1))
    assert distance.min() > 0.5 * data[0].flatten(1).norm(dim=1).mean()


def test_classes_are_independent_in_dm(data):
    arguments = arguments_of("dm", None)
    together = condense(*data, **arguments)
    alone = [condense(*data, **arguments, classes=[label]) for label in (3, 1)]
    expected = together.select_classes([1, 3])
    found = CondensedSet.concat(alone).select_classes([1])
    torch.testing.assert_close(found.images(), expected.select_classes([1]).images(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone[0].images(), expected.select_classes([3]).images(), rtol=1e-4, atol=1e-5)
    reverse = condense(*data, **arguments, classes=[3, 2, 1])
    assert reverse.targets.tolist() == together.targets.flip(0).tolist()


def test_network_by_name(data, tmp_path):
    state = torch.get_rng_state()
    arguments = {**arguments_of("dm", None), "iterations": 1, "checkpoint": tmp_path / "checkpoint"}
    condense(*data, **{**arguments, "network": "ConvNetW32"})
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="is of another run"):
        condense(*data, **{**arguments, "network": "ConvNetD2"})


def test_a_checkpoint_is_of_one_network_and_readable(data, tmp_path):
    path = tmp_path / "checkpoint"
    arguments = {**arguments_of("dm", None), "checkpoint": path}
    whole, state = condense(*data, **arguments), torch.get_rng_state()
    assert torch.equal(condense(*data, **{**arguments, "network": lambda: small_network()}).images(), whole.images())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="is of another run"):
        condense(*data, **{**arguments, "network": lambda: small_network("batch")})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"checkpoint .*checkpoint is damaged .* remove it to start anew"):
        condense(*data, **arguments)


def test_learned_learning_rate(data, experts):
    seen = []
    arguments = {**arguments_of("mtt", experts), "lr_lr": 1e-5}
    condensed = condense(*data, **arguments, callbacks=[lambda progress: seen.append(progress.lr.item())])
    assert condensed.metadata["lr"] == seen[-1]
    assert len({0.01, *seen}) == 5


@pytest.mark.parametrize("method", ["dc", "dsa", "dm"])
def test_pieces_change_nothing(data, method):
    arguments = arguments_of(method, None)
    sets = [condense(*data, **arguments, piece_size=size) for size in (1, 3, 1000)]
    for other in sets[1:]:
        torch.testing.assert_close(other.images(), sets[0].images(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("method", "drop"), [("dc", 0.05), ("dm", 0.5)])
def test_losses_fall(data, method, drop):
    losses = []
    condense(
        *data,
        method=method,
        rank=2,
        network=small_network,
        iterations=40,
        lr_img=0.5,
        augmentation="none",
        callbacks=[lambda progress: losses.append(progress.loss)],
    )
    losses = torch.stack(losses)
    assert losses[-10:].mean() < (1 - drop) * losses[:10].mean()


def test_batch_normalization_in_dm_and_reuse(data):
    arguments = {**arguments_of("dm", None), "network": lambda: small_network("batch")}
    sets = [condense(*data, **arguments, piece_size=size) for size in (1, 1000)]
    assert torch.equal(sets[0].images(), sets[1].images())
    built = []
    arguments["network"] = lambda: built.append(1) or small_network()
    condense(*data, **arguments, network_reuse=2)
    assert len(built) == 2


@pytest.mark.parametrize("rank", [None, 2])
def test_starts(data, rank):
    images, targets = data
    arguments = {"method": "dm", "rank": rank, "images_per_class": 2, "iterations": 1, "lr_img": 1e-30}
    arguments["network"] = small_network
    noise = condense(images, targets, **arguments, init="noise")
    assert noise.images().std().item() == pytest.approx((rank or 1) ** 0.5, rel=0.1)
    start = condense(images, targets, **arguments, init="real" if rank is None else "svd")
    count = 2 if rank is None else equivalent_images_per_class(2, SIDE, SIDE, 2)
    assert len(start) == 3 * count
    for label in (1, 2, 3):
        real = images[targets == label]
        if rank is not None:
            left, values, right = torch.linalg.svd(real, full_matrices=False)
            real = left[..., :2] * values[..., None, :2] @ right[..., :2, :]
        nearest = torch.cdist(start.select_classes([label]).images().flatten(1), real.flatten(1)).min(1)
        assert nearest.values.max() < 1e-3
        assert len(nearest.indices.unique()) == count


def test_storage_and_metadata(data):
    condensed = condense(*data, **arguments_of("dm", None), images_per_class=3, mean=[0.5], std=[0.2])
    assert isinstance(condensed.storage, LowRankImages)
    assert condensed.numel <= 3 * 3 * SIDE * SIDE
    assert condensed.targets.tolist() == [1] * 9 + [2] * 9 + [3] * 9
    assert (condensed.mean, condensed.std) == ((0.5,), (0.2,))
    assert condensed.metadata["settings"]["rank"] == 2
    assert json.loads(json.dumps(condensed.metadata)) == condensed.metadata
    kept = condense(*data, **arguments_of("dm", None), images_per_class=3, keep_ipc=True)
    assert len(kept) == 9
    plain = condense(*data, **{**arguments_of("dm", None), "rank": None})
    assert isinstance(plain.storage, PixelImages)
    assert len(plain) == 3


class Writer:
    def __init__(self):
        self.records = []

    def add_scalar(self, tag, value, step):
        self.records.append((tag, step))
        assert isinstance(value, float)

    def add_image(self, tag, image, step):
        self.records.append((tag, step))
        assert image.shape[0] == 3
        assert 0 <= image.min() <= image.max() <= 1


def test_callbacks(data, tmp_path):
    writer = Writer()
    callbacks = [SnapshotWriter(tmp_path, every=3), TensorBoardWriter(writer, every=2, images_every=4)]
    condense(*data, **{**arguments_of("dm", None), "iterations": 5}, callbacks=callbacks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_000003.png", "iteration_000005.png"]
    with Image.open(tmp_path / "iteration_000005.png") as picture:
        assert picture.size == (3 * (SIDE + 1) + 1, 3 * (SIDE + 1) + 1)  # three images of each of three classes
    loss, pictures = "condensation/loss", "condensation/images"
    assert writer.records == [(loss, 2), (loss, 4), (pictures, 4), (loss, 5), (pictures, 5)]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        SnapshotWriter(tmp_path, every=0)

    whole = LowRankImages(2, 1, SIDE, SIDE, 2)
    progress = Progress(5, 5, torch.zeros(()), CondensedSet(whole, torch.tensor([0, 1])), part="class_3")
    for callback in callbacks:
        callback(progress)
    assert (tmp_path / "class_3_iteration_000005.png").exists()
    assert writer.records[-2:] == [("condensation/class_3/loss", 5), ("condensation/class_3/images", 5)]


def test_recorded_loops(golden):
    loops = golden("condensation/rules").meta["loops"]["base_dc"]
    assert {count: list(gradient_loops(int(count))) for count in loops} == loops
    assert gradient_loops(7) == (1, 1)
    assert gradient_loops(400) == (50, 10)


def test_published_settings():
    fields = {field.name for field in dataclasses.fields(Settings)}
    for dataset in NORMALIZATION:
        for method in ("dc", "dsa", "dm", "mtt"):
            for count in (1, 10, 50):
                for low_rank in (True, False):
                    arguments = published_settings(dataset, method, count, low_rank=low_rank)
                    assert set(arguments) - {"mean", "std"} <= fields
                    del arguments["mean"], arguments["std"]
                    Settings.for_method(**arguments)
    found = Settings.for_method(
        **{k: v for k, v in published_settings("cifar10", "dm", 50).items() if k not in ("mean", "std")}
    )
    assert (found.rank, found.lr_img, found.iterations, found.init) == (4, 1000.0, 20_000, "noise")
    assert found.augmentation == DSA_NATURAL
    assert published_settings("mnist", "dm", 10)["augmentation"] == "none"
    assert "flip" not in published_settings("mnist", "dm", 10, low_rank=False)["augmentation"]
    assert published_settings("cifar10", "mtt", 50)["lr_teacher"] == 1e-3
    assert published_evaluation("mnist", "dc") == {"epochs": 1000, "augmentation": "crop_scale_rotate", "family": "dc"}
    assert published_evaluation("cifar10", "dc")["epochs"] == 300
    assert published_evaluation("cifar10", "dc", network="ConvNetBN")["augmentation"] == "crop_noise"
    with pytest.raises(ValueError, match="unknown data set 'cifar': did you mean 'cifar10'"):
        published_settings("cifar", "dm", 1)


def test_bad_arguments(data, experts):
    images, targets = data
    few = torch.cat([(targets == 1).nonzero()[:2, 0], (targets != 1).nonzero()[:, 0]])
    for arguments, options, message in (
        ((images, targets), {"method": "mt"}, "unknown method 'mt': did you mean 'mtt'"),
        ((images, targets), {"rank": 13}, "rank must be from 1 to the shorter side of the images, 12, got 13"),
        ((images, targets), {"rank": 8}, "rank 8 take 192 numbers a channel, more than the 144 of the budget"),
        ((images, targets), {"images_per_class": 0}, "images_per_class must be at least 1, got 0"),
        (
            (images, targets),
            {"classes": [1, 5]},
            r"classes \[5\] have no samples; targets holds the classes \[1, 2, 3\]",
        ),
        ((images, targets), {"classes": [1, 1]}, r"different labels, at least one, got \[1, 1\]"),
        ((images, targets), {"num_classes": 3}, "num_classes must be above the largest class, 3, got 3"),
        ((images, targets), {"rank": 2, "init": "real"}, "'noise' or 'svd' for factors of rank 2, got 'real'"),
        ((images, targets), {"init": "svd"}, "'noise' or 'real' for pixels, got 'svd'"),
        (
            (images[few], targets[few]),
            {"method": "dm", "images_per_class": 3},
            "needs 3 samples of each class, class 1",
        ),
        ((images, targets), {"network_reuse": 2}, "network_reuse is for method='dm'"),
        ((images, targets), {"loops": (0, 1)}, r"loops must be outer and inner loops, .* got \(0, 1\)"),
        ((images, targets), {"loops": 3}, "loops must be outer and inner loops, .* got 3"),
        ((images, targets), {"metric": "x"}, "metric must be one of 'ours', 'mse', 'cos', got 'x'"),
        ((images, targets), {"rounding": "up"}, "rounding must be one of 'total', 'per_image', got 'up'"),
        ((images, targets), {"augmentation": "spin"}, "spin"),
        ((images, targets), {"network": "ConvNett"}, "unknown network 'ConvNett': did you mean 'ConvNet'"),
        ((images, targets), {"iterations": 0}, "iterations must be at least 1, got 0"),
        ((images, targets), {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ((images, targets), {"lr_img": 0.0}, "lr_img must be positive, got 0.0"),
        ((images, targets), {"method": "mtt"}, "experts is missing"),
        ((images, targets), {"experts": experts}, "experts are for method='mtt'"),
        (
            (images, targets),
            {"method": "mtt", "experts": experts},
            "network must be that of the experts, with 464 parameters, has 2",
        ),
        (
            (images, targets),
            {"method": "mtt", "experts": experts, "network": small_network},
            "max_start_epoch=5 and expert_epochs=2 need experts of 6 epochs, got 3",
        ),
        ((images[:5], targets), {}, r"one label per image, shape \(5,\), got \(60,\)"),
        ((images[..., :8], targets), {}, "needs square images, got 12x8"),
    ):
        with pytest.raises(ValueError, match=message):
            condense(*arguments, **{"iterations": 1, **options})
    for arguments, options, message in (
        ((images.mul(255).byte(), targets), {}, "one floating-point tensor .* got torch.uint8"),
        (
            ([images[0], images[1, :, :8]], targets),
            {},
            r"\(resize .* first\), got list of .* \(1, 8, 12\), \(1, 12, 12\)",
        ),
        ((images, targets.int()), {}, "int64 tensor of class labels, got torch.int32"),
        ((images, targets), {"learning_rate": 0.1}, "unknown option 'learning_rate'"),
        ((images, targets), {"batch_real": 1.5}, "batch_real must be an integer, got 1.5 of type float"),
        ((images, targets), {"rank": 2.5}, "rank must be an integer, got 2.5"),
        ((images, targets), {"checkpoint_every": 1.5}, "checkpoint_every must be an integer, got 1.5"),
        ((images, targets), {"lr_img": "1"}, "lr_img must be a number, got '1' of type str"),
        ((images, targets), {"seed": None}, "seed must be an integer, got None"),
        ((images, targets), {"mean": 0.3}, "mean must hold a number for each channel, such as .*, got 0.3"),
        ((images, targets), {"network": None}, "must be a name or a function that builds a network, got NoneType"),
        ((images, targets), {"network": dict}, "must be a function that builds a torch.nn.Module, it gave a dict"),
    ):
        with pytest.raises(TypeError, match=message):
            condense(*arguments, **options)
