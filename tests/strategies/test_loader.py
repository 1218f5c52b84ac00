"""The batch-gathering loader against Avalanche's own, bit for bit, and the random streams of a run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark
from avalanche.benchmarks.classic.cmnist import PixelsPermutation
from avalanche.benchmarks.datasets.external_datasets.mnist import TensorMNIST
from avalanche.benchmarks.utils import DefaultTransformGroups, as_classification_dataset, make_avalanche_dataset
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
    GroupBalancedInfiniteDataLoader,
    ReplayDataLoader,
    SingleDatasetDataLoader,
    TaskBalancedDataLoader,
)
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training import Naive
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler, default_collate
from torchvision.datasets import CIFAR10, FashionMNIST
from torchvision.transforms import Compose, ConvertImageDtype, Normalize, RandomCrop, ToTensor

from clpack.data import BatchTransform, PixelPermutation, TensorImages
from clpack.strategies.checkpoint import CheckpointPlugin, maybe_load_checkpoint
from clpack.strategies.data import SAMPLE_ID, attach_sample_ids, batch_field, keep_samples
from clpack.strategies.loader import ExperienceLoader, InMemoryLoaderPlugin, RandomStreamsPlugin


def digits(start=0, stop=120):
    images, targets = load_digits(return_X_y=True)
    images = torch.tensor(images[start:stop] / 16, dtype=torch.float32).view(-1, 1, 8, 8)
    return TensorImages(images, targets[start:stop])


def class_stream(*, task_labels=False, from_zero=False, data=None, transform=None, n_experiences=5):
    data = digits() if data is None else data
    return nc_benchmark(
        data,
        data,
        n_experiences,
        task_labels=task_labels,
        seed=3,
        class_ids_from_zero_in_each_exp=from_zero,
        train_transform=transform,
        eval_transform=transform,
    )


def permuted_stream(n_experiences=3):
    """As Avalanche's PermutedMNIST is built: frozen permutations, then the transform of the stream."""
    datasets = []
    for seed in range(n_experiences):
        permutation = PixelsPermutation(torch.randperm(64, generator=torch.Generator().manual_seed(seed)))
        frozen = DefaultTransformGroups((permutation, None))
        datasets.append(
            make_avalanche_dataset(as_classification_dataset(digits(0, 40)), frozen_transform_groups=frozen)
        )
    return nc_benchmark(
        datasets,
        datasets,
        n_experiences,
        task_labels=True,
        shuffle=False,
        class_ids_from_zero_in_each_exp=True,
        one_dataset_per_exp=True,
        train_transform=Normalize(0.3, 0.7),
        eval_transform=Normalize(0.3, 0.7),
    )


def newer_stream():
    groups = {"train": (Normalize(0.5, 0.25), None), "eval": (None, None)}
    data = as_classification_dataset(digits(), transform_groups=groups)
    return class_incremental_benchmark({"train": data, "test": data}, num_experiences=5, seed=0)


def with_ids(experience):
    class Holder:
        pass

    holder = Holder()
    holder.experience = experience
    attach_sample_ids(holder)
    return holder.experience.dataset


def batches(loader, epochs, limit):
    """All batches, and a draw from the global generator after each of them and after each epoch."""
    result = []
    for _ in range(epochs):
        for number, batch in enumerate(loader):
            result.append((batch, torch.rand(1)))
            if number == limit:
                break
        result.append(([], torch.rand(1)))
    return result


def assert_same_batches(make, *, gathers=True, epochs=2, limit=None):
    torch.manual_seed(5)
    expected = batches(make(), epochs, limit)
    loader = ExperienceLoader(make())
    torch.manual_seed(5)
    found = batches(loader, epochs, limit)
    assert loader.gathers == gathers
    assert len(found) == len(expected) > epochs
    if limit is None:
        assert len(loader) == len(make()) == len(expected) // epochs - 1
    for (batch, draw), (expected_batch, expected_draw) in zip(found, expected, strict=True):
        assert torch.equal(draw, expected_draw)
        assert type(batch) is type(expected_batch) is list
        assert len(batch) == len(expected_batch)
        for column, expected_column in zip(batch, expected_batch, strict=True):
            assert column.dtype == expected_column.dtype
            assert column.stride() == expected_column.stride()
            assert torch.equal(column, expected_column)


