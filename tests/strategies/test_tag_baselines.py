"""The baselines of the experiments with TAG: against loops written by hand, with every head, with TAG, and resumed."""

from __future__ import annotations

import inspect

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, split_online_stream
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import avalanche_forward
from torch import nn
from torch.nn import functional as F

from clpack import strategies
from clpack.data import TensorImages
from clpack.strategies import (
    CheckpointPlugin,
    RandomStreamsPlugin,
    StableSGD,
    maybe_load_checkpoint,
    save_checkpoint,
    tag_baselines,
    with_head,
)

LR, BATCH = 0.05, 16
NAN, INF = float("nan"), float("inf")


class Normalized(nn.Module):
    """A network with running statistics, in double precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU()).double()
        self.linear, self.num_features = nn.Linear(12, 10).double(), 12

    def forward(self, images):
        return self.linear(self.features(images.double()))


class Record(SupervisedPlugin):
    """Keeps the batches and the stored samples of every step, and the weights after it."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.steps, self.stored = [], []
        original = tag_baselines._loss_on

        def loss_on(strategy, batch):
            self.stored.append([column.clone() for column in batch])
            return original(strategy, batch)

        monkeypatch.setattr(tag_baselines, "_loss_on", loss_on)

    def after_training_iteration(self, strategy, **kwargs):
        stored = self.stored.pop() if self.stored else None
        self.steps.append((strategy.clock.train_exp_counter, [*strategy.mbatch], stored, state_of(strategy.model)))


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items() if "class_mask" not in name}


def masked_loss(model, batch):
    images, targets, tasks = batch
    classes = torch.arange(10) // 2 == tasks.unsqueeze(1)
    return F.cross_entropy(model.model(images).masked_fill(~classes, -1e11), targets)


def train(name, model, stream, *, plugins=(), evaluate=False, **options):
    options = {"lr": LR, "train_mb_size": BATCH, "train_epochs": 2, **options}
    strategy = strategies.get(name, model=model, plugins=plugins, **options)
    torch.manual_seed(0)
    for experience in stream.train_stream:
        strategy.train(experience)
        if evaluate:
            strategy.eval(stream.test_stream)
    return strategy


def own_plugin(strategy, name):
    (plugin,) = [plugin for plugin in strategy.plugins if type(plugin).__name__ == f"{name}Plugin"]
    return plugin


def check_against(steps, model, gradients_of):
    """Repeats every step with gradients of another computation, and compares weights and running statistics."""
    model.train()
    for task, batch, stored, state in steps:
        gradients = gradients_of(task, batch, stored)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= LR * gradient
        torch.testing.assert_close(state_of(model), state, rtol=1e-9, atol=1e-12)


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


class Call(SupervisedPlugin):
    """Calls functions in hooks: ``Call(after_backward=print)``."""

    def __init__(self, **functions):
        super().__init__()
        for hook, function in functions.items():
            setattr(self, hook, lambda strategy, function=function, **kwargs: function(strategy))


@pytest.mark.parametrize(("ewc_lambda", "max_norm"), [(50.0, 100.0), (5000.0, 0.5)])
def test_running_ewc(make_stream, monkeypatch, ewc_lambda, max_norm):
    stream, record = make_stream(5, task_labels=True), Record(monkeypatch)
    options = {"ewc_lambda": ewc_lambda, "max_norm": max_norm, "fisher_samples": 30}
    ours = with_head(Normalized(), "masked")
    batches = []  # that the Fisher matrices are estimated from

    class Batches(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            batches.append(record.stored.pop())

    plugin = strategies.RunningEWCPlugin(**options)
    train("Naive", ours, stream, plugins=[record, plugin, Batches()])
    assert [len(batch[1]) for batch in batches] == [30] * 5
    assert [sorted(set(batch[2].tolist())) for batch in batches] == [[0], [1], [2], [3], [4]]

    model, now = with_head(Normalized(), "masked"), 0
    fisher = anchor = [torch.zeros_like(parameter) for parameter in model.parameters()]
    norms = []

    def gradients_of(task, batch, stored):
        nonlocal now, fisher, anchor
        if task > now:
            now = task
            model.eval()
            squares = [g**2 for g in gradients(masked_loss(model, batches[task - 1]), model)]
            model.train()
            fisher = [(f + task * g) / (task + 1) for f, g in zip(fisher, squares, strict=True)]
            anchor = [parameter.detach().clone() for parameter in model.parameters()]
        penalty = sum((f * (p - a) ** 2).sum() for f, p, a in zip(fisher, model.parameters(), anchor, strict=True))
        for parameter, gradient in zip(model.parameters(), gradients(ewc_lambda * penalty, model), strict=True):
            parameter.grad = gradient
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm).item())
        penalties = [parameter.grad for parameter in model.parameters()]
        return [g + p for g, p in zip(gradients(masked_loss(model, batch), model), penalties, strict=True)]

    check_against(record.steps, model, gradients_of)
    assert len(record.steps) > 60
    assert (max(norms) > max_norm) == (max_norm == 0.5)


