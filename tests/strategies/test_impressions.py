"""Replay of class impressions in any strategy: what is kept, what is made of it, with what it goes together, errors."""

from __future__ import annotations

import copy

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark, nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import Normalize

from clpack.data import TensorImages
from clpack.models import ContinualNorm2d
from clpack.optim import TAG as TAGOptimizer
from clpack.strategies import ClassImpressionPlugin, TAGPlugin, dataset_field, with_head
from clpack.synthesis import SynthesisOptions, class_statistics

QUICK = {"iterations": 3, "images_per_class": 4, "flip": False}
ORDER = [7, 2, 5, 0, 9, 4]


class Net(nn.Module):
    """A small network with one kind of normalization."""

    def __init__(self, norm=ContinualNorm2d, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), norm(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), norm(16)
        self.num_features = 64
        self.linear = nn.Linear(64, num_classes)

    def features(self, images):
        hidden = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        return nn.functional.avg_pool2d(hidden, 2).flatten(1)

    def forward(self, images):
        return self.linear(self.features(images))


class Watch(SupervisedPlugin):
    """Calls a function in one hook of every experience."""

    def __init__(self, hook, function):
        super().__init__()
        setattr(self, hook, lambda strategy, **kwargs: function(strategy))


def naive(model, plugins, *, lr=0.05, train_epochs=1, optimizer=None):
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9) if optimizer is None else optimizer,
        train_mb_size=16,
        train_epochs=train_epochs,
        plugins=plugins,
        evaluator=EvaluationPlugin(loggers=[]),
    )


@pytest.fixture
def shuffled(digits):
    """Three experiences of two classes each, in an order that is not that of the labels."""
    return nc_benchmark(*digits, 3, False, fixed_class_order=ORDER)


def images_of(data, label):
    return torch.stack([image for image, target, *_ in data.eval() if target == label])


def test_all_classes_seen_are_replayed_and_little_is_kept(shuffled):
    plugin, seen = ClassImpressionPlugin(**QUICK), []
    watch = Watch("before_training_exp", lambda strategy: seen.append(strategy.adapted_dataset))
    strategy = naive(with_head(Net(), "incremental"), [plugin, watch])
    for number, experience in enumerate(shuffled.train_stream):
        assert len(plugin.classes) == 2 * number
        strategy.train(experience)
        size, labels = len(experience.dataset), dataset_field(seen[-1], "targets")
        expected = [4 * (label in ORDER[: 2 * number]) for label in range(10)]
        assert labels[size:].bincount(minlength=10).tolist() == expected
        assert plugin.classes[2 * number :] == [(0, label) for label in sorted(ORDER[2 * number : 2 * number + 2])]
        for row in (2 * number, 2 * number + 1):
            own = images_of(experience.dataset, plugin.classes[row][1])
            assert plugin.counts[row] == len(own)
            torch.testing.assert_close(plugin.class_means[row], own.mean(0))
        tables = class_statistics(strategy.model, [(own, torch.zeros(len(own)).long())], [0]).mean
        assert {name.removeprefix("model.") for name in plugin.statistics.mean} == set(tables)
        for name, table in tables.items():
            torch.testing.assert_close(plugin.statistics.mean[f"model.{name}"][row], table[0])
    assert plugin.impressions.shape == (16, 1, 8, 8)  # those of the last experience; nothing is made after it


@pytest.mark.parametrize("head", ["incremental", "cosine", "multi"])
def test_impressions_are_of_their_classes(digits, head):
    stream = nc_benchmark(*digits, 3, head == "multi", fixed_class_order=ORDER)
    plugin = ClassImpressionPlugin(iterations=40, images_per_class=6, flip=False)
    model = with_head(Net(), head)
    strategy = naive(model, [plugin], train_epochs=6, lr=0.1)
    for experience in stream.train_stream[:2]:
        strategy.train(experience)
    earlier = []

    def look(strategy):
        model.eval()
        for images, place in zip(plugin.impressions, plugin.impression_classes.tolist(), strict=True):
            task, label = plugin.classes[place]
            logits = model(images[None], task) if head == "multi" else model(images[None])
            earlier.append(int(logits.argmax()) == label)
        model.train()

    strategy.plugins.insert(1, Watch("before_train_dataset_adaptation", look))
    strategy.train(stream.train_stream[2])
    assert len(earlier) == 24
    assert sum(earlier) >= 20


