"""Recording: against the original's loop, by hand, and online against the whole trace."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clpack.pruning import SCORES, OnlineTrace, Trace

TRACE_SCORES = [name for name, score in SCORES.items() if score.running]


def train_recorded(recording, *recorders):
    """The recorded training: linear softmax model, SGD with momentum, statistics before each update."""
    x, y, kept = recording["in_X"], recording["in_y"], recording["in_kept_original_ids"]
    weight, bias = (recording[name].clone().requires_grad_() for name in ("in_W0", "in_b0"))
    optimizer = torch.optim.SGD([weight, bias], recording["in_lr"].item(), recording["in_momentum"].item())
    for permutation in recording["in_epoch_permutations"]:
        for batch in permutation.split(recording["in_batch_size"].item()):
            ids = kept[batch]
            outputs = (x[ids] @ weight.T + bias).log_softmax(dim=1)
            for recorder in recorders:
                recorder.record(ids, outputs, y[ids])
            optimizer.zero_grad()
            F.cross_entropy(outputs, y[ids]).backward()
            optimizer.step()
    return weight, bias


def random_batches(num_samples, num_batches, *, seed=0, n_classes=5):
    """Batches in which samples come any number of times, and some rows are to be ignored."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_batches):
        ids = torch.randint(-1, num_samples - 1, (13,), generator=generator)  # the last sample never comes
        logits = 2 * torch.randn(13, n_classes, generator=generator)
        yield ids, logits, torch.randint(0, n_classes, (13,), generator=generator)