def test_running_ewc_on_a_growing_head(make_stream, make_model, monkeypatch):
    record, expected, grown = Record(monkeypatch), {}, []
    plugin = strategies.RunningEWCPlugin(10.0, fisher_samples=30)

    def check(strategy):
        images, targets, _ = record.stored.pop()
        loss, task = F.cross_entropy(strategy.model(images), targets), strategy.clock.train_exp_counter + 1
        weights = {name: parameter.detach() for name, parameter in strategy.model.named_parameters()}
        for name, gradient in zip(weights, gradients(loss, strategy.model), strict=True):
            old = torch.zeros_like(gradient)
            if name in expected:
                old[tuple(map(slice, expected[name].shape))] = expected[name]
                grown.append(expected[name].shape != gradient.shape)
            expected[name] = (old + task * gradient**2) / (task + 1)
        torch.testing.assert_close(plugin.importance, expected)
        torch.testing.assert_close(plugin.anchor, weights)

    model = with_head(make_model(), "incremental")
    train("Naive", model, make_stream(5), plugins=[record, plugin, Call(after_training_exp=check)])
    assert sum(grown) == 2 * 4  # weight and bias of the head


def test_fisher_batch_is_not_augmented(make_stream, make_model, monkeypatch):
    record, batches = Record(monkeypatch), []
    keep = Call(after_training_exp=lambda strategy: batches.append(record.stored.pop()))
    stream = make_stream(5, train_transform=torch.neg, eval_transform=None)
    train("Naive", make_model(), stream, plugins=[record, strategies.RunningEWCPlugin(), keep])
    assert all(batch[0].max() <= 0 for _, batch, _, _ in record.steps)
    assert all(images.min() >= 0 for images, *_ in batches)


@pytest.mark.parametrize(("source", "count"), [("pruned", 60), ("full", 123)])
def test_fisher_batch_beside_pruning(make_stream, make_model, monkeypatch, source, count):
    record = Record(monkeypatch)
    options = {"score": "random", "remove_count": 63, "buffer_source": source, "fisher_samples": 200}
    strategy = strategies.get("Pruning+RunningEWC", model=make_model(), lr=LR, train_mb_size=BATCH, **options)
    strategy.train(make_stream(5).train_stream[0])
    assert len(record.stored[0][1]) == count


def test_ring_agem(make_stream, monkeypatch):
    stream, record, per_class = make_stream(5, task_labels=True), Record(monkeypatch), 3
    ours = train(
        "RingAGEM", with_head(Normalized(), "masked"), stream, plugins=[record], examples_per_class=per_class, seed=1
    )
    model, rings, n_projected = with_head(Normalized(), "masked"), {}, 0

    def gradients_of(task, batch, stored):
        nonlocal n_projected
        for image, target in zip(*batch[:2], strict=True):
            ring = rings.setdefault((task, target.item()), [])
            ring.append(image)
            del ring[:-per_class]
        masked_loss(model, batch)  # which moves the running statistics
        assert (stored is None) == (task == 0)
        if task == 0:
            return gradients(masked_loss(model, batch), model)
        known = [image for (owner, _), ring in rings.items() if owner < task for image in ring]
        assert len(stored[1]) == min(BATCH, 2 * per_class * task)
        drawn = [next(k for k, image in enumerate(known) if torch.equal(image, each)) for each in stored[0]]
        assert len(set(drawn)) == len(drawn)
        reference = torch.cat([g.flatten() for g in gradients(masked_loss(model, stored), model)])
        current = gradients(masked_loss(model, batch), model)
        flat = torch.cat([g.flatten() for g in current])
        if flat @ reference < 0:
            n_projected += 1
            flat = flat - (flat @ reference) / (reference @ reference) * reference
        return [part.view_as(g) for part, g in zip(flat.split([g.numel() for g in current]), current, strict=True)]

    check_against(record.steps, model, gradients_of)
    assert 5 < n_projected < len(record.steps)
    memory = own_plugin(ours, "RingAGEM").memory
    assert {index: len(columns[1]) for index, columns in memory.items()} == dict.fromkeys(range(5), 2 * per_class)
    for index, (images, targets, tasks) in memory.items():
        assert tasks.tolist() == [index] * 6
        for target in targets.unique().tolist():
            expected = sorted(image.flatten().tolist() for image in rings[index, target])
            assert sorted(images[targets == target].flatten(1).tolist()) == expected