def test_synthesis_leaves_no_trace(shuffled):
    states = []

    def note(strategy):
        parts = (strategy.model.state_dict(), strategy.optimizer.state_dict(), torch.get_rng_state())
        modes = [module.training for module in strategy.model.modules()]
        gradients = [None if p.grad is None else p.grad.clone() for p in strategy.model.parameters()]
        states.append((*copy.deepcopy(parts), modes, gradients))

    hook = "before_train_dataset_adaptation"
    plugins = [Watch(hook, note), ClassImpressionPlugin(**QUICK), Watch(hook, note)]
    strategy = naive(with_head(Net(), "incremental"), plugins)
    for experience in shuffled.train_stream[:2]:
        strategy.train(experience)
    before, after = states[2:]
    torch.testing.assert_close(before, after, rtol=0.0, atol=0.0)


def test_repeats_itself_and_depends_on_the_seed(shuffled):
    def run(seed):
        torch.manual_seed(0)
        plugin = ClassImpressionPlugin(seed=seed, **QUICK)
        strategy = naive(with_head(Net(), "incremental"), [plugin])
        for experience in shuffled.train_stream[:2]:
            strategy.train(experience)
        return plugin.impressions

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


@pytest.mark.parametrize("head", ["single", "incremental", "cosine", "multi"])
@pytest.mark.parametrize("partner", ["none", "EWC", "LwF", "Replay", "TAG"])
def test_goes_together(digits, head, partner):
    stream = nc_benchmark(*digits, 3, head == "multi", fixed_class_order=ORDER)
    partners = {"EWC": lambda: EWCPlugin(1.0), "LwF": lambda: LwFPlugin(1.0, 2.0), "Replay": lambda: ReplayPlugin(20)}
    model = with_head(Net(nn.BatchNorm2d), head)
    others = [TAGPlugin()] if partner == "TAG" else [make() for name, make in partners.items() if name == partner]
    plugin = ClassImpressionPlugin(init="noise", **QUICK)
    optimizer = TAGOptimizer(model.parameters(), 0.001) if partner == "TAG" else None
    strategy, sizes = naive(model, [plugin, *others], optimizer=optimizer), []
    strategy.plugins.insert(
        1, Watch("before_training_exp", lambda strategy: sizes.append(len(strategy.adapted_dataset)))
    )
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream[: experience.current_experience + 1])
    assert [size - len(each.dataset) for size, each in zip(sizes, stream.train_stream, strict=True)] == [0, 8, 16]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert plugin.statistics is None


def test_a_class_that_returns_is_averaged(digits, shuffled):
    data = shuffled.train_stream[0].dataset
    stream = dataset_benchmark([data.subset(range(30)), data.subset(range(30, len(data)))], [data])
    plugin = ClassImpressionPlugin(**QUICK)
    strategy = naive(with_head(Net(), "incremental"), [plugin])
    for experience in stream.train_stream:
        strategy.train(experience)
    assert plugin.classes == [(0, 2), (0, 7)]
    assert plugin.counts.sum() == len(data)
    torch.testing.assert_close(plugin.class_means[1], images_of(data, 7).mean(0))


def test_share_of_impressions_in_what_is_drawn(shuffled):
    plugin, drawn = ClassImpressionPlugin(synthetic_fraction=0.75, **QUICK), []
    watch = Watch("after_training_iteration", lambda strategy: drawn.append(strategy.mbatch[2]))
    strategy = naive(with_head(Net(), "incremental"), [plugin, watch])
    strategy.train(shuffled.train_stream[0])
    assert len(torch.cat(drawn)) == len(shuffled.train_stream[0].dataset)
    drawn.clear()
    strategy.train(shuffled.train_stream[1])
    ids = torch.cat(drawn)
    assert len(ids) == int(len(shuffled.train_stream[1].dataset) / 0.25)
    assert (ids < 0).double().mean().item() == pytest.approx(0.75, abs=0.06)  # three standard deviations