STREAMS = {
    "plain": lambda: class_stream(transform=Compose([Normalize(0.3, 0.7), ConvertImageDtype(torch.float64)])),
    "labelled": lambda: class_stream(task_labels=True, from_zero=True),
    "permuted": permuted_stream,
    "newer": newer_stream,
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("batch_size", "drop_last"), [(16, False), (16, True), (1, False)])
def test_default_loaders_of_every_stream(stream, ids, shuffle, batch_size, drop_last):
    experience = STREAMS[stream]().train_stream[1]
    data = with_ids(experience) if ids else experience.dataset
    kind = DataLoader if stream == "newer" else TaskBalancedDataLoader
    assert_same_batches(lambda: kind(data, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last))


@pytest.mark.parametrize("stream", STREAMS)
def test_replay_with_a_memory_that_is_read_many_times(stream):
    first, second, third = (with_ids(experience) for experience in STREAMS[stream]().train_stream[:3])
    memory = first.subset([5, 2, 9]).concat(second.subset([0, 1, 1]))
    for oversample in (True, False):
        assert_same_batches(
            lambda oversample=oversample: ReplayDataLoader(
                third, memory, oversample_small_tasks=oversample, batch_size=8, batch_size_mem=4, shuffle=True
            )
        )


def test_group_balanced_infinite_and_evaluation_loaders():
    benchmark = permuted_stream()
    groups = [experience.dataset for experience in benchmark.train_stream]
    groups[1] = groups[1].subset(range(7))
    for oversample in (True, False):
        assert_same_batches(
            lambda oversample=oversample: GroupBalancedDataLoader(
                groups, oversample_small_groups=oversample, batch_size=10, shuffle=True
            )
        )
    assert_same_batches(lambda: GroupBalancedInfiniteDataLoader(groups, batch_size=4, shuffle=True), limit=30)
    together = groups[0].concat(groups[1]).concat(groups[2])
    assert_same_batches(lambda: TaskBalancedDataLoader(together, batch_size=9, shuffle=True))
    assert_same_batches(lambda: SingleDatasetDataLoader(benchmark.test_stream[2].dataset.eval(), batch_size=7))


def test_transform_groups_are_those_of_the_moment():
    data = newer_stream().train_stream[0].dataset
    for active in (data.train(), data.eval(), data.freeze_transforms()):
        assert_same_batches(lambda active=active: DataLoader(active, batch_size=8, shuffle=True))
    normalized, raw = (next(iter(ExperienceLoader(DataLoader(part, 4))))[0] for part in (data.train(), data.eval()))
    assert torch.allclose(normalized, (raw - 0.5) / 0.25)


def torchvision_dataset(kind, data, targets, transform=None):
    leaf = kind.__new__(kind)  # without its files
    leaf.data, leaf.targets, leaf.transform, leaf.target_transform = data, targets, transform, None
    return leaf


def in_memory_datasets():
    generator = np.random.default_rng(0)
    labels = [number % 10 for number in range(60)]
    grey = torch.from_numpy(generator.integers(0, 256, (60, 28, 28), dtype=np.uint8))
    color = generator.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    return {
        "FashionMNIST": (torchvision_dataset(FashionMNIST, grey, torch.tensor(labels)), ToTensor()),
        "TensorMNIST": (torchvision_dataset(TensorMNIST, grey, torch.tensor(labels)), Normalize(0.1307, 0.3081)),
        "CIFAR10": (
            torchvision_dataset(CIFAR10, color, labels),
            Compose([ToTensor(), Normalize((0.49, 0.48, 0.44), (0.2, 0.2, 0.3))]),
        ),
        "CIFAR10 with its own transform": (
            torchvision_dataset(CIFAR10, color, labels, ToTensor()),
            Normalize((0.49, 0.48, 0.44), (0.2, 0.2, 0.3)),
        ),
        "TensorDataset": (TensorDataset(grey[:, None], torch.tensor(labels)), ConvertImageDtype(torch.float32)),
        "vectors": (TensorImages(torch.rand(60, 5), labels), None),
        "permuted": (digits(0, 60), PixelPermutation(torch.randperm(64))),
    }


