"""Selection: recordings of the authors' programs, hand-worked cases, invariances, and bad input."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from clpack.pruning import (
    ClassCounts,
    class_median_distance,
    coverage_centric,
    keep_slice,
    moderate,
    random_sets,
    removal_order,
    select,
)
from clpack.pruning.selection import _strata

NAN, INF = np.nan, np.inf
EPOCHLOSS_CASES = [
    *("A_loss_p20", "A_loss_p33", "A_loss_p40", "A_loss_p60", "A_loss_w5_i1", "A_loss_w-1_i3", "A_loss_w6_i2"),
    *("A_loss_asc", "A_loss_nocap", "A_softmax_asc", "B_loss_p20", "B_loss_p40", "B_loss_p60"),
]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def is_partition(selection, n_samples):
    assert selection.kept.dtype == selection.removed.dtype == np.int64
    assert (np.diff(selection.kept) > 0).all()
    assert (np.diff(selection.removed) > 0).all()
    return sorted([*selection.kept, *selection.removed]) == [*range(n_samples)]


@pytest.mark.parametrize("case", EPOCHLOSS_CASES)
def test_recorded_epochloss_selection(golden, case):
    recording = golden("epochloss/selection")
    labels, scores = recording[f"{case[0]}_labels"], recording[f"{case}_score"]
    selection = select(
        scores,
        remove_fraction=recording[f"{case}_percent"].item() / 100,
        remove="lowest" if case.endswith("asc") else "highest",
        targets=labels,
        class_cap=None if case.endswith("nocap") else "balanced",
    )
    removed = recording[f"{case}_removed"].numpy()
    if "softmax" in case:  # many ties: the counts are the contract
        expected = np.bincount(labels, weights=removed)
        assert [selection.counts[label].removed for label in range(6)] == expected.tolist()
    else:
        np.testing.assert_array_equal(selection.kept, recording[f"{case}_kept"])
        np.testing.assert_array_equal(selection.removed, np.flatnonzero(removed))
    assert is_partition(selection, len(labels))


def test_recorded_scoring_phase_selection(golden):
    recording = golden("epochloss/step1_trace")
    selection = select(recording["score"], remove_fraction=0.4, targets=recording["y"], class_cap="balanced")
    np.testing.assert_array_equal(selection.kept, recording["kept"])
    assert len({*selection.removed} & {*recording["mislabelled"].tolist()}) >= 6


def test_recorded_random_removal(golden):
    recording = golden("epochloss/random")
    pattern = re.compile(r"N(\d+)_set(\d+)_trial(\d+)_p(\d+)_removed_sets")
    cases = [match for match in map(pattern.fullmatch, recording) if match]
    assert len(cases) == 36
    for match in cases:
        n, size, trial, percent = map(int, match.groups())
        selection = random_sets(n, remove_fraction=percent / 100, seed=trial, set_size=size)
        sets = recording[match.group()].numpy()
        expected = np.sort((sets[:, None] * size + np.arange(size)).ravel())
        np.testing.assert_array_equal(selection.removed, expected)
        kept = recording.get(match.group().replace("removed_sets", "kept_ids"))
        if kept is not None:
            np.testing.assert_array_equal(selection.kept, kept)


@pytest.mark.parametrize("seed", [11, 12])
def test_recorded_removal_options(golden, seed):
    recording = golden(f"pruning/removal_s{seed}")
    ordered = recording["in_ordered"].numpy()
    pattern = re.compile(r"out_\d+_(o|none)_remove(\d+)_keep(-?\d+)_sub(\d+)")
    cases = [match for match in map(pattern.fullmatch, recording) if match]
    assert len(cases) == 20
    for match in cases:
        order = ordered if match[1] == "o" else None
        remove_n, lowest, subsample = map(int, match.groups()[1:])
        options = {"remove_n": remove_n, "keep_lowest_n": lowest, "remove_subsample": subsample}
        selection = keep_slice(order, 60, **options, strict=False, generator=seeded(0))
        expected = recording[match.group()].numpy()
        assert len(selection.kept) == len(expected), match.group()
        assert is_partition(selection, 60)
        if subsample:  # random among the lowest: what is behind them stays
            assert {*ordered[lowest:]} <= {*selection.kept}
            assert {*ordered[lowest:]} <= {*expected}
        elif lowest >= 0:
            np.testing.assert_array_equal(selection.kept, np.sort(expected))


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_recorded_coverage_centric_selection(golden, seed):
    recording = golden(f"pruning/ccs_s{seed}")
    scores = recording["in_score"].numpy()
    for case in ("r10_m30", "r30_m20", "r50_m10", "r90_m0"):
        keep, cutoff = recording[f"in_{case}"].tolist()
        out = {name: array.numpy() for name, array in recording.below(f"out_{case}_").items()}
        remaining = out["kept_after_beta"]
        strata = _strata(scores[remaining].astype(np.float64), 50)
        np.testing.assert_array_equal(np.bincount(strata, minlength=50), out["stratum_counts"])
        selection = coverage_centric(scores, keep_fraction=keep, cutoff_fraction=cutoff, generator=seeded(1))
        assert len(selection.kept) == out["n_selected"]
        assert is_partition(selection, 300)
        assert {*selection.kept} <= {*remaining}
        drawn = np.bincount(strata[np.searchsorted(remaining, selection.kept)], minlength=50)
        shares = [sorted(zip(out["stratum_counts"], each, strict=True)) for each in (drawn, out["stratum_budgets"])]
        assert shares[0] == shares[1]  # up to permutation among strata of equal size


def test_recorded_moderate_selection(golden):
    recording = golden("pruning/moderate_s11")
    features, targets = recording["in_features"], recording["in_targets"]
    distances = class_median_distance(features, targets)
    np.testing.assert_allclose(distances, recording["out_distance"], rtol=0, atol=1e-9)
    for percent in (20, 50, 80):
        selection = moderate(features, targets, keep_fraction=percent / 100)
        np.testing.assert_array_equal(selection.removed, recording[f"out_dropped_rate{percent}"])
        assert sum(count.kept for count in selection.counts.values()) == len(selection.kept)


def test_select_by_hand():
    scores, targets = [5.0, 1.0, 4.0, 4.0, 0.0, NAN], [0, 0, 0, 1, 1, 1]

    def removed(**options):
        return select(scores, targets=targets, **options).removed.tolist()

    assert removed(remove_count=3) == [0, 2, 3]
    assert removed(remove_count=2) == [0, 2]  # the tie goes to the lower row
    assert removed(remove_count=2, remove="lowest") == [1, 4]
    assert removed(remove_fraction=0.25) == [0, 2]  # 1.5 is rounded to even
    assert removed(remove_fraction=0.42) == [0, 2, 3]  # 2.52
    assert removed(remove_fraction=0.0) == []
    assert removed(remove_count=5) == [0, 1, 2, 3, 4]  # the sample without a score stays
    assert removed(remove_count=4, class_cap=1) == [0, 3]
    assert removed(remove_count=4, class_cap="balanced") == [0, 2, 3, 4]  # the walk goes on past position 4
    assert removed(remove_count=5, min_per_class=2) == [0, 3]
    assert removed(remove_count=4, min_per_class=1) == [0, 2, 3, 4]
    assert removed(remove_count=5, min_per_class=9) == []
    selection = select(scores, remove_count=3, targets=targets)
    assert selection.kept.tolist() == [1, 4, 5]
    assert selection.counts == {0: ClassCounts(kept=1, removed=2), 1: ClassCounts(kept=2, removed=1)}
    assert select(scores, remove_count=3).counts == {}


def test_walk_against_a_loop():
    """Caps and minima against the walk of the definition, one sample after the other."""
    random = np.random.default_rng(3)
    for trial in range(30):
        n = int(random.integers(5, 60))
        scores, targets = random.integers(0, 8, n).astype(float), random.integers(0, 4, n) * 10
        count, cap, least = int(random.integers(0, n)), int(random.integers(0, 12)), int(random.integers(0, 4))
        taken, expected = dict.fromkeys(targets.tolist(), 0), []
        for sample in removal_order(scores):
            label = targets[sample].item()
            left = (targets == label).sum() - taken[label]
            if len(expected) < count and taken[label] < cap and left > least:
                taken[label] += 1
                expected.append(sample)
        selection = select(scores, remove_count=count, targets=targets, class_cap=cap, min_per_class=least)
        assert selection.removed.tolist() == sorted(expected), trial
        assert {label: count.removed for label, count in selection.counts.items()} == taken


def test_order_and_ties():
    scores = torch.tensor([1.0, 0.0, 1.0, INF, NAN, 0.0])
    assert removal_order(scores).tolist() == [3, 0, 2, 1, 5]
    assert removal_order(scores, remove="lowest").tolist() == [1, 5, 0, 2, 3]
    assert removal_order(scores, remove="lowest", tie_break=[5, 4, 3, 2, 1, 0]).tolist() == [5, 1, 2, 0, 3]
    assert removal_order([-INF, 0.0, INF]).tolist() == [2, 1, 0]


def test_random_ties_are_drawn_evenly_and_by_the_generator():
    scores = np.zeros(4)
    generator = seeded(0)
    first = [select(scores, remove_count=1, tie_break="random", generator=generator).removed[0] for _ in range(2000)]
    counts = np.bincount(first)
    assert np.abs(counts - 500).max() < 97  # 5 standard deviations
    torch.manual_seed(7)
    state = torch.get_rng_state()
    orders = [removal_order(np.zeros(50), tie_break="random", generator=seeded(5)).tolist() for _ in range(2)]
    assert orders[0] == orders[1] != sorted(orders[0])
    assert torch.equal(torch.get_rng_state(), state)
    # scores that differ are not touched
    assert removal_order(np.arange(50.0), tie_break="random", generator=seeded(5)).tolist() == [*range(49, -1, -1)]


def test_permuting_the_samples_permutes_the_selection():
    random = np.random.default_rng(0)
    scores, targets, order = random.random(60), random.integers(0, 3, 60), random.permutation(60)
    options = {"remove_fraction": 0.35, "class_cap": 6}
    plain = select(scores, targets=targets, **options)
    permuted = select(scores[order], targets=targets[order], **options)
    np.testing.assert_array_equal(np.sort(order[permuted.removed]), plain.removed)
    assert permuted.counts == plain.counts


def test_keep_slice_by_hand():
    order = [4, 2, 0, 3]  # sample 1 has no place
    assert keep_slice(order, 5, remove_n=2).kept.tolist() == [0, 1, 3]
    assert keep_slice(order, 5, remove_n=2, keep_lowest_n=1).kept.tolist() == [1, 3, 4]
    assert keep_slice(order, 5, remove_n=3, keep_lowest_n=3).kept.tolist() == [0, 1, 2, 4]
    assert keep_slice(order, 5, remove_n=9, strict=False).kept.tolist() == [1]
    assert keep_slice(None, 5, remove_n=3).kept.tolist() == [0, 1, 2, 3, 4]
    assert keep_slice([], 2).kept.tolist() == [0, 1]
    thinned = keep_slice(order, 5, keep_lowest_n=2, remove_subsample=1, generator=seeded(0), targets=[0, 0, 0, 0, 1])
    assert {0, 3} < {*thinned.kept.tolist()}
    assert len(thinned.kept) == 3
    assert 1 in thinned.removed
    assert sum(count.kept for count in thinned.counts.values()) == 3
    drawn = [keep_slice(order, 5, remove_n=2, keep_lowest_n=-1, generator=seeded(s)) for s in (0, 0, 1, 2, 3)]
    assert [len(selection.kept) for selection in drawn] == [3] * 5
    assert drawn[0].kept.tolist() == drawn[1].kept.tolist()
    assert len({tuple(selection.kept) for selection in drawn}) > 1


def test_coverage_by_hand():
    # after the cut-off of the lowest: strata [1, 1.5), ..., the last of them [2.5, 3]
    scores = [0.0, 1.0, 1.1, 1.2, 2.0, 3.0, NAN, 2.9]
    selection = coverage_centric(
        scores, keep_fraction=0.75, cutoff_fraction=0.125, n_strata=4, generator=seeded(0), targets=[0] * 7 + [1]
    )
    assert 0 in selection.removed  # cut off
    assert {4, 5, 6, 7} < {*selection.kept.tolist()}  # the sample without a score, and the small strata
    assert len({1, 2, 3} & {*selection.kept.tolist()}) == 2
    assert selection.counts[1] == ClassCounts(kept=1, removed=0)
    by_margin = coverage_centric(
        scores, keep_fraction=0.75, cutoff_fraction=0.125, cutoff_scores=-np.arange(8.0), generator=seeded(0)
    )
    assert 7 in by_margin.removed


@pytest.mark.parametrize("scores", [np.full(20, 2.0), np.full(20, -2.0), np.zeros(20), -np.arange(1.0, 21.0)])
def test_coverage_of_constant_and_negative_scores(scores):
    """The authors' code selects nothing of the first three, and loses the top sample of the last."""
    kept = {
        sample
        for seed in range(20)
        for sample in coverage_centric(scores, keep_fraction=0.5, cutoff_fraction=0, generator=seeded(seed)).kept
    }
    assert kept == {*range(20)}
    assert len(coverage_centric(scores, keep_fraction=1, cutoff_fraction=0).kept) == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select([1.0, 2.0]), "either remove_fraction or remove_count, got None and None"),
        (lambda: select([1.0, 2.0], remove_count=1, remove_fraction=0.5), "either remove_fraction or remove_count"),
        (lambda: select([1.0, 2.0], remove_fraction=1.0), r"remove_fraction must be in \[0, 1\), got 1.0"),
        (lambda: select([1.0, 2.0], remove_fraction=0.9), "at least one of 2 samples must be kept, got 2 to remove"),
        (lambda: select([1.0, 2.0], remove_count=2), "at least one of 2 samples must be kept, got 2 to remove"),
        (lambda: select([1.0, 2.0], remove_count=-1), "got -1 to remove"),
        (lambda: select([1.0, 2.0], remove_count=1.0), "got 1.0 to remove"),
        (lambda: select([], remove_fraction=0.5), "at least one of 0 samples must be kept"),
        (lambda: select([1.0, NAN, NAN], remove_count=2), "2 samples are to be removed, but only 1 of 3 have a score"),
        (lambda: select([1.0, 2.0], remove_count=1, remove="top"), "remove must be 'highest' or 'lowest', got 'top'"),
        (lambda: select([1.0, 2.0], remove_count=1, class_cap=1), "targets is missing"),
        (lambda: select([1.0, 2.0], remove_count=1, min_per_class=1), "targets is missing"),
        (lambda: select([1.0, 2.0], remove_count=1, min_per_class=-1), "min_per_class must not be negative, got -1"),
        (lambda: select([1.0, 2.0], remove_count=1, class_cap=-1, targets=[0, 0]), "class_cap must be .* got -1"),
        (lambda: select([1.0, 2.0], remove_count=1, class_cap="all", targets=[0, 0]), "class_cap must be .* 'all'"),
        (lambda: select([1.0, 2.0], remove_count=1, targets=[0]), r"targets .* shape \(2,\), got shape \(1,\)"),
        (lambda: select([1.0, 2.0], remove_count=1, tie_break="first"), "tie_break must be .* got 'first'"),
        (lambda: select([1.0, 2.0], remove_count=1, tie_break=[1]), r"tie_break must .* shape \(2,\)"),
        (lambda: select([[1.0, 2.0]], remove_count=1), r"scores must .* shape \(N,\), got shape \(1, 2\)"),
        (lambda: keep_slice([0, 1], 2, remove_n=3), "remove_n must be at most the 2 samples to choose from, got 3"),
        (lambda: keep_slice([0, 1], 2, remove_n=-1), "must not be negative, got -1 and 0"),
        (lambda: keep_slice([0, 2], 2), "order must hold rows from 0 to 1, got 0 to 2"),
        (lambda: keep_slice([0, 0], 2), "each row at most once"),
        (lambda: keep_slice([0, 1], 2, remove_subsample=2, keep_lowest_n=1), "must be at most keep_lowest_n.* got 2 a"),
        (lambda: keep_slice([0, 1], 2, remove_subsample=1, keep_lowest_n=3), "at most the 2 samples of order"),
        (lambda: keep_slice(None, 2, remove_subsample=1, keep_lowest_n=1), "order is missing"),
        (lambda: random_sets(10, remove_fraction=0.5, seed=0, set_size=3), "set_size must divide n_total=10, got 3"),
        (lambda: random_sets(10, remove_fraction=1.5, seed=0), "remove_fraction must be in"),
        (lambda: coverage_centric([1.0], keep_fraction=0, cutoff_fraction=0), "keep_fraction must be .* got 0 and 0"),
        (lambda: coverage_centric([1.0, INF], keep_fraction=1, cutoff_fraction=0), "scores must be finite"),
        (lambda: coverage_centric([1.0], keep_fraction=1, cutoff_fraction=0, n_strata=0), "n_strata must be at least"),
        (
            lambda: coverage_centric(np.arange(10.0), keep_fraction=0.9, cutoff_fraction=0.3),
            "asks for 9 samples beside the 0 without a score, but 7 remain",
        ),
        (lambda: moderate([[1.0]], [0], keep_fraction=1.1), r"keep_fraction must be in \(0, 1\], got 1.1"),
        (lambda: moderate([1.0], [0], keep_fraction=0.5), r"features must have shape \(N, D\), got shape \(1,\)"),
        (lambda: moderate([[NAN]], [0], keep_fraction=0.5), "features must be finite"),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_types():
    with pytest.raises(TypeError, match="scores must hold numbers"):
        select(["a", "b"], remove_count=1)
    with pytest.raises(TypeError, match="order must hold integer row numbers"):
        keep_slice([0.0, 1.0], 2)
    with pytest.raises(TypeError, match="targets must hold integers"):
        select([1.0, 2.0], remove_count=1, targets=[0.0, 1.0])
