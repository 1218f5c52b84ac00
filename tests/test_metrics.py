"""The metrics on a 3 x 3 matrix worked by hand, and on the recorded matrices."""

from __future__ import annotations

import numpy as np
import pytest

from clpack import metrics

#              after task  1    2    3
MATRIX = np.array([[0.9, 0.5, 0.6], [0.1, 0.8, 0.4], [0.2, 0.3, 0.7]])


def test_average_accuracy_by_hand():
    assert metrics.average_accuracy(MATRIX) == pytest.approx((0.6 + 0.4 + 0.7) / 3)


def test_learning_accuracy_by_hand():
    assert metrics.learning_accuracy(MATRIX) == pytest.approx((0.9 + 0.8 + 0.7) / 3)


def test_forgetting_by_hand():
    assert metrics.forgetting(MATRIX) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)
    # A task that was best at the end was not forgotten at all; against its first value it even gained.
    improved = np.array([[0.5, 0.7, 0.9], [0.0, 0.8, 0.4], [0.0, 0.0, 0.7]])
    assert metrics.forgetting(improved) == pytest.approx((0.0 + 0.4) / 2)
    assert metrics.forgetting(improved, reference="first") == pytest.approx((-0.4 + 0.4) / 2)


def test_transfers_by_hand():
    assert metrics.backward_transfer(MATRIX) == pytest.approx(((0.6 - 0.9) + (0.4 - 0.8)) / 2)
    assert metrics.forgetting(MATRIX, reference="first") == pytest.approx(-metrics.backward_transfer(MATRIX))
    assert metrics.forward_transfer(MATRIX, [0.05, 0.15, 0.1]) == pytest.approx(((0.1 - 0.15) + (0.3 - 0.1)) / 2)


def test_running_average_by_hand():
    expected = [0.9, (0.5 + 0.8) / 2, (0.6 + 0.4 + 0.7) / 3]
    assert metrics.running_average_accuracy(MATRIX) == pytest.approx(expected)


def test_values_below_the_diagonal_are_needed_for_forward_transfer_only():
    upper = np.where(np.triu(np.ones((3, 3), dtype=bool)), MATRIX, np.nan)
    assert metrics.average_accuracy(upper) == metrics.average_accuracy(MATRIX)
    assert metrics.forgetting(upper) == metrics.forgetting(MATRIX)
    assert metrics.learning_accuracy(upper) == metrics.learning_accuracy(MATRIX)
    assert metrics.running_average_accuracy(upper) == pytest.approx(metrics.running_average_accuracy(MATRIX))
    with pytest.raises(ValueError, match="accuracy just before each task is missing"):
        metrics.forward_transfer(upper, [0, 0, 0])


def test_a_single_task_forgets_nothing():
    assert metrics.forgetting([[0.8]]) == metrics.backward_transfer([[0.8]]) == 0.0
    assert metrics.forward_transfer([[0.8]], [0.1]) == 0.0
    assert metrics.average_accuracy([[0.8]]) == metrics.learning_accuracy([[0.8]]) == 0.8


@pytest.mark.parametrize("name", ["metrics_5dataset_rms", "metrics_5dataset_tag_rms"])
def test_recorded_matrices(golden, name):
    recording = {key: value.numpy() for key, value in golden(f"tag/{name}").items()}
    runs = recording["acc"]
    accuracy = [metrics.average_accuracy(run) for run in runs]
    forgetting = [metrics.forgetting(run) / 100 for run in runs]
    learning = [metrics.learning_accuracy(run) for run in runs]
    np.testing.assert_allclose(accuracy, recording["average_accuracy"], rtol=1e-9)
    np.testing.assert_allclose(forgetting, recording["forgetting"], rtol=1e-9)
    np.testing.assert_allclose(learning, recording["learning_accuracy"], rtol=1e-9)
    curves = [metrics.running_average_accuracy(run) for run in runs]
    np.testing.assert_allclose(curves, recording["running_average"], rtol=1e-9)
    summary = np.array([accuracy, forgetting, learning])
    np.testing.assert_allclose(summary.mean(axis=1), recording["mean"], rtol=1e-9)
    np.testing.assert_allclose(summary.std(axis=1), recording["std"], rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.average_accuracy([[0.1, 0.2]]), r"shape \(T, T\).* got shape \(1, 2\)"),
        (lambda: metrics.average_accuracy(np.zeros((0, 0))), r"got shape \(0, 0\)"),
        (lambda: metrics.average_accuracy([[1, np.nan], [1, 1]]), "accuracy after the last task is missing"),
        (lambda: metrics.learning_accuracy([[np.nan, 1], [1, 1]]), "accuracy just after each task is missing"),
        (lambda: metrics.forgetting(MATRIX, reference="best"), "reference must be 'max' or 'first', got 'best'"),
        (lambda: metrics.forward_transfer(MATRIX, [0.1, np.nan, 0.1]), "accuracy before any training is missing"),
        (lambda: metrics.forward_transfer(MATRIX, [0.1]), r"one accuracy per task, shape \(3,\), got shape \(1,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