def test_ring_agem_when_an_experience_returns(make_stream, make_model, monkeypatch):
    stream, record = make_stream(5, task_labels=True), Record(monkeypatch)
    strategy = strategies.get(
        "RingAGEM", model=with_head(make_model(), "masked"), lr=LR, train_mb_size=BATCH, plugins=[record]
    )
    for index in (0, 1, 0):
        strategy.train(stream.train_stream[index])
    drawn = [stored[2].unique().tolist() for number, _, stored, _ in record.steps if number == 2]
    assert drawn == [[1]] * len(drawn) != []


def test_ring_agem_stores_its_own_classes_beside_replay(make_stream, make_model):
    strategy = train("RingAGEM+Replay", make_model(), make_stream(5), mem_size=40, examples_per_class=2)
    memory = own_plugin(strategy, "RingAGEM").memory
    assert {index: columns[1].tolist() for index, columns in memory.items()} == {
        index: [2 * index] * 2 + [2 * index + 1] * 2 for index in range(5)
    }


def test_ring_agem_with_classes_of_few_samples(digits, make_model):
    """On a stream whose experiences do not tell their classes."""
    images, targets = digits[0].images, torch.as_tensor(digits[0].targets)
    few = [torch.cat([(targets == label).nonzero()[:count, 0] for label, count in enumerate((2, 9))])]
    few.append((targets > 7).nonzero()[:, 0])
    datasets = [as_classification_dataset(TensorImages(images[rows], targets[rows])) for rows in few]
    stream = benchmark_from_datasets(train=datasets)
    assert not hasattr(stream.train_stream[0], "classes_in_this_experience")
    strategy = train("RingAGEM", make_model(), stream, examples_per_class=5, train_epochs=1)
    memory = own_plugin(strategy, "RingAGEM").memory
    assert memory[0][1].tolist() == [0] * 2 + [1] * 5
    assert memory[1][1].tolist() == [8] * 5 + [9] * 5
    known = images[few[0]].flatten(1)
    assert (torch.cdist(memory[0][0].flatten(1), known).min(dim=1).values == 0).all()
    assert torch.equal(known[:2].sort(dim=0).values, memory[0][0][:2].flatten(1).sort(dim=0).values)


