"""iCaRL: against Avalanche's own, what it stores, any stream and head, exact resume, errors."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark, nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.training import supervised
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import Normalize

from clpack.data import TensorImages
from clpack.models import CCSIResNet
from clpack.strategies import (
    AccuracyMatrix,
    CheckpointPlugin,
    ICaRL,
    InMemoryLoaderPlugin,
    RandomStreamsPlugin,
    dataset_field,
    get,
    maybe_load_checkpoint,
    save_checkpoint,
    with_head,
)
from clpack.strategies import icarl as icarl_module

ORDER = [7, 2, 5, 0, 9, 4]


def icarl(model, *, lr=0.5, evaluator=None, **options):
    defaults = {"train_mb_size": 32, "train_epochs": 3, "mem_size": 30}
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    evaluator = EvaluationPlugin(loggers=[]) if evaluator is None else evaluator
    return ICaRL(model=model, optimizer=optimizer, evaluator=evaluator, **(defaults | options))


@pytest.fixture
def shuffled(digits):
    """Three experiences of two classes each, in an order that is not that of the labels."""
    return nc_benchmark(*digits, 3, False, fixed_class_order=ORDER)


def herding_with_repetition(features, count):
    """Avalanche's choice: a sample that is the best again moves the mean again, but is stored once."""
    mean, order = features.mean(0), []
    weight = mean
    while len(order) < count:
        best = int((features @ weight).argmax())
        order += [best] * (best not in order)
        weight = weight + mean - features[best]
    return torch.tensor(order)


def test_comes_to_the_same_as_avalanche(digits, make_model, monkeypatch):
    monkeypatch.setattr(icarl_module, "herding_order", herding_with_repetition)
    stream = nc_benchmark(*digits, 5, False, fixed_class_order=[*ORDER, 1, 3, 6, 8])
    matrices, weights = [], []
    for ours in (True, False):
        model, matrix = make_model(), AccuracyMatrix()
        evaluator = EvaluationPlugin(matrix, loggers=[])
        common = {"train_mb_size": 1000, "train_epochs": 100, "eval_mb_size": 50}  # whole batches: in any order
        if ours:
            strategy = icarl(model, lr=0.1, evaluator=evaluator, **common)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            linear, model.linear = model.linear, nn.Identity()
            strategy = supervised.ICaRL(
                feature_extractor=model,
                classifier=linear,
                optimizer=optimizer,
                memory_size=30,
                buffer_transform=None,
                fixed_memory=True,
                evaluator=evaluator,
                **common,
            )
        for experience in stream.train_stream[:3]:
            strategy.train(experience)
            strategy.eval(stream.test_stream[: experience.current_experience + 1])
        matrices.append(torch.from_numpy(matrix.matrix))
        weights.append(nn.utils.parameters_to_vector(strategy.model.parameters()).detach())
    torch.testing.assert_close(matrices[0], matrices[1], rtol=0.0, atol=0.0, equal_nan=True)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)
    assert matrices[0][:, 2].mean() > 0.6  # a third without memory


def test_what_is_stored_and_replayed(digits, make_model):
    normalize = Normalize([0.3], [0.4])
    stream = nc_benchmark(
        *digits, 3, False, fixed_class_order=ORDER, train_transform=normalize, eval_transform=normalize
    )
    strategy, replayed = icarl(make_model(), mem_size=20), []

    class Watch(SupervisedPlugin):
        def before_training_exp(self, strategy, **kwargs):
            replayed.append(strategy.adapted_dataset)

    strategy.plugins.append(Watch())
    for number, experience in enumerate(stream.train_stream):
        before = {label: [*exemplars._flat_data._indices] for label, exemplars in strategy.exemplars.items()}
        strategy.train(experience)
        assert len(replayed[-1]) == len(experience.dataset) + sum(map(len, before.values()))
        assert set(strategy.exemplars) == set(ORDER[: 2 * number + 2])
        for label, exemplars in strategy.exemplars.items():
            assert len(exemplars) == math.ceil(20 / (2 * number + 2))
            assert set(dataset_field(exemplars, "targets").tolist()) == {label}
            if label in before:  # the first chosen stay
                assert [*exemplars._flat_data._indices] == before[label][: len(exemplars)]
    strategy.model.eval()
    first = strategy.exemplars[ORDER[0]]
    for flip, same in ((strategy.flip, True), (False, False)):
        images = torch.stack([image for image, *_ in first.eval()])
        images = torch.cat((images, images.flip(-1))) if flip else images
        with torch.no_grad():
            mean = F.normalize(F.normalize(strategy.model.features(images)).mean(0), dim=0)
        kept = strategy.model.linear.means[[*strategy.exemplars].index(ORDER[0])]
        assert torch.allclose(kept, mean, atol=1e-6) == same