def test_worker_processes_are_not_needed():
    data = class_stream().train_stream[0].dataset
    assert_same_batches(lambda: TaskBalancedDataLoader(data, batch_size=8, shuffle=True, num_workers=1))


@pytest.mark.parametrize("name", list(in_memory_datasets()))
def test_every_kind_of_in_memory_data(name):
    data, transform = in_memory_datasets()[name]
    benchmark = class_stream(data=data, transform=transform, n_experiences=2, task_labels=True)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert_same_batches(lambda stream=stream: TaskBalancedDataLoader(stream[1].dataset, batch_size=8, shuffle=True))


class Brightened(TensorImages):
    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return image + 1, target


def reversed_collate(samples):
    return default_collate(samples[::-1])


@pytest.mark.parametrize(
    ("data", "transform", "collate"),
    [
        (digits(), RandomCrop(8, padding=1), None),
        (digits(), lambda image: image + 1, None),
        (digits(), Compose([ConvertImageDtype(torch.float64), Normalize(0.3, 0.7, inplace=True)]), None),
        (Brightened(digits().images, digits().targets), None, None),
        (digits(), None, reversed_collate),
    ],
)
def test_other_data_is_read_by_the_plain_loader(data, transform, collate):
    dataset = class_stream(data=data, transform=transform).train_stream[0].dataset
    options = {} if collate is None else {"collate_fn": collate}
    assert_same_batches(lambda: TaskBalancedDataLoader(dataset, batch_size=8, shuffle=True, **options), gathers=False)


def test_a_transform_that_is_no_batch_transform_is_found_out():
    class Centered(BatchTransform):
        def __call__(self, images):
            return images - images.mean()

    dataset = class_stream(transform=Centered()).train_stream[0].dataset
    loader = ExperienceLoader(TaskBalancedDataLoader(dataset, batch_size=8))
    with pytest.warns(UserWarning, match=r"read sample by sample: gathered as a batch, samples \[0, .*different"):
        found = next(iter(loader))[0]
    assert not loader.gathers
    assert torch.equal(found, torch.stack([dataset[index][0] for index in range(8)]))


def test_any_other_iterable_passes_through():
    loader = ExperienceLoader([[1], [2]])
    assert (list(loader), len(loader), loader.gathers, loader.datasets) == ([[1], [2]], 2, False, [])

    class Squares(Dataset):
        def __getitem__(self, index):
            return index**2

        def __len__(self):
            return 3

    assert [batch.tolist() for batch in ExperienceLoader(DataLoader(Squares(), batch_size=2))] == [[0, 1], [4]]


def test_generators_decide_the_order_of_each_dataset():
    first, second = (experience.dataset for experience in class_stream().train_stream[:2])

    def order(seeds, gather):
        loader = ExperienceLoader(ReplayDataLoader(first, second, batch_size=4, batch_size_mem=4, shuffle=True))
        loader.gather = gather
        loader.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        read = [batch[0] for _ in range(2) for batch in loader]
        return torch.cat([batch[:4] for batch in read if len(batch) == 8]), torch.cat([batch[4:] for batch in read])

    data, memory = order((1, 2), True)
    torch.rand(1)
    assert all(map(torch.equal, order((1, 2), True), (data, memory)))
    assert all(map(torch.equal, order((1, 2), False), (data, memory)))
    other_data, other_memory = order((1, 3), True)
    assert torch.equal(other_data, data)
    assert not torch.equal(other_memory, memory)


