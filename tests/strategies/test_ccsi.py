"""CCSI: the recorded epoch, what it does with classes and samples, what a checkpoint holds, exact resume, errors."""

from __future__ import annotations

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark, nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.nn import functional as F

from clpack.data import TensorImages
from clpack.models import CCSIResNet, ContinualNorm2d
from clpack.modes import running_statistics_kept
from clpack.strategies import (
    CCSI,
    AccuracyMatrix,
    CheckpointPlugin,
    ClassImpressionPlugin,
    InMemoryLoaderPlugin,
    RandomStreamsPlugin,
    dataset_field,
    decode_sample_ids,
    maybe_load_checkpoint,
    save_checkpoint,
    with_head,
)
from clpack.strategies._held_out import HeldOutPlugin
from clpack.synthesis import intra_domain_loss

QUICK = {"iterations": 3, "images_per_class": 10, "flip": False}
ORDER = [7, 2, 5, 0, 9, 4]
TERMS = ["Cross_Entropy", "Less_Forget", "Margin", "Intra_Domain"]


class Net(nn.Module):
    """A small network with continual normalization."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), ContinualNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, padding=1), ContinualNorm2d(16)
        self.num_features = 64
        self.linear = nn.Linear(64, 2)

    def features(self, images):
        hidden = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        return F.avg_pool2d(hidden, 2).flatten(1)

    def forward(self, images):
        return self.linear(self.features(images))


class Watch(SupervisedPlugin):
    """Calls a function in one hook."""

    def __init__(self, hook, function):
        super().__init__()
        setattr(self, hook, lambda strategy, **kwargs: function(strategy))


def ccsi(**options):
    torch.manual_seed(3)
    defaults = {
        "model": Net(),
        "train_mb_size": 16,
        "train_epochs": 2,
        "impressions": QUICK,
        "evaluator": EvaluationPlugin(loggers=[]),
    }
    return CCSI(**(defaults | options))


@pytest.fixture
def shuffled(digits):
    """Three experiences of two classes each, in an order that is not that of the labels."""
    return nc_benchmark(*digits, 3, False, fixed_class_order=ORDER)


def test_recorded_epoch(recorded):
    recording = recorded("train_epoch")
    images, targets, target_images = (recording[name] for name in ("train_x", "train_y", "target_x"))
    every_image, every_target = images.flatten(0, 1), targets.flatten()
    parts = [TensorImages(every_image[own], every_target[own]) for own in (every_target < 2, every_target >= 2)]
    stream = dataset_benchmark(parts, parts, other_streams_datasets={"recorded": parts})
    strategy = ccsi(
        model=with_head(CCSIResNet(2), "cosine").double(),
        lr=recording["lr"].item(),
        less_forget=recording["lam"].item(),
        adapt_less_forget=False,
        margin=recording["margin"].item(),
        num_negatives=recording["K"].item(),
        rho=recording["ro"].item(),
        temperature=recording["temperature"].item(),
        idc_target="recorded",
        selection="none",
        preset="released",
        train_mb_size=8,
        train_epochs=1,
        impressions={"iterations": 1, "batch_size": 8, "num_batches": 1},
    )
    strategy.train(stream.train_stream[0])
    weights = recording.network("ref.").state_dict()
    head = {"blocks.0": weights.pop("linear.weight"), "sigma": weights.pop("linear.sigma")}
    strategy.model.load_state_dict(weights, strict=False)
    strategy.model.linear.load_state_dict(head)

    def begin(strategy):
        recorded_head = recording.below("init.")
        for row, name in enumerate(("fc1", "fc2")):
            strategy.model.linear.blocks[row].data.copy_(recorded_head[f"linear.{name}.weight"])
        strategy.model.linear.sigma.data.copy_(recorded_head["linear.sigma"])
        strategy._class_weights = recording["class_weights"]
        strategy.dataloader = [[x, y, 0 * y, 0 * y] for x, y in zip(images, targets, strict=True)]
        unlabeled = iter(target_images)
        strategy._held_out.unlabeled_images = lambda strategy: next(unlabeled)

    strategy.plugins.append(Watch("before_training_exp", begin))
    strategy.train(stream.train_stream[1])
    metrics = strategy.evaluator.get_last_metrics()
    for name, place in zip(TERMS, (1, 0, 2, 3), strict=True):
        logged = metrics[f"CCSI_{name}/train_phase/Exp001"]
        assert logged == pytest.approx(recording["mean_losses"][place].item(), rel=1e-4)
    state = strategy.model.state_dict()
    final = recording.below("final.")
    for ours, theirs in (("linear.blocks.0", "linear.fc1.weight"), ("linear.blocks.1", "linear.fc2.weight")):
        final[ours] = final.pop(theirs)
    assert final.keys() <= state.keys()
    for name, expected in final.items():
        torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    (plugin,) = [each for each in strategy.plugins if isinstance(each, ClassImpressionPlugin)]
    for name, expected in recording.statistics("final_group").mean.items():
        ours = plugin.statistics.mean[f"model.{name}"]
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_classes_in_any_order_and_number(digits):
    matrix, stream = (
        AccuracyMatrix(),
        nc_benchmark(*digits, 3, False, fixed_class_order=ORDER, per_exp_classes={0: 3, 1: 1}),
    )
    strategy = ccsi(
        train_epochs=8,
        impressions={"iterations": 20, "images_per_class": 20, "flip": False},
        evaluator=EvaluationPlugin(matrix, loggers=[]),
    )
    rows = []
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream[: experience.current_experience + 1])
        rows.append([block.detach().clone() for block in strategy.model.linear.blocks])
    head = strategy.model.linear
    assert head.classes == [2, 5, 7, 0, 4, 9]
    assert [len(block) for block in head.blocks] == [3, 1, 2]
    assert all(torch.equal(rows[0][0], later[0]) for later in rows[1:])  # frozen
    assert rows[1][1].norm() > rows[0][0].norm(dim=1).mean() + 1e-3  # imprinted with this norm, then trained
    assert matrix.matrix[:, 2].mean() > 0.7  # fine-tuning keeps the last classes only: a third


def test_terms_are_logged_to_every_logger(shuffled):
    logged = []

    class Logger(BaseLogger):
        def log_single_metric(self, name, value, x_plot):
            logged.append(name)

    strategy = ccsi(evaluator=EvaluationPlugin(loggers=[Logger()]))
    for experience in shuffled.train_stream[:2]:
        strategy.train(experience)
    first = ["CCSI_Cross_Entropy", "Validation_Accuracy", "Learning_Rate"]
    assert sorted(logged) == sorted(
        [f"{name}/train_phase/Exp000" for name in first * 2]
        + [f"{name}/train_phase/Exp001" for name in (*first[1:], *(f"CCSI_{term}" for term in TERMS)) for _ in range(2)]
    )


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"margin_weight": 0.0}, [0, 1, 3]),
        ({"less_forget": 0.0}, [0, 2, 3]),
        ({"idc_weight": 0.0}, [0, 1, 2]),
        ({"idc_target": "none"}, [0, 1, 2]),
        ({"margin_weight": 0.0, "less_forget": 0.0, "idc_weight": 0.0, "selection": "none"}, [0]),
    ],
)
def test_terms_can_be_left_out(shuffled, options, terms):
    strategy = ccsi(train_epochs=1, **options)
    for experience in shuffled.train_stream[:2]:
        strategy.train(experience)
    metrics = strategy.evaluator.get_last_metrics()
    found = [number for number, term in enumerate(TERMS) if f"CCSI_{term}/train_phase/Exp001" in metrics]
    assert found == terms
    assert strategy.model.linear.blocks[0].requires_grad == ("less_forget" in options)


def test_an_experience_that_was_interrupted_can_be_trained_again(shuffled):
    steps = []

    def interrupt(strategy):
        steps.append(0)
        if len(steps) == 40:  # in the second experience, of 60
            raise KeyboardInterrupt

    strategy = ccsi(plugins=[Counter(interrupt)])
    strategy.train(shuffled.train_stream[0])
    with pytest.raises(KeyboardInterrupt):
        strategy.train(shuffled.train_stream[1])
    strategy.train(shuffled.train_stream[1])
    assert "CCSI_Margin/train_phase/Exp001" in strategy.evaluator.get_last_metrics()  # its classes are new again
    assert [block.requires_grad for block in strategy.model.linear.blocks] == [False, True]


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_precisions(digits, precision):
    double = precision == torch.float64
    parts = [TensorImages(part.images.double(), part.targets) for part in digits] if double else digits
    stream = nc_benchmark(*parts, 3, False, fixed_class_order=ORDER)
    strategy = ccsi(model=Net().double() if double else Net(), autocast=None if double else precision)
    for experience in stream.train_stream[:2]:
        strategy.train(experience)
    dtype = torch.float64 if double else torch.float32
    assert {parameter.dtype for parameter in strategy.model.parameters()} == {dtype}
    metrics = strategy.evaluator.get_last_metrics()
    assert all(0 <= metrics[f"CCSI_{term}/train_phase/Exp001"] < 3 for term in TERMS)


def test_weights_of_distillation_and_classes(shuffled):
    seen = []
    watch = Watch(
        "before_training_exp", lambda strategy: seen.append((strategy._less_forget_weight, strategy._class_weights))
    )
    strategy = ccsi(plugins=[watch], train_epochs=1, selection="none", idc_target="none")
    for experience in shuffled.train_stream:
        strategy.train(experience)
    assert [weight for weight, _ in seen] == pytest.approx([0.0, 5.0, 5.0 * 2**0.5])
    counts = [dataset_field(each.dataset, "targets").bincount(minlength=10) for each in shuffled.train_stream]
    stored = torch.tensor([10, 10, counts[1][0], counts[1][5]])  # rows: 2 and 7 are old, 0 and 5 new
    torch.testing.assert_close(seen[1][1], stored.max() / stored)


def test_new_rows_are_imprinted(shuffled):
    found = []

    def look(strategy):
        head, data = strategy.model.linear, strategy.adapted_dataset.eval()
        real = [image for image, target, sample_id, _ in data if target == 5 and sample_id >= 0]
        strategy.model.eval()
        with torch.no_grad():
            features = F.normalize(strategy.model.features(torch.stack(real)))
        strategy.model.train()
        expected = F.normalize(features.mean(0), dim=0) * head.blocks[0].norm(dim=1).mean()
        found.append(torch.allclose(head.blocks[-1][1], expected, atol=1e-5))

    strategy = ccsi(train_epochs=1)
    strategy.train(shuffled.train_stream[0])
    strategy.plugins.append(Watch("before_training_exp", look))
    strategy.train(shuffled.train_stream[1])
    assert found == [True]


def test_samples_held_out(shuffled):
    seen = []

    def look(strategy):
        seen.append((strategy.adapted_dataset, strategy._held_out._data["validation"]))

    strategy = ccsi(plugins=[Watch("before_training_exp", look)], train_epochs=1, validation_fraction=0.2)
    for experience in shuffled.train_stream:
        strategy.train(experience)
    for number, (train, held_out) in enumerate(seen):
        experiences, own = decode_sample_ids(dataset_field(held_out, "sample_id"))
        assert set(experiences.tolist()) <= {number, -1}  # nothing of earlier experiences
        assert set(dataset_field(held_out, "targets").tolist()) == set(ORDER[: 2 * number + 2])
        taken = decode_sample_ids(dataset_field(train, "sample_id"))[1]
        real = torch.cat((own[own >= 0], taken[taken >= 0]))
        assert real.sort().values.tolist() == list(range(len(shuffled.train_stream[number].dataset)))
        assert len(own) == pytest.approx(0.2 * (len(own) + len(taken)), abs=len(ORDER))


def test_logits_may_be_linear(shuffled):
    found = []

    def look(strategy):
        if strategy.experience.current_experience == 0:
            head, weights = strategy.model.linear, strategy._class_weights
            logits = strategy.mb_output[:, head.classes]
            expected = F.cross_entropy(logits, head.row_of[strategy.mb_y], weight=weights)
            found.append((strategy.loss.item(), pytest.approx(expected.item())))

    strategy = ccsi(cosine=False, plugins=[Watch("before_backward", look)])
    for experience in shuffled.train_stream[:2]:
        strategy.train(experience)
    assert found
    assert all(loss == expected for loss, expected in found)
    head = strategy.model.eval().linear
    features = strategy.model.features(shuffled.train_stream[0].dataset[0][0][None])
    torch.testing.assert_close(head(features)[:, head.classes], features @ head.rows().T)
    assert head.sigma == 1
    assert [block.requires_grad for block in head.blocks] == [False, True]


def test_numbers_by_experience(shuffled, monkeypatch):
    seen = {}

    def record(*args, rho, temperature):
        seen[strategy.experience.current_experience] = (rho, temperature)
        return intra_domain_loss(*args, rho=rho, temperature=temperature)

    monkeypatch.setattr("clpack.strategies.ccsi.intra_domain_loss", record)
    strategy = ccsi(rho=[0.9, 0.99], temperature=(1, 5), train_epochs=1)
    for experience in shuffled.train_stream:
        strategy.train(experience)
    assert seen == {1: (0.9, 1), 2: (0.99, 5)}
    for options in ({"rho": [0.9]}, {"temperature": [1.0, 5.0, 1.0]}, {"synthetic_fraction": [0.5]}):
        with pytest.raises(ValueError, match="must be one number, or 2, one for each experience after the first, got"):
            ccsi(**options).train(shuffled.train_stream[0])


def test_schedule_and_best_epoch(shuffled, monkeypatch):
    accuracies, states, rates = iter([0.1, 0.5, 0.5, *[0.4] * 20]), [], []

    def accuracy(self, strategy):
        states.append(strategy.model.conv1.weight.clone())
        return next(accuracies)

    monkeypatch.setattr(HeldOutPlugin, "_accuracy", accuracy)
    watch = Watch("before_training_epoch", lambda strategy: rates.append(strategy.optimizer.param_groups[0]["lr"]))
    strategy = ccsi(plugins=[watch], train_epochs=10)
    strategy.train(shuffled.train_stream[0])
    assert rates == pytest.approx([0.1] * 8 + [0.03] * 2)  # the second is the best; six epochs are no better
    assert torch.equal(strategy.model.conv1.weight, states[2])  # of equal ones the later
    assert strategy.optimizer.param_groups[0]["lr"] == 0.1


def test_unlabeled_images_leave_the_running_statistics(shuffled):
    net = Net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with running_statistics_kept(net):
        net.features(torch.rand(4, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.features(torch.rand(4, 1, 8, 8))
    assert not torch.equal(net.bn1.running_mean, before["bn1.running_mean"])

    def statistics(**options):
        strategy = ccsi(train_epochs=1, lr=1e-12, selection="none", **options)
        for experience in shuffled.train_stream[:2]:
            strategy.train(experience)
        return strategy.model.bn2.running_mean

    kept = statistics(idc_target="test")
    torch.testing.assert_close(kept, statistics(idc_target="none"))
    assert not torch.allclose(kept, statistics(idc_target="test", target_updates_statistics=True))


def test_presets():
    strategy = ccsi()
    assert (strategy._held_out.unlabeled, strategy._held_out.selection) == ("validation", "validation")
    with pytest.warns(UserWarning, match="'test' looks at the test stream in training"):
        strategy = ccsi(preset="released", impressions={}, plateau_mode="max")
    assert (strategy._held_out.unlabeled, strategy._held_out.selection) == ("test", "test")
    assert (strategy._held_out.plateau_mode, strategy.target_updates_statistics) == ("max", True)
    assert {layer.momentum for layer in strategy.model.modules() if isinstance(layer, ContinualNorm2d)} == {1.0}
    (plugin,) = [each for each in strategy.plugins if isinstance(each, ClassImpressionPlugin)]
    assert (plugin.options.iterations, plugin.options.statistics_form, plugin.draw) == (5000, "batch", "uniform")
    assert plugin.synthetic_fraction == 0.66


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"margin_weight": -1.0}, ValueError, "margin_weight must not be negative, got -1.0"),
        ({"num_negatives": 0}, ValueError, "num_negatives must be positive, got 0"),
        ({"temperature": 0.0}, ValueError, "temperature must be positive, got 0.0"),
        ({"cn_momentum": 0.0}, ValueError, r"cn_momentum must be in \(0, 1\], got 0.0"),
        ({"rho": 1.5}, ValueError, r"rho must be in \[0, 1\], got 1.5"),
        ({"rho": [0.9, -0.1]}, ValueError, r"rho must be in \[0, 1\], got \[0.9, -0.1\]"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction must be in \(0, 1\), got 1.0"),
        ({"plateau_mode": "up"}, ValueError, "plateau_mode must be 'max' or 'min', got 'up'"),
        ({"preset": "authors"}, ValueError, "preset must be 'default' or 'released', got 'authors'"),
        ({"lr": 0.1, "optimizer": object()}, ValueError, "give either lr or a ready optimizer, got both"),
        ({"model": nn.Linear(2, 2)}, TypeError, "Linear has no features, num_features, linear"),
        ({"impressions": {"iterations": 0}}, ValueError, "iterations must be positive, got 0"),
        ({"margn": 1.0}, TypeError, "margn"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        ccsi(**options)


def test_a_stream_that_is_missing(shuffled):
    with pytest.raises(ValueError, match=r"idc_target must be 'validation', 'none' or a stream .*'test'.*, got 'dev'"):
        ccsi(idc_target="dev").train(shuffled.train_stream[0])


class Killed(Exception):
    """What a kill looks like from inside."""


def run(stream, path, kill_at, make, **checkpoint):
    """Trains on the whole stream with checkpoints; is killed after so many iterations."""
    steps = []

    def count(strategy):
        steps.append(0)
        if len(steps) == kill_at:
            raise Killed

    plugins = [
        CheckpointPlugin(path, save_every=3, mode="iteration", **checkpoint),
        RandomStreamsPlugin(0),
        InMemoryLoaderPlugin(),
        Counter(count),
    ]
    strategy, start = maybe_load_checkpoint(make(plugins), path, **checkpoint)
    for experience in stream.train_stream[start:]:
        strategy.train(experience)
        save_checkpoint(strategy, path, **checkpoint)
    return strategy


class Counter(SupervisedPlugin):
    """Calls a function after each iteration; nothing of it is saved."""

    def __init__(self, function):
        super().__init__()
        self.after_training_iteration = lambda strategy, **kwargs: function(strategy)

    def checkpoint_state(self):
        return {}

    def load_checkpoint_state(self, state):
        pass


def naive_with_impressions(plugins):
    torch.manual_seed(3)
    model = with_head(Net(), "cosine")
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        train_mb_size=16,
        train_epochs=2,
        plugins=[*plugins, ClassImpressionPlugin(**QUICK)],
        evaluator=EvaluationPlugin(loggers=[]),
    )


RUNS = {
    "CCSI": lambda plugins: ccsi(plugins=plugins),
    "released": lambda plugins: ccsi(
        plugins=plugins,
        preset="released",
        idc_target="validation",
        selection="validation",
        cn_momentum=0.3,  # with 1, nothing of earlier batches is left to restore
        impressions={"iterations": 2, "batch_size": 16, "num_batches": 1},
    ),
    "plugin": naive_with_impressions,
}


@pytest.mark.parametrize("method", RUNS)
def test_killed_runs_end_in_the_same_bits(digits, tmp_path, method):
    stream, counts = nc_benchmark(*digits, 2, False, fixed_class_order=ORDER[:4]), []
    make, checkpoint = RUNS[method], {"unique_objects": stream}
    whole = run(stream, tmp_path / "whole", 0, lambda plugins: make([*plugins, Counter(counts.append)]), **checkpoint)
    first = 2 * -(-len(stream.train_stream[0].dataset) // 16)
    for kill_at in (5, first, len(counts) - 4):  # in the first experience, at its end, and in the second
        path = tmp_path / f"killed{kill_at}"
        with pytest.raises(Killed):
            run(stream, path, kill_at, make, **checkpoint)
        resumed = run(stream, path, 0, make, **checkpoint)
        expected = whole.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
        left, right = (
            next(plugin for plugin in strategy.plugins if isinstance(plugin, ClassImpressionPlugin))
            for strategy in (whole, resumed)
        )
        assert torch.equal(left.impressions, right.impressions)
        assert torch.equal(left.class_means, right.class_means)
        for name, table in left.statistics.mean.items():
            assert torch.equal(table, right.statistics.mean[name])


def test_schedule_and_best_epoch_are_resumed(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(HeldOutPlugin, "_accuracy", lambda self, strategy: 0.5**strategy.clock.train_exp_epochs)
    stream = nc_benchmark(*digits, 1, False, fixed_class_order=ORDER[:2])
    rates = []

    def make(plugins):
        watch = Counter(lambda strategy: rates.append(strategy.optimizer.param_groups[0]["lr"]))
        return ccsi(plugins=[*plugins, watch], train_epochs=9)

    whole = run(stream, tmp_path / "whole", 0, make, unique_objects=stream)
    expected = rates[-1]
    assert expected == pytest.approx(0.03)
    kill_at = 5 * -(-len(stream.train_stream[0].dataset) // 16)
    with pytest.raises(Killed):
        run(stream, tmp_path / "killed", kill_at, make, unique_objects=stream)
    resumed = run(stream, tmp_path / "killed", 0, make, unique_objects=stream)
    assert rates[-1] == expected
    assert torch.equal(resumed.model.conv1.weight, whole.model.conv1.weight)  # of the first epoch


@pytest.mark.parametrize("leak", [False, True])
def test_no_sample_is_in_a_checkpoint(shuffled, tmp_path, leak):
    raw = [image.numpy().tobytes() for part in shuffled.train_stream for image, *_ in part.dataset.eval()]
    assert len(set(raw)) > 300

    class Memory(SupervisedPlugin):
        def after_training_exp(self, strategy, **kwargs):
            self.image = strategy.experience.dataset[0][0]

    def make(plugins):
        return ccsi(plugins=[*plugins, Memory()] if leak else plugins)

    kill_at = 2 * -(-len(shuffled.train_stream[0].dataset) // 16) + 12  # in the second experience
    with pytest.raises(Killed):
        run(shuffled, tmp_path / "run.safetensors", kill_at, make)
    for name in ("run.safetensors", "run.inside.safetensors"):
        content = (tmp_path / name).read_bytes()
        assert any(image in content for image in raw) == leak
