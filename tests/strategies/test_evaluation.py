"""The accuracy matrix and the costs inside Avalanche's loop."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive

from clpack import metrics
from clpack.strategies import (
    AccuracyMatrix,
    ConfusionMatrix,
    PhaseCosts,
    average_accuracy_metrics,
    phase_cost_metrics,
    with_head,
)
from clpack.strategies.evaluation import state_bytes


class Recorder(BaseLogger):
    def __init__(self):
        super().__init__()
        self.values = []

    def log_single_metric(self, name, value, x_plot):
        self.values.append((name, value, x_plot))


def naive(model, *plugin_metrics, plugins=(), **options):
    recorder = Recorder()
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True, stream=True), *plugin_metrics, loggers=[recorder])
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        train_mb_size=32,
        eval_mb_size=64,
        evaluator=evaluator,
        plugins=list(plugins),
        **{"train_epochs": 5, **options},
    )
    return strategy, recorder


@pytest.mark.parametrize("head", ["incremental", "multi"])
def test_matrix_holds_avalanches_accuracies(make_stream, make_model, head):
    stream = make_stream(5, task_labels=head == "multi")
    watch = AccuracyMatrix()
    strategy, _ = naive(with_head(make_model(), head), watch)
    expected = np.full((5, 5), np.nan)
    for column, experience in enumerate(stream.train_stream):
        strategy.train(experience)
        results = strategy.eval(stream.test_stream)
        for row in range(5):
            key = next(k for k in results if k.startswith("Top1_Acc_Exp/eval") and k.endswith(f"Exp{row:03d}"))
            expected[row, column] = results[key]
    np.testing.assert_allclose(watch.matrix, expected, rtol=0, atol=1e-12)
    assert np.diagonal(expected).mean() > 0.7


def test_logged_values_are_those_of_the_pure_functions(make_stream, make_model):
    stream = make_stream(5)
    (watch,) = average_accuracy_metrics()
    strategy, recorder = naive(make_model(), watch)
    strategy.eval(stream.test_stream)
    for experience in stream.train_stream:
        strategy.train(experience)
        strategy.eval(stream.test_stream)
    logged = {name: value for name, value, _ in recorder.values}
    where = "eval_phase/test_stream"
    assert logged[f"Average_Accuracy/{where}"] == metrics.average_accuracy(watch.matrix)
    assert logged[f"Forgetting/{where}"] == metrics.forgetting(watch.matrix) > 0
    assert logged[f"Forgetting_First/{where}"] == metrics.forgetting(watch.matrix, reference="first")
    assert logged[f"Learning_Accuracy/{where}"] == metrics.learning_accuracy(watch.matrix)
    assert logged[f"Backward_Transfer/{where}"] == metrics.backward_transfer(watch.matrix)
    assert logged[f"Forward_Transfer/{where}"] == metrics.forward_transfer(watch.matrix, watch.untrained)
    curve = [value for name, value, _ in recorder.values if name == f"Average_Accuracy/{where}"]
    assert curve == pytest.approx(metrics.running_average_accuracy(watch.matrix).tolist())


def test_values_that_were_not_measured_are_not_logged(make_stream, make_model):
    stream = make_stream(5)
    strategy, recorder = naive(make_model(), average_accuracy_metrics())
    for k in (0, 1):
        strategy.train(stream.train_stream[k])
    strategy.eval(stream.test_stream[:2])  # the first experience was not evaluated after it was learned
    names = {name.partition("/")[0] for name, _, _ in recorder.values}
    assert "Average_Accuracy" in names
    assert not names & {"Forgetting", "Learning_Accuracy", "Backward_Transfer", "Forward_Transfer"}


def test_rows_follow_the_order_of_training_and_other_streams_are_ignored(make_stream, make_model):
    stream = make_stream(5)
    watch = AccuracyMatrix()
    strategy, _ = naive(make_model(), watch)
    for k in (4, 2):
        strategy.train(stream.train_stream[k])
        strategy.eval(stream.test_stream)
        strategy.eval(stream.train_stream)
    matrix = watch.matrix
    assert matrix.shape == (5, 5)
    assert matrix[0, 0] > 0.5  # experience 4, right after it was learned
    assert matrix[1, 1] > 0.5  # experience 2
    assert (matrix[2:, :2] < 0.5).all()
    assert np.isnan(matrix[:, 2:]).all()


def test_an_experience_that_returns(make_stream, make_model):
    stream = make_stream(5)
    watch = AccuracyMatrix()
    strategy, recorder = naive(make_model(), watch)
    for k in (0, 1, 0):
        strategy.train(stream.train_stream[k])
        strategy.eval(stream.test_stream)
    assert watch.matrix.shape == (5, 5)
    assert np.isfinite(watch.matrix[:, :3]).all()
    last = [(name, value) for name, value, step in recorder.values if step == strategy.clock.train_iterations]
    ours = {name: value for name, value in last if not name.startswith("Top1")}
    assert ours == {"Average_Accuracy/eval_phase/test_stream": watch.matrix[:2, 2].mean()}


def test_peak_memory_of_training_survives_evaluation_within(make_stream, make_model):
    costs = PhaseCosts()
    strategy, _ = naive(make_model(), costs)
    costs.before_training_exp(SimpleNamespace(experience=SimpleNamespace(current_experience=0), device=strategy.device))
    spike = torch.ones(60_000_000)  # 240 MB, in training only
    del spike
    before = costs._peaks["train"]
    costs.before_eval(strategy)
    assert costs._peaks["train"] > before
    assert costs._peaks["train"] >= 240_000_000


def test_periodic_evaluation_counts_for_the_experience_in_training(make_stream, make_model):
    stream = make_stream(5)
    watch = AccuracyMatrix()
    strategy, _ = naive(make_model(), watch, eval_every=1)
    for k in (0, 1):
        strategy.train(stream.train_stream[k], eval_streams=[stream.test_stream])
    assert np.isfinite(watch.matrix[:, :2]).all()
    assert np.isfinite(watch.untrained).all()
    assert watch.matrix[0, 0] > watch.untrained[0]


def test_costs_of_each_phase(make_stream, make_model):
    stream = make_stream(5)
    (costs,) = phase_cost_metrics()
    model = make_model()
    strategy, recorder = naive(model, costs, plugins=[ReplayPlugin(30)])
    for k in (0, 1):
        strategy.train(stream.train_stream[k])
        strategy.eval(stream.test_stream)
    assert [(cost["phase"], cost["experience"]) for cost in costs.costs] == [
        ("train", 0),
        ("eval", 0),
        ("train", 1),
        ("eval", 1),
    ]
    assert all(0 < cost["seconds"] < 60 and cost["peak_memory_bytes"] > 2**20 for cost in costs.costs)
    model_bytes = sum(parameter.nbytes for parameter in model.parameters())
    state = costs.costs[2]["state_bytes"]
    assert state["model"] == model_bytes
    assert state["optimizer"] == model_bytes  # one momentum per parameter
    assert state["plugins"] == 30 * 64 * 4 + 30 * 4  # the replay buffer: 8 x 8 float32 images, and a weight for each
    names = {name for name, _, _ in recorder.values}
    assert {
        "Seconds/train_phase/Exp001",
        "Peak_Memory_MiB/eval_phase/Exp001",
        "State_Bytes/train_phase/Exp001",
    } <= names


def test_costs_go_on_after_a_resume(make_stream, make_model):
    costs = PhaseCosts()
    strategy, _ = naive(make_model(), costs)
    costs.before_eval(strategy)
    resumed = PhaseCosts()
    resumed.load_checkpoint_state(costs.checkpoint_state())
    assert resumed._started["eval"] == pytest.approx(costs._started["eval"], abs=0.5)


def test_state_bytes_count_nothing_twice(make_stream, make_model):
    model = make_model()
    strategy, _ = naive(model)
    strategy.plugins[0].kept = [model.linear.weight, {"again": model.linear.weight}]
    assert state_bytes(strategy)["plugins"] == 0


def test_confusion_matrix_counts_the_latest_evaluation(make_stream, make_model):
    stream = make_stream(5)
    watch = ConfusionMatrix()
    strategy, _ = naive(make_model(), watch)
    assert watch.result() is None
    strategy.train(stream.train_stream[0])
    for part in (stream.test_stream, stream.test_stream[2:], stream.train_stream, stream.test_stream):
        strategy.eval(part)
    expected = np.zeros((10, 10), int)
    with torch.no_grad():
        for experience in stream.test_stream:
            for image, target, *_ in experience.dataset:
                expected[target, strategy.model.eval()(image[None]).argmax()] += 1
    np.testing.assert_array_equal(watch.result(), expected)


def test_confusion_matrix_is_for_one_task(make_stream, make_model):
    stream = make_stream(5, task_labels=True)
    watch = ConfusionMatrix()
    strategy, _ = naive(with_head(make_model(), "multi"), watch)
    strategy.train(stream.train_stream[0])
    strategy.eval(stream.test_stream)
    assert watch.result() is None