@pytest.mark.parametrize("gather", [False, True])
def test_a_generator_decides_what_a_weighted_sampler_draws(gather):
    data = class_stream().train_stream[0].dataset

    def order(seed):
        sampler = WeightedRandomSampler(torch.arange(len(data)), 30)
        loader = ExperienceLoader(DataLoader(data, batch_size=8, sampler=sampler), gather=gather)
        loader.generators = [torch.Generator().manual_seed(seed)]
        return torch.cat([batch[0] for _ in range(2) for batch in loader])

    first = order(1)
    torch.rand(1)
    assert torch.equal(order(1), first)
    assert not torch.equal(order(2), first)


def features():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3))


class TaskNet(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.features, self.heads = features(), MultiHeadClassifier(16)

    def forward(self, x, task_labels):
        return self.heads(self.features(x), task_labels)


MODELS = {
    "plain": lambda: nn.Sequential(features(), nn.Linear(16, 10)),
    "growing head": lambda: nn.Sequential(features(), IncrementalClassifier(16)),
    "heads": TaskNet,
}


class Orders(SupervisedPlugin):
    """Attaches ids, keeps some rows, and records the ids of the current experience in the order of training."""

    def __init__(self):
        super().__init__()
        self.ids = []

    def before_train_dataset_adaptation(self, strategy, **kwargs):
        attach_sample_ids(strategy)

    def after_train_dataset_adaptation(self, strategy, **kwargs):
        first = strategy.experience.current_experience << 32
        keep_samples(strategy, torch.arange(first, first + 18), **kwargs)

    def before_training_iteration(self, strategy, **kwargs):
        ids = batch_field(strategy, SAMPLE_ID)
        self.ids += ids[ids >> 32 == strategy.experience.current_experience].tolist()


class ExtraDraws(SupervisedPlugin):
    def before_forward(self, strategy, **kwargs):
        torch.rand(1)
        random.random()


def run(plugins, *, benchmark=None, model="plain", eval_every=-1, evaluate=False, **train_kwargs):
    """Trains on three experiences; returns the final weights and the metrics."""
    benchmark = class_stream(task_labels=model == "heads") if benchmark is None else benchmark
    torch.manual_seed(11)
    random.seed(11)
    net = MODELS[model]()
    evaluator = EvaluationPlugin(accuracy_metrics(epoch=True, experience=True), loss_metrics(experience=True))
    strategy = Naive(
        model=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=10,
        train_epochs=2,
        eval_mb_size=16,
        plugins=plugins,
        evaluator=evaluator,
        eval_every=eval_every,
    )
    for experience in benchmark.train_stream[:3]:
        strategy.train(experience, **train_kwargs)
        if evaluate:
            strategy.eval(benchmark.test_stream[: experience.current_experience + 1])
    return nn.utils.parameters_to_vector(strategy.model.parameters()).detach(), evaluator.get_all_metrics()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("replay", [False, True])
def test_training_with_gathered_batches_is_the_same_training(model, replay):
    def result(*own):
        return run([*own, Orders(), *([ReplayPlugin(mem_size=12)] if replay else [])], model=model, evaluate=True)

    weights, metrics = result()
    assert len(metrics) > 6
    for gathered_weights, gathered_metrics in (result(InMemoryLoaderPlugin()), result(InMemoryLoaderPlugin())):
        assert torch.equal(gathered_weights, weights)
        assert gathered_metrics == metrics


def test_the_plugin_gathers_in_training_and_evaluation_wherever_it_stands():
    class Watch(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.gathers = []

        def before_training_iteration(self, strategy, **kwargs):
            self.gathers.append(strategy.dataloader.gathers)

        before_eval_iteration = before_training_iteration

    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
        watch = Watch()
        plugins = [InMemoryLoaderPlugin(), ReplayPlugin(mem_size=12), watch]
        run([plugins[place] for place in order], evaluate=True)
        assert len(watch.gathers) > 20
        assert all(watch.gathers)


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_does_not_shift_training(model):
    def weights(eval_every, *plugins, **kwargs):
        return run([*plugins, ReplayPlugin(mem_size=12)], model=model, eval_every=eval_every, **kwargs)[0]

    expected = weights(-1, RandomStreamsPlugin(4))
    assert torch.equal(weights(0, RandomStreamsPlugin(4)), expected)
    assert torch.equal(weights(1, RandomStreamsPlugin(4)), expected)
    assert torch.equal(weights(1, RandomStreamsPlugin(4), evaluate=True), expected)
    assert not torch.equal(weights(-1, RandomStreamsPlugin(5)), expected)
    assert not torch.equal(weights(1), weights(-1))  # which is what the plugin is for


@pytest.mark.parametrize("model", MODELS)
def test_both_plugins_work_together_in_either_order(model):
    def result(*own):
        return run([*own, Orders(), ReplayPlugin(mem_size=12)], model=model, evaluate=True)

    weights, metrics = result(RandomStreamsPlugin(4))
    for plugins in ([RandomStreamsPlugin(4), InMemoryLoaderPlugin()], [InMemoryLoaderPlugin(), RandomStreamsPlugin(4)]):
        found_weights, found_metrics = result(*plugins)
        assert torch.equal(found_weights, weights)
        assert found_metrics == metrics


class Killed(Exception):
    pass


class Kill(SupervisedPlugin):
    iteration = -1

    def before_forward(self, strategy, **kwargs):
        if strategy.clock.train_iterations == self.iteration:
            raise Killed


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("iteration", [1, 9, 10])
def test_a_killed_run_goes_on_with_the_same_batches(tmp_path, monkeypatch, order, iteration):
    def finish(path):
        benchmark = class_stream()
        checkpoint = CheckpointPlugin(path, save_every=2, mode="iteration", unique_objects=benchmark)
        plugins = [RandomStreamsPlugin(4), InMemoryLoaderPlugin(), checkpoint]
        torch.manual_seed(11)
        net = MODELS["growing head"]()
        strategy = Naive(
            model=net,
            optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
            train_mb_size=10,
            train_epochs=2,
            plugins=[*(plugins[place] for place in order), Orders(), ReplayPlugin(mem_size=7), Kill()],
            evaluator=None,
        )
        strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=benchmark)
        for experience in benchmark.train_stream[start:3]:
            strategy.train(experience)
        return nn.utils.parameters_to_vector(strategy.model.parameters())

    with monkeypatch.context() as patch:
        patch.setattr(Kill, "iteration", iteration)
        with pytest.raises(Killed):
            finish(tmp_path / "killed")
    assert torch.equal(finish(tmp_path / "killed"), finish(tmp_path / "whole"))


def test_data_order_is_a_stream_of_its_own():
    def order(*plugins, **kwargs):
        orders = Orders()
        run([RandomStreamsPlugin(4), orders, *plugins], **kwargs)
        return orders.ids

    expected = order()
    assert len(expected) == 3 * 2 * 18
    assert expected[:18] != expected[18:36]
    assert sorted(expected[:18]) == sorted(expected[18:36]) == list(range(18))
    assert order(ExtraDraws()) == expected
    assert order(ReplayPlugin(mem_size=12)) == expected
    assert order(model="growing head", eval_every=1) == expected


def test_replay_is_a_stream_of_its_own():
    def stored(*plugins):
        replay = ReplayPlugin(mem_size=12)
        run([RandomStreamsPlugin(4), Orders(), replay, *plugins])
        return list(replay.storage_policy.buffer.sample_id)

    assert len(stored()) == 12
    assert stored(ExtraDraws()) == stored()


def test_global_generators_are_restored_after_evaluation():
    class Watch(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.states = []

        def before_eval(self, strategy, **kwargs):
            self.states.append((torch.get_rng_state(), random.getstate()))

        def after_eval(self, strategy, **kwargs):
            before = self.states.pop()
            assert torch.equal(before[0], torch.get_rng_state())
            assert before[1] == random.getstate()
            self.checked = True

    watch = Watch()
    run([RandomStreamsPlugin(0), watch], evaluate=True)
    assert watch.checked


def test_the_seed_must_be_an_integer():
    with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
        RandomStreamsPlugin(1.5)
