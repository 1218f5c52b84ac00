"""TAG inside Avalanche: against a loop written by hand, with growing heads, other plugins and loggers."""

from __future__ import annotations

import io
import math

import pytest
import torch
from avalanche.benchmarks import nc_benchmark, split_online_stream
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger, TextLogger
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import DER, Naive
from torch import nn

from clpack.data import TensorImages
from clpack.optim import TAG as TAGOptimizer
from clpack.strategies import TAG, AGEMPlugin, TAGPlugin, TaskMaskedModel, with_head


def weights_of(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Recorder(BaseLogger):
    def __init__(self):
        super().__init__()
        self.values = {}

    def log_single_metric(self, name, value, x_plot):
        self.values[name] = value


def batches_of(strategy):
    """Keeps every training batch that a strategy sees."""
    seen = []
    original = strategy.criterion

    def criterion():
        if strategy.is_training:
            seen.append((strategy.experience.current_experience, strategy.mb_x.clone(), strategy.mb_y.clone()))
        return original()

    strategy.criterion = criterion
    return seen


@pytest.mark.parametrize("base", ["rmsprop", "adagrad", "adam"])
def test_strategy_equals_a_loop_written_by_hand(make_stream, make_model, base):
    strategy = TAG(model=make_model(), lr=0.003, base=base, train_mb_size=32, train_epochs=2, evaluator=None)
    seen = batches_of(strategy)
    for experience in make_stream().train_stream:
        strategy.train(experience)

    model = make_model()
    optimizer = TAGOptimizer(model.parameters(), 0.003, base=base)
    for task, images, targets in seen:
        optimizer.begin_task(task)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
    assert len(seen) > 20
    assert torch.equal(weights_of(model), weights_of(strategy.model))


def test_growing_head_keeps_its_history(digits, make_model):
    """A head that grows learns exactly as one that had all rows from the start, given equal weights and masks."""
    precise = [TensorImages(part.images.double(), part.targets) for part in digits]
    stream = nc_benchmark(*precise, 5, task_labels=True, shuffle=False)
    whole = with_head(make_model(dtype=torch.float64), "masked")
    grown = GrowingMaskedHead(make_model(dtype=torch.float64))
    strategies = [
        TAG(model=model, lr=0.001, train_mb_size=16, evaluator=None, plugins=[ReplayPlugin(40)])
        for model in (whole, grown)
    ]
    for strategy in strategies:
        torch.manual_seed(3)
        for experience in stream.train_stream:
            strategy.train(experience)
    torch.testing.assert_close(grown.linear.weight, whole.model.linear.weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(weights_of(grown.features), weights_of(whole.model.features), rtol=1e-9, atol=1e-12)
    state = strategies[1].optimizer.state[grown.linear.weight]
    assert state["tasks"] == [0, 1, 2, 3, 4]
    assert state["second"].shape == (5, 10 * 16)


class GrowingMaskedHead(TaskMaskedModel):
    """The masked head with rows only for the classes announced so far: grows by new parameters, as Avalanche's do."""

    def __init__(self, model):
        super().__init__(model, 10)
        self.features, self.linear, self.whole = model.features, nn.Linear(16, 2).double(), model.linear
        self.linear.load_state_dict({"weight": self.whole.weight[:2], "bias": self.whole.bias[:2]})
        self.whole.requires_grad_(False)
        del self.model

    def adaptation(self, experience):
        super().adaptation(experience)
        rows = 1 + max(experience.classes_in_this_experience)
        if rows > self.linear.out_features:
            with torch.random.fork_rng():  # the other model draws nothing here
                larger = nn.Linear(16, rows).double()
            larger.load_state_dict({"weight": self.whole.weight[:rows], "bias": self.whole.bias[:rows]})
            with torch.no_grad():
                larger.weight[: len(self.linear.weight)] = self.linear.weight
                larger.bias[: len(self.linear.weight)] = self.linear.bias
            self.linear = larger

    def forward(self, images, task_labels):
        logits = self.linear(self.features(images))
        return logits.masked_fill(~self.class_mask[task_labels][:, : logits.shape[1]], -1e11)


@pytest.mark.parametrize("head", ["incremental", "multi"])
def test_history_survives_evaluation_of_classes_to_come(make_stream, make_model, head):
    """Evaluation makes the head grow before the optimizer knows: the usual train-and-evaluate loop."""
    stream = make_stream(5, task_labels=head == "multi")
    strategy = TAG(
        model=with_head(make_model(), head), lr=0.003, train_mb_size=32, evaluator=None, plugins=[ReplayPlugin(40)]
    )
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    for name, parameter in strategy.model.named_parameters():
        tasks = strategy.optimizer.state[parameter]["tasks"]
        first = int(name.split(".")[2]) if name.startswith("heads") else 0
        assert tasks == list(range(first, 5)), name


def test_parts_of_an_online_stream_belong_to_the_task_of_their_experience(make_stream, make_model):
    stream = make_stream(5)
    strategy = TAG(model=make_model(), lr=0.003, train_mb_size=16, evaluator=None)
    for part in split_online_stream(stream.train_stream[:2], experience_size=60):
        strategy.train(part)
    assert strategy.optimizer.progress["finished"] == [0, 1]


@pytest.mark.parametrize("head", ["single", "masked", "incremental", "multi"])
@pytest.mark.parametrize(
    "plugins",
    [
        list,
        lambda: [ReplayPlugin(50)],
        lambda: [EWCPlugin(1.0)],
        lambda: [LwFPlugin(1.0, 2.0)],
        lambda: [AGEMPlugin(20, 16)],
    ],
    ids=["alone", "replay", "ewc", "lwf", "agem"],
)
def test_every_head_with_every_plugin(make_stream, make_model, head, plugins):
    task_labels = head in ("masked", "multi")
    stream = make_stream(5, task_labels)
    model = with_head(make_model(), head)
    strategy = TAG(model=model, lr=0.003, train_mb_size=16, train_epochs=8, evaluator=None, plugins=plugins())
    for experience in stream.train_stream:
        strategy.train(experience)
        assert torch.isfinite(weights_of(strategy.model)).all()
    assert strategy.optimizer.progress["finished"] == [0, 1, 2, 3, 4]
    assert accuracy_on(strategy, stream.train_stream[4]) > 0.75  # chance is 0.1, or 0.5 within the task
    first_layer = next(strategy.model.parameters())
    assert strategy.optimizer.state[first_layer]["tasks"] == [0, 1, 2, 3, 4]


def test_inside_dark_experience_replay(make_stream, make_model):
    """Avalanche's DER is a strategy, not a plugin, and wants one head of a fixed size."""
    stream, model = make_stream(5), make_model()
    strategy = DER(
        model=model,
        optimizer=TAGOptimizer(model.parameters(), 0.003),
        train_mb_size=16,
        train_epochs=2,
        mem_size=60,
        evaluator=None,
        plugins=[TAGPlugin()],
    )
    for experience in stream.train_stream:
        strategy.train(experience)
    assert strategy.optimizer.progress["finished"] == [0, 1, 2, 3, 4]
    assert accuracy_on(strategy, stream.train_stream[4]) > 0.75  # chance is 0.1
    assert len(strategy.storage_policy.buffer) == 60


def accuracy_on(strategy, experience):
    from avalanche.models import avalanche_forward

    dataset = experience.dataset.eval()
    batch = dataset.collate_fn([dataset[k] for k in range(len(dataset))])
    strategy.model.eval()
    with torch.no_grad():
        logits = avalanche_forward(strategy.model, batch[0], batch[-1])
    return (logits.argmax(1) == batch[1]).double().mean().item()


def test_task_is_the_label_where_labels_tell_experiences_apart(make_stream, make_model):
    stream = make_stream(5, task_labels=True)
    plugin = TAGPlugin()
    model = with_head(make_model(), "masked")
    strategy = Naive(
        model=model,
        optimizer=TAGOptimizer(model.parameters(), 0.001),
        train_mb_size=32,
        evaluator=None,
        plugins=[plugin],
    )
    for k in (3, 1, 3):
        strategy.train(stream.train_stream[k])
    assert strategy.optimizer.progress["finished"] == [0, 1]
    assert strategy.optimizer.progress["task"] == 0
    assert {task: len(report) for task, report in plugin.reports.items()} == {0: 2, 1: 2}
    assert plugin.reports[0][0].item() == pytest.approx(math.exp(-5), rel=1e-6)  # its own, now that there is another
    weights = plugin.task_weights()
    assert weights.isnan().tolist() == [[True, False], [False, True]]  # the first task came again after the second
    assert weights[0, 1] == plugin.reports[0][1]
    assert weights[1, 0] == plugin.reports[1][0]


def test_alpha_reaches_every_logger(make_stream, make_model):
    recorder, text = Recorder(), io.StringIO()
    evaluator = EvaluationPlugin(accuracy_metrics(epoch=True), loggers=[recorder, TextLogger(text)])
    strategy = TAG(model=make_model(), lr=0.001, b=2.0, train_mb_size=32, train_epochs=2, evaluator=evaluator)
    for experience in make_stream().train_stream:
        strategy.train(experience)
    names = [f"TAG_Alpha/train_phase/Task{t:03d}/Past{p:03d}" for t in range(5) for p in range(t)]
    assert [name for name in recorder.values if name.startswith("TAG_Alpha")] == names
    reports = strategy.plugins[0].reports
    assert [recorder.values[name] for name in names] == [reports[t][p].item() for t in range(5) for p in range(t)]
    assert all(math.exp(-2) <= recorder.values[name] <= math.exp(2) for name in names)
    assert reports[0].tolist() == [1.0]
    assert reports[4][4].item() == pytest.approx(math.exp(-2), rel=1e-6)
    assert names[-1] in text.getvalue()
    assert set(names) <= set(evaluator.get_all_metrics())


def test_evaluation_between_and_within_training_changes_nothing(make_stream, make_model):
    stream = make_stream()
    results = []
    for evaluate in (False, True):
        torch.manual_seed(0)
        strategy = TAG(model=make_model(), lr=0.001, train_mb_size=32, evaluator=None)
        for experience in stream.train_stream:
            strategy.train(experience, shuffle=False)
            if evaluate:
                strategy.eval(stream.test_stream)
        results.append(weights_of(strategy.model))
    assert torch.equal(*results)


def test_plugins_of_the_caller_are_not_touched(make_model):
    plugins = []
    TAG(model=make_model(), lr=0.1, plugins=plugins, evaluator=None)
    assert plugins == []


def test_optimizer_and_plugin_belong_together(make_stream, make_model):
    stream, model = make_stream(5).train_stream, make_model()

    def naive(optimizer, plugin):
        return Naive(model=model, optimizer=optimizer, train_mb_size=32, evaluator=None, plugins=[plugin])

    optimizer, plugin = TAGOptimizer(model.parameters(), 0.001), TAGPlugin()
    for experience in stream[:2]:
        naive(optimizer, plugin).train(experience)  # another strategy may go on with both
    assert optimizer.progress["finished"] == [0, 1]
    with pytest.raises(
        ValueError, match=r"the optimizer has begun 2 tasks, but this TAGPlugin 0, so it cannot be told"
    ):
        naive(optimizer, TAGPlugin()).train(stream[2])
    with pytest.raises(
        ValueError, match=r"the optimizer has begun 0 tasks, but this TAGPlugin 2, so it cannot be told"
    ):
        naive(TAGOptimizer(model.parameters(), 0.001), plugin).train(stream[2])
    assert optimizer.progress["finished"] == [0, 1]


def test_bad_input(make_stream, make_model):
    model = make_model()
    with pytest.raises(ValueError, match="give either lr .* or a ready optimizer, got lr=None"):
        TAG(model=model)
    with pytest.raises(ValueError, match=r"give either lr .* got lr=0.1 and optimizer=TAG"):
        TAG(model=model, lr=0.1, optimizer=TAGOptimizer(model.parameters(), 0.1))
    with pytest.raises(TypeError, match=r"optimizer must be a clpack\.optim\.TAG, got SGD"):
        TAG(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(ValueError, match="lr must be positive"):
        TAG(model=model, lr=0.0)
    stream = make_stream()
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), evaluator=None, plugins=[TAGPlugin()]
    )
    with pytest.raises(TypeError, match=r"needs the optimizer of the strategy to be a clpack\.optim\.TAG, got SGD"):
        strategy.train(stream.train_stream[0])
    strategy = TAG(model=model, lr=0.1, evaluator=None, plugins=[TAGPlugin()])
    with pytest.raises(ValueError, match="more than one TAGPlugin; drop yours"):
        strategy.train(stream.train_stream[0])
    strategy = TAG(model=model, lr=0.1, evaluator=None)
    with pytest.raises(ValueError, match="reset_optimizer_state=True would erase"):
        strategy.train(stream.train_stream[0], reset_optimizer_state=True)


def test_mixed_precision(make_stream, make_model):
    stream = make_stream(5)
    strategies = [
        TAG(model=make_model(), lr=0.003, train_mb_size=16, train_epochs=4, autocast=autocast, evaluator=None)
        for autocast in (None, torch.bfloat16)
    ]
    for strategy in strategies:
        torch.manual_seed(0)
        strategy.train(stream.train_stream[0])
        assert accuracy_on(strategy, stream.train_stream[0]) > 0.9
    full, mixed = (weights_of(strategy.model) for strategy in strategies)
    assert mixed.dtype == torch.float32
    assert not torch.equal(full, mixed)
    torch.testing.assert_close(full, mixed, rtol=0.0, atol=0.1)
    with pytest.raises(ValueError, match=r"autocast must be None or torch\.bfloat16, got torch\.float16"):
        TAG(model=make_model(), lr=0.1, autocast=torch.float16)