@pytest.mark.parametrize("seed", [11, 12])
def test_recording_of_the_original_loop(golden, seed):
    recording = golden(f"pruning/recording_s{seed}")
    trace, online = Trace(50), OnlineTrace(50, "mli")
    weight, bias = train_recorded(recording, trace, online)
    torch.testing.assert_close(weight, recording["out_W"], rtol=0, atol=1e-5)
    torch.testing.assert_close(bias, recording["out_b"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(trace.loss.T, recording["out_loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(trace.margin.T, recording["out_margin"], rtol=0, atol=1e-5)
    expected = recording["out_correct"].numpy()
    np.testing.assert_array_equal(np.where(trace.length[:, None] > np.arange(8), trace.correct.T, -1), expected)
    np.testing.assert_array_equal(trace.length, np.where(expected[:, 0] == -1, 0, 8))
    order = np.argsort(trace.first_seen)[trace.first_seen[np.argsort(trace.first_seen)] >= 0]
    np.testing.assert_array_equal(order, recording["out_first_seen_order"])
    np.testing.assert_array_equal(online.score(), trace.score("mli"))


def test_scoring_phase_of_epochloss(golden):
    recording = golden("epochloss/step1_trace")
    trace, online = Trace(48, num_presentations_hint=6), OnlineTrace(48, "epoch_loss")
    for logits, permutation in zip(recording["logits"], recording["perms"], strict=True):
        for ids in permutation.split(recording["batch_size"].item()):
            trace.record(ids, logits[ids], recording["y"][ids])
            online.record(ids, logits[ids], recording["y"][ids])
    np.testing.assert_allclose(trace.loss, recording["loss"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(100 * trace.score("epoch_loss"), recording["score"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(online.score(), trace.score("epoch_loss"))


def test_presentations_by_hand():
    trace = Trace(3)
    ln2 = np.log(2.0)
    # sample 1 comes twice in the batch, -1 is ignored, sample 2 never comes
    logits = torch.tensor([[0.0, 0.0], [3.0, 1.0], [9.0, 9.0], [1.0, 1.0 + ln2]])
    trace.record(torch.tensor([0, 1, -1, 1]), logits, torch.tensor([0, 1, 0, 1]))
    trace.record(torch.tensor([1]), torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    assert trace.length.tolist() == [1, 3, 0]
    assert trace.first_seen.tolist() == [0, 1, -1]
    nan = np.nan
    loss = [[ln2, np.log(1 + np.exp(2.0)), nan], [nan, np.log(1.5), nan], [nan, ln2, nan]]
    np.testing.assert_allclose(trace.loss, loss, rtol=1e-6)
    np.testing.assert_allclose(trace.margin, [[0, -2, nan], [nan, ln2, nan], [nan, 0, nan]], rtol=1e-6)
    # in a tie the first class wins: right for target 0, wrong for target 1
    assert trace.correct.tolist() == [[True, False, False], [False, True, False], [False, False, False]]
    assert (trace.loss.dtype, trace.correct.dtype, trace.margin.dtype) == (np.float32, np.bool_, np.float32)
    with pytest.raises(ValueError, match="read-only"):
        trace.loss[0, 0] = 1.0


def test_log_softmax_gives_the_same_numbers_as_logits():
    raw, normalized = Trace(9), Trace(9)
    for ids, logits, targets in random_batches(9, 5):
        raw.record(ids, logits, targets)
        normalized.record(ids, logits.log_softmax(dim=1), targets)
    np.testing.assert_allclose(raw.loss, normalized.loss, rtol=0, atol=2e-6)
    np.testing.assert_allclose(raw.margin, normalized.margin, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(raw.correct, normalized.correct)


def test_masked_classes_take_no_part():
    inf = torch.inf
    trace = Trace(3)
    logits = torch.tensor([[1.0, 2.0, -inf], [-inf, 5.0, -inf], [1.0, -inf, 0.0]])
    trace.record(torch.arange(3), logits, torch.tensor([0, 1, 1]))
    np.testing.assert_allclose(trace.loss[0], [np.log(1 + np.e), 0, np.inf], rtol=1e-6)
    np.testing.assert_array_equal(trace.margin[0], [-1, np.inf, -np.inf])
    assert trace.correct[0].tolist() == [False, True, False]


def test_a_single_output_is_always_right():
    trace = Trace(1)
    trace.record(torch.tensor([0]), torch.tensor([[-3.0]]), torch.tensor([0]))
    assert (trace.loss.item(), trace.correct.item(), trace.margin.item()) == (0.0, True, np.inf)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_become_float32(dtype):
    logits = torch.tensor([[0.5, -1.25, 2.0]], dtype=dtype)  # exact in all of them
    trace, reference = Trace(1), Trace(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace.record(torch.tensor([0]), logits.requires_grad_(), torch.tensor([0]))
    reference.record(torch.tensor([0]), logits.float(), torch.tensor([0]))
    assert trace.loss.item() == reference.loss.item()
    assert trace.margin.item() == reference.margin.item() == -1.5


def test_later_changes_of_the_batch_do_not_matter():
    ids, logits, targets = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    trace = Trace(2)
    trace.record(ids, logits, targets)
    for tensor in (ids, logits, targets):
        tensor.zero_()
    assert trace.correct.tolist() == [[True, True]]
    np.testing.assert_allclose(trace.loss, np.log(1 + np.exp(-1.0)), rtol=1e-6)


def test_a_model_that_grows():
    trace, apart = Trace(40), [Trace(40), Trace(40)]
    for n_classes, part in zip((3, 7), apart, strict=True):
        for batch in random_batches(40, 5, n_classes=n_classes):
            trace.record(*batch)
            part.record(*batch)
    old, new = apart
    for sample in range(40):
        joined = [*old.loss[: old.length[sample], sample], *new.loss[: new.length[sample], sample]]
        np.testing.assert_array_equal(trace.loss[: trace.length[sample], sample], joined)


def test_order_of_samples_and_batches_does_not_matter():
    steps = [next(random_batches(20, 1, seed=seed)) for seed in range(4)]
    one, other = Trace(20), Trace(20, num_presentations_hint=50)
    for ids, logits, targets in steps:
        one.record(ids, logits, targets)
        for row in torch.argsort(ids, stable=True).split(4):  # the presentations of a sample stay in order
            other.record(ids[row], logits[row], targets[row])
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.length, other.length)


@pytest.mark.parametrize("name", TRACE_SCORES)
def test_online_scores_are_those_of_the_whole_trace(name):
    trace, online = Trace(30), OnlineTrace(30, name)
    for batch in random_batches(30, 25):
        trace.record(*batch)
        online.record(*batch)
    assert trace.length.min() == 0  # ragged, and one sample that never came
    assert trace.length.max() > 12
    scores = online.score()
    np.testing.assert_array_equal(scores, trace.score(name))
    assert np.isfinite(scores).sum() > 20


@pytest.mark.parametrize(
    ("name", "options"),
    [("mli", {"kind": "consecutive"}), ("forgetting", {"never_learned": "npresentations"})],
)
def test_online_scores_take_options(name, options):
    trace, online = Trace(30), OnlineTrace(30, name, **options)
    for batch in random_batches(30, 25, n_classes=9):
        trace.record(*batch)
        online.record(*batch)
    np.testing.assert_array_equal(online.score(), trace.score(name, **options))
    assert not np.array_equal(online.score(), trace.score(name), equal_nan=True)


@pytest.mark.parametrize(
    "make", [lambda: Trace(30), lambda: OnlineTrace(30, "mli"), lambda: OnlineTrace(30, "forgetting")]
)
def test_resuming_in_the_middle(make):
    batches = list(random_batches(30, 20))
    straight, before, after = make(), make(), make()
    for batch in batches:
        straight.record(*batch)
    for batch in batches[:7]:
        before.record(*batch)
    after.load_state_dict(before.state_dict())
    before.record(*batches[0])  # the state is a copy
    for batch in batches[7:]:
        after.record(*batch)
    expected, state = straight.state_dict(), after.state_dict()
    assert state.keys() == expected.keys()
    for key in expected:
        np.testing.assert_array_equal(state[key], expected[key])


def test_a_full_waiting_list_is_moved_to_the_host(monkeypatch):
    batches = list(random_batches(30, 20))
    at_once, in_parts = Trace(30), Trace(30)
    for batch in batches:
        at_once.record(*batch)
    np.testing.assert_array_equal(at_once.length.sum(), sum((ids >= 0).sum() for ids, _, _ in batches))
    monkeypatch.setattr("clpack.pruning.trace._MAX_WAITING", 40)
    for batch in batches:
        in_parts.record(*batch)
        assert in_parts._num_waiting < 40
    for key, array in at_once.state_dict().items():
        np.testing.assert_array_equal(in_parts.state_dict()[key], array)


def test_saving_and_loading(tmp_path):
    trace = Trace(30)
    batches = list(random_batches(30, 20))
    for batch in batches[:10]:
        trace.record(*batch)
    trace.metadata = {"dataset": "digits", "seed": 3}
    trace.save(tmp_path / "run" / "trace.npz")
    loaded = Trace.load(tmp_path / "run" / "trace.npz")
    assert loaded.metadata == {"dataset": "digits", "seed": 3}
    for batch in batches[10:]:
        trace.record(*batch)
        loaded.record(*batch)
    for key, array in trace.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[key], array)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["trace.npz"]


def test_files_that_are_no_trace(tmp_path):
    path = tmp_path / "trace.npz"
    with pytest.raises(FileNotFoundError):
        Trace.load(path)
    Trace(2).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or no trace"):
        Trace.load(path)
    np.savez(path, loss=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="damaged or no trace.*Trace.save"):
        Trace.load(path)
    np.savez(path, header=np.array('{"format": "clpack trace", "version": 99, "metadata": {}}'))
    with pytest.raises(ValueError, match="version 1, got 'clpack trace' of 99"):
        Trace.load(path)
    np.savez(path, header=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="damaged or no trace"):
        Trace.load(path)


def test_stats_pickle_round_trip(tmp_path):
    trace = Trace(30)
    for batch in random_batches(30, 20):
        trace.record(*batch)
    trace.metadata = {"train": [50.0, 75.0], "test": [60.0], "model": "lost"}
    trace.to_stats_pickle(tmp_path / "a__stats_dict.pkl")
    stats = pickle.loads((tmp_path / "a__stats_dict.pkl").read_bytes())
    assert [*stats][-2:] == ["train", "test"]
    assert stats["train"] == [[], [50.0, 75.0]]
    order = np.argsort(trace.first_seen)
    assert [*stats][:-2] == order[trace.first_seen[order] >= 0].tolist()
    assert stats[4][1] == trace.correct[: trace.length[4], 4].astype(int).tolist()

    loaded = Trace.from_stats_pickle(tmp_path / "a__stats_dict.pkl", num_samples=30)
    assert loaded.metadata == {"train": [50.0, 75.0], "test": [60.0]}
    for name in ("loss", "correct", "margin", "length"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(trace, name))
    loaded.to_stats_pickle(tmp_path / "b__stats_dict.pkl")
    assert (tmp_path / "b__stats_dict.pkl").read_bytes() == (tmp_path / "a__stats_dict.pkl").read_bytes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_stats_pickles_with_numpy_objects(tmp_path, protocol):
    path = tmp_path / "stats.pkl"
    stats = {
        np.int64(3): [np.array([0.5, 0.25], dtype=np.float32), np.array([True, False]), [np.float32(1.5), -2]],
        1: np.asfortranarray(np.array([[2.0], [0.0], [-1.0]])),
        "train": [[], [np.float64(12.5)]],
        "test": [[], np.array([7.0], dtype=">f8")],
    }
    path.write_bytes(pickle.dumps(stats, protocol))
    trace = Trace.from_stats_pickle(path)
    assert trace.length.tolist() == [0, 1, 0, 2]
    assert trace.first_seen.tolist() == [-1, 1, -1, 0]
    nan = np.nan
    np.testing.assert_array_equal(trace.loss, [[nan, 2.0, nan, 0.5], [nan, nan, nan, 0.25]])
    np.testing.assert_array_equal(trace.margin, [[nan, -1.0, nan, 1.5], [nan, nan, nan, -2.0]])
    assert trace.correct[:, 3].tolist() == [True, False]
    assert trace.metadata == {"train": [12.5], "test": [7.0]}


class Runs:
    """Unpickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_stats_pickle_cannot_run_anything(tmp_path):
    path, touched = tmp_path / "stats.pkl", tmp_path / "touched"
    entry = [[0.5], [1], [2.0]]
    forbidden = {
        "posix.system": {0: entry, "x": Runs(os.system, f"touch {touched}")},
        "builtins.eval": Runs(eval, f"open({str(touched)!r}, 'w')"),
        "functools.partial": {0: entry, 1: [[0.5], [1], Runs(__import__("functools").partial, print)]},
        "collections.OrderedDict": {0: entry, 1: __import__("collections").OrderedDict()},
        "an array of object": {0: [np.array([None]), [1], [2.0]]},
        "an array of <U1": {0: [np.array(["a"]), [1], [2.0]]},
        "builtins.complex": {0: [[1j], [1], [2.0]]},
    }
    for found, content in forbidden.items():
        for protocol in (2, 4):
            path.write_bytes(pickle.dumps(content, protocol).replace(b"__builtin__", b"builtins"))
            with pytest.raises(ValueError, match=f"{found}.*holds numbers, strings, lists, dictionaries"):
                Trace.from_stats_pickle(path)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a dictionary, got list"),
        ({}, "holds no sample"),
        ({"valid": [[], []]}, "has the key 'valid'"),
        ({-1: [[], [], []]}, "has the key -1"),
        ({0: [[0.5], [1]]}, "three lists of equal length"),
        ({0: [[0.5], [1], []]}, "three lists of equal length"),
        ({0: [["a"], [1], [1]]}, "entry 0: expected lists of numbers"),
        ({0: 3}, "entry 0: expected lists of numbers"),
        ({0: [[[0.5]], [[1]], [[1]]]}, "entry 0: expected flat lists"),
        ({7: [[0.5], [1], [1]]}, "num_samples is 5, .* has a sample 7"),
    ],
)
def test_stats_pickles_of_another_layout(tmp_path, content, message):
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        Trace.from_stats_pickle(path, num_samples=5)


def test_damaged_stats_pickle(tmp_path):
    path = tmp_path / "stats.pkl"
    with pytest.raises(FileNotFoundError):
        Trace.from_stats_pickle(path)
    path.write_bytes(pickle.dumps({0: [[0.5], [1], [1]]})[:-5])
    with pytest.raises(ValueError, match="no stats pickle, or damaged"):
        Trace.from_stats_pickle(path)


def test_bad_batches():
    trace = Trace(4)
    ids, logits, targets = torch.tensor([0, 1]), torch.zeros(2, 3), torch.tensor([0, 2])
    for bad, message in (
        ((ids[:1], logits, targets), r"shapes \(B,\), \(B, C\) and \(B,\), got \(1,\), \(2, 3\)"),
        ((ids, logits[0], targets), "got .*, \\(3,\\)"),
        ((ids + 3, logits, targets), "from 0 to 3, or -1 to be ignored, got 3 to 4"),
        ((ids - 2, logits, targets), "got -2 to -1"),
        ((ids, logits, targets + 1), "targets must be from 0 to 2, as logits has 3 columns, got 1 to 3"),
        ((ids, logits, targets - 3), "got -3 to -1"),
    ):
        with pytest.raises(ValueError, match=message):
            trace.record(*bad)
    for bad, message in (
        (([0, 1], logits, targets), "ids must be a tensor, got list"),
        ((ids.float(), logits, targets), "ids must be an integer tensor, got dtype torch.float32"),
        ((ids, logits.long(), targets), "logits must be a floating-point tensor, got dtype torch.int64"),
        ((ids, logits, targets.float()), "targets must be an integer tensor"),
    ):
        with pytest.raises(TypeError, match=message):
            trace.record(*bad)
    assert trace.length.sum() == 0
    assert trace.loss.shape == (0, 4)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_samples .* at least 1, got 0"):
        Trace(0)
    with pytest.raises(ValueError, match="num_presentations_hint must be at least 1, got 0"):
        Trace(3, num_presentations_hint=0)
    with pytest.raises(ValueError, match="unknown score 'mlj': did you mean 'mli'"):
        OnlineTrace(3, "mlj")
    with pytest.raises(ValueError, match="'el2n' needs probabilities, targets.*call clpack.pruning.el2n"):
        OnlineTrace(3, "el2n")
    with pytest.raises(ValueError, match="'epoch_loss' takes window only with a whole trace; record a Trace"):
        OnlineTrace(3, "epoch_loss", window=3)
    with pytest.raises(ValueError, match="kind must be"):
        OnlineTrace(3, "mli", kind="largest")
    with pytest.raises(ValueError, match="needs model, images, targets"):
        Trace(3).score("grand")


def test_states_of_other_objects():
    state = Trace(4).state_dict()
    with pytest.raises(ValueError, match="last of size 3, got shape"):
        Trace(3).load_state_dict(state)
    with pytest.raises(ValueError, match="state must have the entries"):
        OnlineTrace(4, "mli").load_state_dict(state)
    state["length"] = state["length"] + 2
    with pytest.raises(ValueError, match="one row for each of the 2 presentations"):
        Trace(4).load_state_dict(state)
