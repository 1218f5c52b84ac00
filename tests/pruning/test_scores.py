"""Scores: recordings of the authors' programs, hand-worked cases, a slow reference, and bad input."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
import torch

from clpack.pruning import (
    SCORES,
    Trace,
    aggregate_runs,
    area_under_margin,
    el2n,
    epoch_accuracy,
    epoch_loss,
    first_learned,
    forgetting_events,
    get_score,
    max_loss_increase,
    presentations_needed,
    random_scores,
    removal_order,
)

RUNS = [
    *("corners_s11_np5", "corners_s11_np8", "corners_s11_np200"),
    *("sim_s11_3runs", "sim_s11_ragged", "real_mnist_mli59000"),
]
NAN, INF = np.nan, np.inf


def exact(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def runs_of(recording):
    """The first ``P`` presentations of each run, as the originals look at them, and its other arrays."""
    limit = recording["in_npresentations"].item()
    for run in range(recording["in_n_runs"].item()):
        given, out = recording.below(f"in_run{run}_"), recording.below(f"out_run{run}_")
        traces = {name: given[name].T[:limit] for name in ("loss", "correct", "margin")}
        yield traces, given["length"], given["first_seen_order"].numpy(), {k: v.numpy() for k, v in out.items()}


@pytest.mark.parametrize("name", RUNS)
def test_recorded_forgetting(golden, name):
    recording = golden(f"pruning/{name}")
    limit = recording["in_npresentations"].item()
    totals = []
    for traces, length, _, out in runs_of(recording):
        seen, correct = length.numpy() > 0, traces["correct"]
        exact(first_learned(correct, length=length), np.where(out["first_learned"] < 0, NAN, out["first_learned"]))
        exact(presentations_needed(correct, length=length)[seen], out["presentations_needed"][seen])
        exact(forgetting_events(correct, length=length)[seen], out["datadiet_forget_score"][seen])
        totals.append(forgetting_events(correct, length=length, never_learned=limit))
        assert np.isnan(totals[-1][~seen]).all()
    total = aggregate_runs(totals, SCORES["forgetting"].aggregate)
    exact(total, np.where(recording["out_forget_score"] < 0, NAN, recording["out_forget_score"]))
    assert (total == 0).sum() == recording["out_n_unforgettable_printed"]

    order = removal_order(total, remove="lowest")
    np.testing.assert_array_equal(total[order], recording["out_forget_sorted_values"])
    original = recording["out_forget_order_numpy_argsort"].numpy()
    for value in np.unique(total[order]):  # up to ties
        assert {*order[total[order] == value]} == {*original[total[original] == value]}


@pytest.mark.parametrize("name", RUNS)
def test_recorded_loss_increases(golden, name):
    for traces, length, first_seen_order, out in runs_of(golden(f"pruning/{name}")):
        scores = max_loss_increase(traces["loss"], length=length)
        exact(scores, out["mli_score"])
        consecutive = max_loss_increase(traces["loss"], length=length, kind="consecutive")
        exact(consecutive, out["consecutive_increase_DEFINITION"])
        first_seen = np.empty(len(scores))
        first_seen[first_seen_order] = np.arange(len(scores))
        order = removal_order(scores, remove="lowest", tie_break=first_seen)
        np.testing.assert_array_equal(order, out["mli_order"])
        exact(scores[order], out["mli_sorted_values"])


def test_recorded_losses_in_single_precision_give_the_same_scores(golden):
    recording = golden("pruning/real_mnist_mli59000")  # recorded as float32 in the first place
    ((traces, length, _, out),) = runs_of(recording)
    trace = Trace(1000)
    trace.load_state_dict(
        {name: values.numpy() for name, values in traces.items()}
        | {"length": length.numpy(), "first_seen": np.arange(1000)}
    )
    exact(trace.score("mli"), out["mli_score"])
    exact(trace.score("epoch_loss"), traces["loss"].mean(dim=0))


def test_recorded_aum_and_el2n(golden):
    recording = golden("pruning/scores_s11")
    logits, targets = recording["in_logits"].double(), recording["in_targets"]
    rows, columns = torch.arange(300)[:, None], torch.arange(25)
    target = targets[:, None]

    def margins(values):
        others = values.clone()
        others[rows, columns, target] = -INF
        return (values[rows, columns, target] - others.amax(dim=2)).T

    exact(area_under_margin(margins(recording["in_logits"])), recording["out_aum_logit_mean"])
    probabilities = logits.softmax(dim=2)
    exact(25 * area_under_margin(margins(probabilities)), recording["out_aum_prob_sum_DEFINITION"])
    by_epoch = probabilities.transpose(0, 1)
    for epoch in (0, 24):
        exact(el2n(by_epoch[epoch], targets), recording["out_el2n_per_presentation_DEFINITION"][:, epoch])
    exact(el2n(by_epoch[:10], targets), recording["out_el2n_mean10_DEFINITION"])
    correct = (logits.argmax(dim=2) == target).T
    # the half precision of the original makes ties, which change a few
    for count, expected in (
        (25 * epoch_accuracy(correct), recording["out_ccs_correctness"]),
        (forgetting_events(correct, never_learned=0), recording["out_ccs_forgetting"]),
    ):
        assert (np.abs(count - expected.numpy()) > 0.5).mean() < 0.01


def test_recorded_epoch_loss_and_accuracy(golden):
    recording = golden("epochloss/selection")
    cases = [name.removesuffix("_percent") for name in recording if name.endswith("_percent")]
    assert len(cases) == 13
    for case in cases:
        logits, labels = recording[f"{case[0]}_logits"].double(), recording[f"{case[0]}_labels"]
        window = recording[f"{case}_window"].item()
        options = {"window": None if window == -1 else window, "interval": recording[f"{case}_interval"].item()}
        if "softmax" in case:
            scores = epoch_accuracy(logits.argmax(dim=2) == labels, **options)
        else:
            losses = torch.nn.functional.cross_entropy(logits.permute(0, 2, 1), labels.expand(8, -1), reduction="none")
            scores = epoch_loss(losses, **options)
        np.testing.assert_allclose(100 * scores, recording[f"{case}_score"], rtol=0, atol=1e-4, err_msg=case)


def test_by_hand():
    loss = np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 2.0], [2.5, 0.5, 1.0], [2.0, 3.0, 0.0]])
    correct = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    exact(epoch_loss(loss), [8.5 / 4, 6.5 / 4, 5 / 4])
    exact(epoch_loss(loss, window=2), [4.5 / 2, 3.5 / 2, 0.5])
    exact(epoch_loss(loss, interval=2), [5.5 / 2, 1.5 / 2, 1.5])
    exact(epoch_loss(loss, window=3, interval=2), [(1 + 2) / 2, (2 + 3) / 2, 1.0])
    exact(epoch_accuracy(correct), [0.5, 0.5, 0.0])
    exact(max_loss_increase(loss), [1.5, 2.5, 0.0])  # above the running minimum, not from step to step:
    exact(max_loss_increase([[1.0], [0.0], [2.0], [3.0]]), [3.0])
    exact(max_loss_increase([[1.0], [0.0], [2.0], [3.0]], kind="consecutive"), [2.0])
    exact(forgetting_events(correct), [1, 2, INF])
    exact(forgetting_events(correct, never_learned="npresentations"), [1, 2, 4])
    exact(forgetting_events(correct, never_learned=200), [1, 2, 200])
    exact(first_learned(correct), [1, 0, NAN])
    exact(presentations_needed(correct), [3, 4, 4])
    exact(area_under_margin(loss - 2), [0.125, -0.375, -0.75])
    exact(el2n([[0.6, 0.4], [0.0, 1.0]], [1, 1]), [np.sqrt(0.72), 0.0])
    exact(el2n([[[0.6, 0.4]], [[0.0, 1.0]]], [1]), [np.sqrt(0.72) / 2])


def test_ragged_by_hand():
    loss = np.array([[3.0, 1.0, 2.0, NAN], [1.0, 2.0, NAN, NAN], [5.0, NAN, NAN, NAN]])
    length = [3, 2, 1, 0]
    exact(epoch_loss(loss, length=length), [3.0, 1.5, 2.0, NAN])
    exact(epoch_loss(loss, length=length, window=2), [3.0, 1.5, 2.0, NAN])  # the last two of each sample
    exact(epoch_loss(loss, length=length, window=1), [5.0, 2.0, 2.0, NAN])
    exact(epoch_loss(loss[:2], length=length), [2.0, 1.5, 2.0, NAN])  # a shorter trace with the same length
    exact(max_loss_increase(loss, length=length), [4.0, 1.0, NAN, NAN])
    correct = np.array([[1, 0, 0, -1], [0, 1, -1, -1], [1, -1, -1, -1]])
    exact(forgetting_events(correct, length=length), [1, 0, INF, NAN])
    exact(forgetting_events(correct, length=length, never_learned="npresentations"), [1, 0, 3, NAN])
    exact(presentations_needed(correct, length=length), [2, 1, 1, NAN])
    exact(epoch_accuracy(correct, length=length), [2 / 3, 0.5, 0, NAN])


def test_infinite_and_missing_losses():
    loss = np.array([[INF, 1.0, INF, 1.0], [INF, INF, 1.0, NAN], [INF, 0.0, 3.0, 5.0]])
    for kind, expected in (("running_minimum", [0, INF, 2, NAN]), ("consecutive", [0, INF, 2, NAN])):
        with pytest.warns(UserWarning, match=r"loss of 1 samples is NaN at some presentation \(samples \[3\]"):
            exact(max_loss_increase(loss, kind=kind), expected)
    with pytest.warns(UserWarning, match="selection keeps them"):
        exact(epoch_loss(loss), [INF, INF, INF, NAN])


def slow_scores(loss, correct, margin, length):
    """One sample at a time, as in the definitions."""
    scores = {name: [] for name in ("epoch_loss", "epoch_accuracy", "mli", "forgetting", "first_learned", "aum")}
    for sample, count in enumerate(length):
        a = [bool(x) for x in correct[:count, sample]]
        losses = [float(x) for x in loss[:count, sample]]
        rises = [value - min(losses[: t + 1]) for t, value in enumerate(losses)]
        events = sum(before and not after for before, after in itertools.pairwise(a))
        scores["epoch_loss"].append(sum(losses) / count if count else NAN)
        scores["epoch_accuracy"].append(sum(a) / count if count else NAN)
        scores["mli"].append(max(rises) if count > 1 else NAN)
        scores["forgetting"].append(NAN if not count else events if any(a) else INF)
        scores["first_learned"].append(a.index(True) if any(a) else NAN)
        scores["aum"].append(float(margin[:count, sample].astype(np.float64).sum()) / count if count else NAN)
    return scores


@pytest.mark.parametrize("block", [7, 1 << 14])
def test_slow_reference(monkeypatch, block):
    monkeypatch.setattr("clpack.pruning._running._BLOCK", block)
    random = np.random.default_rng(0)
    loss, margin = (random.exponential(size=(12, 40)).astype(np.float32) for _ in range(2))
    correct, length = random.random((12, 40)) < 0.3, random.integers(0, 13, 40)
    channels = {"loss": loss, "correct": correct, "margin": margin}
    for name, expected in slow_scores(loss, correct, margin, length).items():
        channel = channels[SCORES[name].requires[0]]
        scores = SCORES[name].function(channel, length=length)
        exact(scores, expected)
        assert scores.dtype == np.float64
        order = random.permutation(40)
        np.testing.assert_array_equal(SCORES[name].function(channel[:, order], length=length[order]), scores[order])
        tensors = SCORES[name].function(torch.from_numpy(channel), length=torch.from_numpy(length))
        np.testing.assert_array_equal(tensors, scores)


def test_other_number_types():
    loss = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        exact(max_loss_increase(loss.to(dtype).requires_grad_()), [0.0, 1.5])
    strided = np.asfortranarray(loss.numpy())
    exact(max_loss_increase(strided), [0.0, 1.5])
    exact(epoch_loss([[1, 2], [3, 4]]), [2.0, 3.0])
    assert max_loss_increase(np.zeros((3, 0))).shape == (0,)
    assert np.isnan(epoch_loss(np.zeros((0, 2)))).all()


def test_scoring_takes_little_memory_beside_the_trace():
    loss = np.random.default_rng(0).random((90, 60_000), dtype=np.float32)
    tracemalloc.start()
    max_loss_increase(loss)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.15 * loss.nbytes  # most of it the blocks, which do not grow with the trace


def test_aggregating_runs():
    runs = [[1.0, 2.0, NAN, INF], [3.0, 0.0, 1.0, 1.0]]
    exact(aggregate_runs(runs), [2.0, 1.0, NAN, INF])
    exact(aggregate_runs(runs, "sum"), [4.0, 2.0, NAN, INF])
    exact(aggregate_runs(runs, "max"), [3.0, 2.0, NAN, INF])
    exact(aggregate_runs(runs, "last"), [3.0, 0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="how must be one of mean, sum, max, last, got 'median'"):
        aggregate_runs(runs, "median")
    with pytest.raises(ValueError, match="scores is empty"):
        aggregate_runs([])
    with pytest.raises(ValueError, match=r"each of scores .* shape \(4,\), got shape \(2,\)"):
        aggregate_runs([runs[0], [1.0, 2.0]])


def test_random_scores():
    scores = random_scores(1000, generator=torch.Generator().manual_seed(4))
    np.testing.assert_array_equal(scores, random_scores(1000, generator=torch.Generator().manual_seed(4)))
    assert scores.dtype == np.float64
    assert 0 <= scores.min() < 0.02 < 0.98 < scores.max() < 1
    assert abs(scores.mean() - 0.5) < 0.05  # 5.5 standard errors
    with pytest.raises(ValueError, match="number of samples, got -1"):
        random_scores(-1)


def test_table():
    assert {name for name, score in SCORES.items() if score.remove == "highest"} == {
        *("epoch_loss", "aum", "gradient_loss", "caper", "random")
    }
    for name, score in SCORES.items():
        assert get_score(name) is score
        assert score.source
        assert (score.running is not None) == (score.requires in (("loss",), ("correct",), ("margin",)))
    with pytest.raises(ValueError, match="unknown score 'epochloss': did you mean 'epoch_loss'"):
        get_score("epochloss")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epoch_loss([1.0, 2.0]), r"loss must have shape \(T, N\).*got shape \(2,\)"),
        (lambda: epoch_loss([[1.0]], window=0), "window must be .* at least 1, got 0"),
        (lambda: epoch_accuracy([[1]], interval=0), "interval must be .* at least 1, got 0"),
        (lambda: epoch_loss([[1.0]], length=[1, 1]), r"length must hold one integer per sample, shape \(1,\), got"),
        (lambda: epoch_loss([[1.0]], length=[-1]), "length must not be negative, got -1 for sample 0"),
        (lambda: max_loss_increase([[1.0]], kind="steepest"), "kind must be .* got 'steepest'"),
        (lambda: forgetting_events([[2]]), "correct must hold 0 and 1 only, got 2"),
        (lambda: forgetting_events([[1], [-1]]), "got -1; if this marks missing presentations, pass length"),
        (lambda: forgetting_events([[1]], never_learned="zero"), "never_learned must be .* got 'zero'"),
        (lambda: forgetting_events([[1]], never_learned=-1), "never_learned must be .* got -1"),
        (lambda: el2n([0.5, 0.5], [0]), r"shape \(N, C\) or \(R, N, C\), got shape \(2,\)"),
        (lambda: el2n([[2.0, -1.0]], [0]), "non-negative rows that sum to 1.*softmax"),
        (lambda: el2n([[0.5, 0.5]], [2]), "targets must be labels from 0 to 1.*got 2 to 2"),
        (lambda: el2n([[0.5, 0.5]], [0, 1]), r"targets .* shape \(1,\), got shape \(2,\)"),
        (lambda: el2n(np.zeros((0, 2, 2)), [0, 1]), "probabilities holds no run"),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epoch_loss([["a"]]), "loss must hold numbers, got dtype"),
        (lambda: epoch_loss([[1.0]], length=[1.0]), "length must hold integers, got dtype float64"),
        (lambda: el2n([[0.5, 0.5]], [0.0]), "targets must hold integers, got dtype float64"),
        (lambda: aggregate_runs([["a"]]), "each of scores must hold numbers"),
    ],
)
def test_bad_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()