@pytest.fixture
def large(digits):
    """The three experiences with images of 16 pixels."""
    parts = [TensorImages(F.interpolate(part.images, size=16), part.targets) for part in digits]
    return nc_benchmark(*parts, 3, False, fixed_class_order=ORDER)


@pytest.mark.parametrize("head", ["single", "incremental", "cosine"])
def test_any_stream_head_and_precision(large, head):
    experiences = [large.train_stream[number].dataset for number in (0, 1)]
    again = experiences[0].subset(range(30)).concat(large.train_stream[2].dataset)  # classes that return
    stream = dataset_benchmark([*experiences, again], [part.dataset for part in large.test_stream])
    torch.manual_seed(0)
    matrix = AccuracyMatrix()
    model = with_head(CCSIResNet(10, in_channels=1, input_size=16, norm="batch"), head)
    evaluator = EvaluationPlugin(matrix, loggers=[])
    strategy = icarl(model, lr=0.1, train_epochs=4, evaluator=evaluator, autocast=torch.bfloat16)
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    assert matrix.matrix[:, 2].mean() > 0.6
    assert not matrix.matrix[1:, 0].any()  # classes not seen are not predicted


def test_distills_from_the_network_before_in_evaluation_mode(large):
    losses = []

    class Watch(SupervisedPlugin):
        def before_backward(self, strategy, **kwargs):
            targets = F.one_hot(strategy.mb_y, 10).float()
            with torch.no_grad():
                old = before.linear.linear(before.features(strategy.mb_x)).sigmoid()
            targets[:, ORDER[:2]] = old[:, ORDER[:2]]
            losses.append((strategy.loss, F.binary_cross_entropy(strategy.mb_output.sigmoid(), targets)))

    strategy = icarl(CCSIResNet(10, in_channels=1, input_size=16, norm="batch"), lr=0.1, train_epochs=1)
    strategy.train(large.train_stream[0])
    before = copy.deepcopy(strategy.model).eval()
    strategy.plugins.append(Watch())
    strategy.train(large.train_stream[1])
    ours, expected = (torch.stack(column).flatten() for column in zip(*losses, strict=True))
    torch.testing.assert_close(ours, expected)


class Killed(Exception):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("mode", ["iteration", "epoch"])
def test_killed_runs_end_in_the_same_bits(digits, tmp_path, make_model, mode):
    stream = nc_benchmark(*digits, 3, False, fixed_class_order=ORDER)

    def run(path, kill_at):
        class Kill(SupervisedPlugin):
            def after_training_iteration(self, strategy, **kwargs):
                if strategy.clock.train_iterations == kill_at:
                    raise Killed

        checkpoint = {"unique_objects": stream}
        plugins = [CheckpointPlugin(path, save_every=2, mode=mode, **checkpoint), RandomStreamsPlugin(0)]
        strategy = get(
            "iCaRL",
            model=make_model(),
            lr=0.5,
            train_mb_size=32,
            train_epochs=3,
            mem_size=30,
            plugins=[*plugins, InMemoryLoaderPlugin(), Kill()],
        )
        strategy, start = maybe_load_checkpoint(strategy, path, **checkpoint)
        for experience in stream.train_stream[start:]:
            strategy.train(experience)
            strategy.eval(stream.test_stream)
            save_checkpoint(strategy, path, **checkpoint)
        return strategy

    whole = run(tmp_path / "whole", None)
    for kill_at in (5, 14, 25, 33):
        with pytest.raises(Killed):
            run(tmp_path / f"killed{kill_at}", kill_at)
        resumed = run(tmp_path / f"killed{kill_at}", None)
        expected = whole.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
        for label, exemplars in whole.exemplars.items():
            found, stored = ([image for image, *_ in part] for part in (resumed.exemplars[label], exemplars))
            assert torch.equal(torch.stack(found), torch.stack(stored))


def test_errors_come_at_once(make_model):
    with pytest.raises(ValueError, match="mem_size must be positive, got 0"):
        icarl(make_model(), mem_size=0)
    with pytest.raises(TypeError, match="MultiHeadModel has no features, num_features, linear"):
        icarl(with_head(make_model(), "multi"))