def test_ring_agem_on_an_online_stream(make_stream, make_model, monkeypatch):
    record, parts = Record(monkeypatch), split_online_stream(make_stream(5).train_stream[:2], experience_size=40)
    strategy = strategies.get(
        "RingAGEM", model=make_model(), lr=LR, train_mb_size=BATCH, examples_per_class=3, plugins=[record]
    )
    for part in parts:
        strategy.train(part)
    seen = {label: [] for label in range(4)}
    for _, (images, targets, *_), _, _ in record.steps:
        for image, target in zip(images, targets.tolist(), strict=True):
            seen[target].append(image)
    memory = own_plugin(strategy, "RingAGEM").memory
    assert {index: columns[1].tolist() for index, columns in memory.items()} == {
        0: [0] * 3 + [1] * 3,
        1: [2] * 3 + [3] * 3,
    }
    for label, last in seen.items():
        stored = memory[label // 2][0][3 * (label % 2) :][:3]
        assert sorted(stored.flatten(1).tolist()) == sorted(image.flatten().tolist() for image in last[-3:])
    of_others = [stored is not None for _, _, stored, _ in record.steps]
    assert of_others == sorted(of_others)  # none in the parts of the first experience, always in those of the second


def test_ring_agem_on_separate_heads(make_stream, make_model, monkeypatch):
    """The norm of the reference is that over all weights, those of heads without a gradient in this step included."""
    record, before, projected = Record(monkeypatch), {}, []

    def note(strategy):
        before.update({name: parameter.grad for name, parameter in strategy.model.named_parameters()})
        before.update({name: grad.clone() for name, grad in before.items() if grad is not None})

    def check(strategy):
        if not strategy.clock.train_exp_counter:
            return
        images, targets, tasks = record.stored[-1]
        named = dict(strategy.model.named_parameters())
        loss = F.cross_entropy(avalanche_forward(strategy.model, images, tasks), targets)
        found = torch.autograd.grad(loss, [*named.values()], allow_unused=True, materialize_grads=True)
        reference = dict(zip(named, found, strict=True))
        product = sum((grad * reference[name]).sum() for name, grad in before.items() if grad is not None)
        factor = min(product, 0) / sum((part**2).sum() for part in found)
        for name, grad in before.items():
            if grad is None:
                assert named[name].grad is None
            else:
                torch.testing.assert_close(named[name].grad, grad - factor * reference[name], rtol=1e-4, atol=1e-6)
        projected.append(product < 0)

    plugins = [record, Call(after_backward=note), strategies.RingAGEMPlugin(5), Call(after_backward=check)]
    train("Naive", with_head(make_model(), "multi"), make_stream(5, task_labels=True), plugins=plugins)
    assert 5 < sum(projected) < len(projected)


@pytest.mark.parametrize(("make", "passes"), [(Normalized, 2), (None, 1)])
def test_ring_agem_passes_the_batch_again_for_running_statistics_only(make_stream, make_model, make, passes):
    model, calls = (make or make_model)(), []
    model.register_forward_hook(lambda *_: calls.append(model.training))
    strategy = strategies.get("RingAGEM", model=model, lr=LR, train_mb_size=BATCH)
    strategy.train(make_stream(5).train_stream[0])
    assert calls == [True] * passes * strategy.clock.train_iterations


def test_reservoir_er(make_stream, monkeypatch):
    stream, record, mem_size = make_stream(5, task_labels=True), Record(monkeypatch), 25
    ours = train("ReservoirER", with_head(Normalized(), "masked"), stream, plugins=[record], mem_size=mem_size, seed=1)
    model = with_head(Normalized(), "masked")
    n_own = 0

    def gradients_of(task, batch, stored):
        nonlocal n_own
        loss = masked_loss(model, batch)
        assert (stored is None) == (task == 0)
        if task:
            assert len(stored[1]) == BATCH
            n_own += int((stored[2] == task).sum())
            loss = loss + masked_loss(model, stored)
        return gradients(loss, model)

    check_against(record.steps, model, gradients_of)
    assert n_own > 20  # samples of the current experience are replayed too
    plugin = own_plugin(ours, "ReservoirER")
    assert plugin.seen == sum(len(batch[1]) for _, batch, _, _ in record.steps) == 2 * 600
    assert [len(column) for column in plugin.memory] == [mem_size + 1] * 3


def test_reservoir_er_draws_at_random(make_stream, make_model, monkeypatch):
    draws, original = [], tag_baselines._choose

    def choose(*args):
        draws.append(original(*args).tolist())
        return torch.tensor(draws[-1])

    firsts = []  # draws of the epochs
    at_start = Call(before_training_epoch=lambda strategy: firsts.append(len(draws)))
    monkeypatch.setattr(tag_baselines, "_choose", choose)
    for seed in (0, 1):
        train("ReservoirER", make_model(), make_stream(5), plugins=[at_start], mem_size=25, seed=seed)
    assert all(len(set(rows)) == BATCH and rows != sorted(rows) for rows in draws)
    of_epochs = {tuple(draws[first]) for first in firsts}
    assert len(of_epochs) == len(set(firsts)) == 2 * 4 * 2  # seeds, experiences after the first, epochs
    counts = torch.tensor(draws).flatten().bincount(minlength=25) / len(draws)
    assert len(counts) == 25
    assert ((counts > 0.4) & (counts < 0.9)).all()  # 16 of 25 expected


def test_reservoir_er_draws_what_was_seen_only(make_stream, make_model, monkeypatch):
    record = Record(monkeypatch)
    train("ReservoirER", make_model(), make_stream(5), plugins=[record], mem_size=5000, train_epochs=1)
    seen = torch.empty(0, 64)
    for number, (images, *_), stored, _ in record.steps:
        assert (stored is None) == (number == 0)
        if stored is not None:
            assert torch.cdist(stored[0].flatten(1), seen).min(dim=1).values.max() == 0
        seen = torch.cat([seen, images.flatten(1)])


def test_what_a_reservoir_keeps():
    """Against a loop over single samples; and that each sample seen has about the same chance to be kept."""
    counts = torch.zeros(100)
    for seed in range(200):
        plugin = tag_baselines.ReservoirERPlugin(7, seed=seed)
        plugin._generator.manual_seed(seed)
        uniforms, kept = torch.Generator().manual_seed(seed), [-1] * 7
        for first in range(0, 100, 10):
            plugin._store([torch.arange(first, first + 10), torch.zeros(10, dtype=torch.int64)])
            draws = torch.rand(10, generator=uniforms, dtype=torch.float64).tolist()
            bound = max(first, 7)
            for sample in range(first, first + 10):
                place = sample if sample < 7 else int(draws[sample - first] * bound)
                if place < 7:
                    kept[place] = sample
        assert plugin.memory[0][:7].tolist() == kept
        counts[kept] += 1
    assert counts.sum() == 1400
    assert 10.5 < counts[:50].mean() < 17.5  # 14 expected
    assert 10.5 < counts[50:].mean() < 17.5


def test_stable_sgd(make_stream, make_model):
    stream, rates = make_stream(5), []

    class Watch(SupervisedPlugin):
        def after_training_iteration(self, strategy, **kwargs):
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    strategy = train("StableSGD", make_model(), stream, plugins=[Watch()], lr=0.2, gamma=0.1, min_lr=5e-4)
    assert rates[0] == pytest.approx(0.02)
    assert list(dict.fromkeys(rates)) == pytest.approx([0.02, 0.002, 5e-4])
    template = StableSGD(model=make_model(), lr=0.2, gamma=0.1, min_lr=5e-4, train_mb_size=BATCH, evaluator=None)
    template.train_epochs = 2
    torch.manual_seed(0)
    for experience in stream.train_stream:
        template.train(experience)
    torch.testing.assert_close(template.model.state_dict(), strategy.model.state_dict(), rtol=0, atol=0)


OPTIONS = {
    "StableSGD": {},
    "RunningEWC": {"ewc_lambda": 100.0, "fisher_samples": 50},
    "RingAGEM": {"examples_per_class": 2},
    "ReservoirER": {"mem_size": 30},
    "Pruning+RingAGEM": {"score": "random", "remove_fraction": 0.2},
    "ReservoirER+LwF": {},
}


@pytest.mark.parametrize("head", ["single", "incremental", "multi"])
@pytest.mark.parametrize("name", ["RunningEWC", "RingAGEM", "ReservoirER"])
def test_every_head_with_tag(make_stream, make_model, name, head):
    stream = make_stream(5, task_labels=head == "multi")
    model = with_head(make_model(), head)
    options = {"lr": 0.003, "optimizer": "TAG-RMSprop", **OPTIONS[name]}
    strategy = train(name, model, stream, evaluate=True, **options)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert strategy.optimizer.progress["finished"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_killed_run_goes_on_to_the_same_bits(make_stream, make_model, tmp_path, name):
    class Stop(SupervisedPlugin):
        def before_update(self, strategy, **kwargs):
            if (strategy.clock.train_exp_counter, strategy.clock.train_exp_iterations) == (2, 8):
                raise KeyboardInterrupt

        def checkpoint_state(self):
            return {}

        def load_checkpoint_state(self, state):
            self.before_update = lambda strategy, **kwargs: None

    def run(path, *plugins):
        stream = make_stream(5, task_labels=True)
        checkpoint = CheckpointPlugin(path, save_every=3, mode="iteration", unique_objects=stream)
        optimizer = "SGD" if name == "StableSGD" else "TAG-RMSprop"
        strategy = strategies.get(
            name,
            model=with_head(make_model(), "masked"),
            lr=0.003,
            optimizer=optimizer,
            train_mb_size=BATCH,
            train_epochs=2,
            plugins=[checkpoint, RandomStreamsPlugin(3), *plugins],
            **OPTIONS[name],
        )
        strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=stream)
        for experience in stream.train_stream[start:]:
            strategy.train(experience)
            save_checkpoint(strategy, path, unique_objects=stream)
        return start, strategy.model.state_dict()

    _, whole = run(tmp_path / "whole.safetensors")
    path = tmp_path / "killed.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(path, Stop())
    start, resumed = run(path, Stop())
    assert start == 2
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("StableSGD", {"gamma": 1.5}, ValueError, r"gamma must be in \(0, 1\], got 1.5"),
        ("StableSGD", {"gamma": NAN}, ValueError, "gamma must be finite, got nan"),
        ("StableSGD", {"min_lr": -1.0}, ValueError, "min_lr must be at least 0, got -1.0"),
        ("StableSGD", {"min_lr": INF}, ValueError, "min_lr must be finite, got inf"),
        ("RunningEWC", {"ewc_lambda": -1.0}, ValueError, "ewc_lambda must be at least 0, got -1.0"),
        ("RunningEWC", {"ewc_lambda": NAN}, ValueError, "ewc_lambda must be finite, got nan"),
        ("RunningEWC", {"ewc_lambda": True}, TypeError, "ewc_lambda must be a number, got True"),
        ("RunningEWC", {"fisher_samples": 0}, ValueError, "fisher_samples must be at least 1, got 0"),
        ("RunningEWC", {"fisher_samples": 1.5}, TypeError, "fisher_samples must be an integer, got 1.5"),
        ("RunningEWC", {"max_norm": 0.0}, ValueError, r"max_norm must be in \(0, inf\), got 0.0"),
        ("RunningEWC", {"max_norm": INF}, ValueError, "max_norm must be finite, got inf"),
        ("RunningEWC", {"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
        ("RingAGEM", {"examples_per_class": 0}, ValueError, "examples_per_class must be at least 1, got 0"),
        ("RingAGEM", {"examples_per_class": 1.5}, TypeError, "examples_per_class must be an integer, got 1.5"),
        ("RingAGEM", {"examples_per_class": True}, TypeError, "examples_per_class must be an integer, got True"),
        ("RingAGEM", {"seed": None}, TypeError, "seed must be an integer, got None"),
        ("ReservoirER", {"mem_size": 0}, ValueError, "mem_size must be at least 1, got 0"),
        ("ReservoirER", {"mem_size": 2.5}, TypeError, "mem_size must be an integer, got 2.5"),
        ("ReservoirER", {"seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
    ],
)
def test_bad_input(make_model, name, options, error, message):
    with pytest.raises(error, match=message):
        getattr(strategies, f"{name}Plugin")(**options)
    with pytest.raises(error, match=message):
        strategies.get(name, model=make_model(), lr=0.1, **options)


@pytest.mark.parametrize("lr", [0.0, -1.0, NAN, INF])
def test_learning_rate_of_stable_sgd(make_model, lr):
    with pytest.raises(ValueError, match="lr must be"):
        StableSGD(model=make_model(), lr=lr)


def test_defaults():
    plugin = strategies.RunningEWCPlugin()
    assert (plugin.ewc_lambda, plugin.fisher_samples, plugin.max_norm) == (1.0, 200, 100.0)
    assert strategies.RingAGEMPlugin().examples_per_class == 1
    plugin, whole = strategies.StableSGDPlugin(), inspect.signature(StableSGD).parameters
    assert (plugin.gamma, plugin.min_lr) == (whole["gamma"].default, whole["min_lr"].default) == (0.9, 5e-5)


@pytest.mark.parametrize("name", ["RingAGEM", "StableSGD"])
def test_only_one_of_a_kind(make_stream, make_model, name):
    cls = getattr(strategies, f"{name}Plugin")
    strategy = strategies.get(name, model=make_model(), lr=0.1, plugins=[cls()])
    with pytest.raises(ValueError, match=f"the strategy has more than one {name}Plugin"):
        strategy.train(make_stream(5).train_stream[0])


@pytest.mark.parametrize("name", ["RunningEWC", "RingAGEM", "ReservoirER"])
def test_they_do_not_go_with_ccsi(make_model, name):
    for joined in (f"CCSI+{name}", f"{name}+CCSI"):
        with pytest.raises(ValueError, match=f"CCSI cannot be joined with {name}; take one of them"):
            strategies.check(joined, lr=0.1)
    plugin = getattr(strategies, f"{name}Plugin")()
    with pytest.raises(ValueError, match=f"{name}Plugin needs the loss on a batch of its own, but that of CCSI"):
        strategies.CCSI(model=make_model(), plugins=[plugin])