def test_how_many(shuffled):
    options = {"iterations": 1, "batch_size": 7, "flip": False}
    samples = len(images_of(shuffled.train_stream[0].dataset, 2))  # the first class, of the first experience
    for given, expected in (({}, samples // 14 * 7), ({"num_batches": 2}, 14), ({"images_per_class": 3}, 6)):
        plugin = ClassImpressionPlugin(**options, **given)
        strategy = naive(with_head(Net(), "incremental"), [plugin])
        for experience in shuffled.train_stream[:2]:
            strategy.train(experience)
        assert len(plugin.impressions) == expected


def test_numbers_by_experience(shuffled):
    def run(number=None, **options):
        """Returns the impressions, and how many samples were drawn, of one experience or each but the first."""
        torch.manual_seed(0)
        plugin, found = ClassImpressionPlugin(iterations=2, batch_size=4, flip=False, **options), []
        watch = Watch(
            "before_training_exp", lambda strategy: found.append((plugin.impressions, len(strategy.dataloader.sampler)))
        )
        strategy = naive(with_head(Net(), "incremental"), [plugin, watch])
        for experience in shuffled.train_stream[:number]:  # a part of the stream counts as the whole
            strategy.train(experience)
        return found[1:]

    common = {"num_batches": 2, "tv_l2": 0.1, "synthetic_fraction": 0.5}
    expected = run(**common)
    lists = {"num_batches": (2, 3), "tv_l2": [0.1, 0.9], "synthetic_fraction": [0.5, 0.75]}
    for name, value in lists.items():
        (first, draws), (second, later) = run(**{**common, name: value})
        assert torch.equal(first, expected[0][0])
        assert draws == expected[0][1]
        assert len(second) == (12 if name == "num_batches" else 8)
        assert later == int(len(shuffled.train_stream[2].dataset) / (0.25 if name == "synthetic_fraction" else 0.5))
        assert torch.equal(second[:4], expected[1][0][:4]) == (name != "tv_l2")
    assert torch.equal(run(2, **lists)[0][0], expected[0][0])
    with pytest.raises(
        ValueError, match=r"tv_l2 must be one number, or 2, one for each experience after .* 1: \[0.1\]"
    ):
        run(2, tv_l2=[0.1])


def test_an_experience_that_comes_again_has_its_numbers(shuffled):
    plugin, sizes = ClassImpressionPlugin(iterations=1, batch_size=4, num_batches=[2, 3]), []
    strategy = naive(with_head(Net(), "incremental"), [plugin])
    for number in (0, 1, 2, 0, 2):
        strategy.train(shuffled.train_stream[number])
        sizes.append(0 if plugin.impressions is None else len(plugin.impressions))
    assert sizes == [0, 8, 12, 8, 12]  # the first experience has those of the second


def test_released_choices(shuffled):
    plugin = ClassImpressionPlugin(preset="released", iterations=2, batch_size=16, num_batches=2)
    released = SynthesisOptions.preset("released", iterations=2, batch_size=16)
    assert (plugin.options, plugin.draw, plugin.eight_bit) == (released, "uniform", True)
    strategy = naive(with_head(Net(), "incremental"), [plugin])
    strategy.train(shuffled.train_stream[0])
    assert len(plugin.statistics) == 16  # of the images of a training batch
    assert not any(layer.measure._forward_hooks for layer in (strategy.model.bn1, strategy.model.bn2))
    torch.testing.assert_close(plugin.class_means * 255, (plugin.class_means * 255).round(), rtol=0.0, atol=1e-4)
    strategy.train(shuffled.train_stream[1])
    assert len(plugin.impressions) == 32
    with pytest.raises(ValueError, match="got batch_size=8 and train_mb_size=16"):
        naive(Net(), [ClassImpressionPlugin(preset="released", batch_size=8)]).train(shuffled.train_stream[0])


def test_files(shuffled, tmp_path):
    plugin = ClassImpressionPlugin(save_to=tmp_path / "out", **QUICK)
    strategy = naive(with_head(Net(), "incremental"), [plugin])
    for experience in shuffled.train_stream[:2]:
        strategy.train(experience)
    saved = load_file(tmp_path / "out" / "experience_001.safetensors")
    assert torch.equal(saved["images"], plugin.impressions)
    assert saved["targets"].tolist() == [plugin.classes[place][1] for place in plugin.impression_classes]
    assert saved["task_labels"].tolist() == [0] * 8
    with Image.open(tmp_path / "out" / "experience_001.png") as picture:
        assert picture.size == (11 * 9 + 1, 2 * 9 + 1)
    assert len([*(tmp_path / "out").iterdir()]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_class": 3, "num_batches": 2}, "give images_per_class or num_batches, got both: 3 and 2"),
        ({"num_batches": 0}, "num_batches must be positive, got 0"),
        ({"num_batches": [2, 0]}, r"num_batches must be positive, got \[2, 0\]"),
        ({"tv_l2": [0.1, -0.1]}, "tv_l2 must not be negative, got -0.1"),
        ({"synthetic_fraction": [0.5, 1.0]}, r"synthetic_fraction must be in \(0, 1\), got 1.0"),
        ({"init": "zero"}, "init must be 'mean' or 'noise', got 'zero'"),
        ({"draw": "all"}, "draw must be 'balanced' or 'uniform', got 'all'"),
        ({"synthetic_fraction": 1.0}, r"synthetic_fraction must be in \(0, 1\), got 1.0"),
        ({"preset": "authors"}, "preset must be 'default' or 'released', got 'authors'"),
        ({"iterations": 0}, "iterations must be positive, got 0"),
        ({"preset": "released", "images_per_class": 3}, "needs whole batches: give num_batches"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ClassImpressionPlugin(**options)


def test_impressions_are_in_the_range_of_normalized_images(digits):
    normalize = Normalize([0.5], [0.25])
    stream = nc_benchmark(*digits, 5, False, train_transform=normalize, eval_transform=normalize)
    plugin = ClassImpressionPlugin(pixel_range=[-2, 2], **QUICK)
    strategy = naive(with_head(Net(), "incremental"), [plugin])
    for experience in stream.train_stream[:2]:
        strategy.train(experience)
    assert -2 <= plugin.impressions.min() < -1.5
    assert 1.5 < plugin.impressions.max() <= 2
    with pytest.raises(ValueError, match=r"one number or one for each of 1 channels, got \(\(0, 0\), 1\)"):
        naive(Net(), [ClassImpressionPlugin(pixel_range=((0, 0), 1))]).train(stream.train_stream[0])


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError, match="iteration"):
        ClassImpressionPlugin(iteration=3)


def test_errors_come_before_training(digits, shuffled, make_model):
    first = shuffled.train_stream[0]
    plugin = ClassImpressionPlugin(**QUICK)
    with pytest.raises(ValueError, match="MLP has no normalization layer with running statistics: .* statistics=0"):
        naive(make_model(), [plugin]).train(first)
    naive(make_model(), [ClassImpressionPlugin(statistics=0, **QUICK)]).train(first)
    with pytest.raises(ValueError, match="has 9 outputs and none for class 9: give it a head that grows"):
        naive(Net(num_classes=9), [plugin]).train(first)
    with pytest.raises(ValueError, match="more than one ClassImpressionPlugin"):
        naive(Net(), [plugin, ClassImpressionPlugin()]).train(first)
    empty = dataset_benchmark([first.dataset.subset([])], [first.dataset])
    with pytest.raises(ValueError, match="experience 0 is empty, expected at least one sample"):
        naive(Net(), [plugin]).train(empty.train_stream[0])
    message = "num_batches=1 batches of 3 impressions are too few for the 4 classes before experience 2"
    for too_few in (1, [1, 1], [2, 1]):
        with pytest.raises(ValueError, match=message):
            naive(Net(), [ClassImpressionPlugin(num_batches=too_few, batch_size=3)]).train(first)
    naive(Net(), [ClassImpressionPlugin(num_batches=[1, 2], batch_size=3)]).train(first)
    for options, wrong in (({"tv_l2": "0.1"}, "tv_l2 .* a number"), ({"num_batches": [2.5]}, "num_batches .* an int")):
        with pytest.raises(TypeError, match=wrong):
            ClassImpressionPlugin(**options)
    for order in ([0, 1], [1, 0]):
        plugins = [ClassImpressionPlugin(synthetic_fraction=0.5), ReplayPlugin(20)]
        with pytest.raises(ValueError, match="ReplayPlugin mixes a memory in; leave one of them out"):
            naive(Net(), [plugins[place] for place in order]).train(first)
    images, targets = torch.rand(5, 1, 8, 8), [0, 0, 1, 1, 2]
    for data, message in (
        (TensorImages(images, targets), "class 2 has a single sample in experience 0"),
        (
            TensorImages(images[:4].flatten(1), targets[:4]),
            r"images of shape \(C, H, W\), got torch.float32 of shape \(64",
        ),
        (TensorImages(images[:4].byte(), targets[:4]), "got torch.uint8 of shape"),
        (
            TensorImages(4 * images[:4] - 2, targets[:4]),
            r"pixel_range=\(0.0, 1.0\), but the first sample of experience 0 has values from -\d.* to \d.*: give",
        ),
    ):
        stream = nc_benchmark(data, data, 1, False)
        with pytest.raises(ValueError, match=message):
            naive(Net(), [plugin]).train(stream.train_stream[0])
