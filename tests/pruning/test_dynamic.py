"""InfoBatch: recorded counts and schedules, unbiasedness, determinism, and resuming."""

from __future__ import annotations

import pytest
import torch

from clpack.pruning import InfoBatch


def with_losses(losses, num_epochs=8, **options):
    pruning = InfoBatch(len(losses), num_epochs, **{"seed": 0, **options})
    pruning.update(torch.arange(len(losses)), torch.as_tensor(losses))
    return pruning


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("percent", [30, 50, 80])
def test_recorded_counts(golden, seed, percent):
    recording = golden(f"pruning/infobatch_s{seed}")
    expected = {name: array.item() for name, array in recording.below(f"out_r{percent}_").items()}
    scores = recording["in_scores"]
    pruning = with_losses(scores, prune_probability=percent / 100, weight="nominal")
    indices, weights = pruning.begin_epoch(1)
    below = scores[indices] < scores.mean()
    assert len(indices) == expected["n_kept"]
    assert below.sum() == expected["n_kept_below"]
    assert weights[below].unique().tolist() == pytest.approx([expected["weight_of_kept_below"]], rel=1e-6)
    assert (weights[~below] == 1).all()
    assert (~below).sum() == len(scores) - expected["n_below"]  # all others stay
    exact = with_losses(scores, prune_probability=percent / 100)
    indices, weights = exact.begin_epoch(1)
    assert weights.max().item() == pytest.approx(expected["n_below"] / expected["n_kept_below"], rel=1e-6)
    assert weights.sum().item() == pytest.approx(len(scores), rel=1e-6)


@pytest.mark.parametrize(("num_epochs", "delta"), [(8, 875), (10, 875), (20, 500), (30, 875)])
def test_recorded_schedule(golden, num_epochs, delta):
    flags = golden("pruning/infobatch_s11")[f"out_schedule_E{num_epochs}_delta{delta}_pruned_flag"]
    pruning = with_losses(torch.arange(10.0), num_epochs, delta=delta / 1000)
    for epoch, pruned in enumerate(flags.tolist()):
        indices, weights = pruning.begin_epoch(epoch)
        assert (len(indices) < 10) == pruned
        assert (weights.max() > 1) == pruned  # no weight of the pruning epochs is left after them


def test_epochs_end_and_losses_come_back():
    """A whole training by hand: every epoch visits each of its samples once."""
    pruning = InfoBatch(6, 4, seed=0, delta=0.75)
    losses = torch.tensor([0.1, 0.2, 0.3, 5.0, 6.0, 7.0])  # three below the mean: one of them is kept
    sizes = []
    for epoch in range(4):
        indices, weights = pruning.begin_epoch(epoch)
        assert indices.dtype == torch.int64
        assert weights.dtype == torch.float32
        assert (indices.diff() > 0).all()
        for ids in indices.split(2):
            pruning.update(ids, losses[ids])
        sizes.append(len(indices))
        if len(indices) == 4:
            assert {3, 4, 5} < {*indices.tolist()}
            assert sorted(weights.tolist()) == [1, 1, 1, 3]
    assert sizes == [6, 4, 4, 6]


def test_weighted_losses_are_unbiased():
    losses = torch.tensor([0.1, 0.4, 0.2, 0.7, 0.3, 3.0, 4.0, 9.0])
    totals = torch.zeros(8)
    for seed in range(600):
        indices, weights = with_losses(losses, seed=seed).begin_epoch(1)
        totals[indices] += weights
    # a kept one of the 6 below the mean of 2.21 has weight 2 in 3 of 6 cases: standard error 1 / sqrt(600)
    torch.testing.assert_close(totals / 600, torch.ones(8), rtol=0, atol=5 / 600**0.5)
    assert (totals[5:] == 600).all()


def test_draws_depend_on_seed_and_epoch_only():
    losses = torch.rand(40)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    first = with_losses(losses, seed=3).begin_epoch(2)
    torch.manual_seed(6)
    again = with_losses(losses, seed=3)
    again.begin_epoch(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again.begin_epoch(2), strict=True))
    others = [with_losses(losses, seed=4).begin_epoch(2)[0], with_losses(losses, seed=3).begin_epoch(3)[0]]
    assert not any(torch.equal(first[0], other) for other in others)
    torch.set_rng_state(state)
    with_losses(losses).begin_epoch(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_resuming():
    before, after = with_losses(torch.rand(30)), InfoBatch(30, 8, seed=0)
    after.load_state_dict(before.state_dict())
    for epoch in (1, 2):
        indices, weights = before.begin_epoch(epoch)
        resumed = after.begin_epoch(epoch)
        assert torch.equal(indices, resumed[0])
        assert torch.equal(weights, resumed[1])
        losses = torch.rand(len(indices))
        before.update(indices, losses)
        after.update(indices, losses)
    with pytest.raises(ValueError, match=r"state\['losses'\] must have shape \(3,\), got \(30,\)"):
        InfoBatch(3, 8, seed=0).load_state_dict(before.state_dict())


def test_samples_without_a_finite_loss_stay():
    pruning = InfoBatch(6, 8, seed=0)
    assert len(pruning.begin_epoch(1)[0]) == 6
    nan, inf = torch.nan, torch.inf
    pruning.update(torch.tensor([0, 1, 2, 3, 4, -1]), torch.tensor([nan, inf, 0.0, 0.1, 4.0, -99.0]))
    for epoch in range(1, 6):
        indices, weights = pruning.begin_epoch(epoch)
        assert {0, 1, 4, 5} < {*indices.tolist()}  # 5 has none, -1 is ignored
        assert len(indices) == 5
        assert weights.max() == 2


def test_nothing_to_prune():
    assert len(with_losses(torch.ones(5)).begin_epoch(1)[0]) == 5  # all equal
    assert len(with_losses(torch.rand(5), prune_probability=0.0).begin_epoch(1)[0]) == 5
    indices, weights = with_losses([0.0, 1.0]).begin_epoch(1)  # half of one is none: keep it
    assert (indices.tolist(), weights.tolist()) == ([0, 1], [1, 1])


def test_bad_arguments():
    pruning = InfoBatch(3, 2, seed=0)
    ids = torch.tensor([0, 1])
    for call, message in (
        (lambda: InfoBatch(0, 2, seed=0), "num_samples and num_epochs must be at least 1, got 0 and 2"),
        (lambda: InfoBatch(3, 2, seed=0, prune_probability=0.95), r"prune_probability must be in \[0, 0.9\], got 0.95"),
        (lambda: InfoBatch(3, 2, seed=0, delta=1.5), r"delta must be in \[0, 1\], got 1.5"),
        (lambda: InfoBatch(3, 2, seed=0, weight="none"), "weight must be 'exact' or 'nominal', got 'none'"),
        (lambda: pruning.begin_epoch(2), "epoch must be from 0 to 1, got 2"),
        (lambda: pruning.update(ids, torch.zeros(3)), r"must both have shape \(B,\), got \(2,\) and \(3,\)"),
        (lambda: pruning.update(ids + 2, torch.zeros(2)), "ids must be from 0 to 2, or -1 to be ignored, got 2 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
