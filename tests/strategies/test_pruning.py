"""Recording, pruning and dynamic pruning inside Avalanche's loop."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
from avalanche.training.plugins import (
    EarlyStoppingPlugin,
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.supervised import Cumulative, Naive
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, WeightedRandomSampler

from clpack.optim import TAG as TAGOptimizer
from clpack.pruning import Trace, coverage_centric, max_loss_increase, select
from clpack.strategies import (
    SAMPLE_ID,
    TAG,
    InfoBatchPlugin,
    InMemoryLoaderPlugin,
    PruningPlugin,
    RandomStreamsPlugin,
    TracePlugin,
    attach_sample_ids,
    batch_field,
    dataset_field,
    decode_sample_ids,
    is_scoring,
    with_head,
)
from clpack.strategies.checkpoint import CheckpointPlugin, maybe_load_checkpoint, save_checkpoint

EPOCHS, BATCH = 3, 32


class Watch(SupervisedPlugin):
    """Notes the rows of every mini-batch and what the strategy says of it."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def before_train_dataset_adaptation(self, strategy, **kwargs):
        attach_sample_ids(strategy)

    def after_forward(self, strategy, **kwargs):
        experiences, rows = decode_sample_ids(batch_field(strategy, SAMPLE_ID))
        losses = F.cross_entropy(strategy.mb_output.detach(), strategy.mb_y, reduction="none")
        current = strategy.experience.current_experience
        epoch = strategy.clock.train_exp_epochs
        self.batches.append((current, epoch, is_scoring(strategy), experiences, rows, losses, strategy.mb_y.clone()))

    def checkpoint_state(self):
        return {}  # so that it notes the scoring phase, which takes everything else back

    def load_checkpoint_state(self, state):
        pass

    def rows(self, experience, *, scoring, epoch=None):
        """The rows of the experience itself, in order of presentation."""
        parts = [
            rows[of == experience]
            for current, when, phase, of, rows, _, _ in self.batches
            if current == experience and phase == scoring and epoch in (None, when)
        ]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def naive(model, plugins, *, optimizer=None, template=Naive, **options):
    options.setdefault("evaluator", EvaluationPlugin(loggers=[]))
    return template(
        model=model,
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        train_mb_size=BATCH,
        train_epochs=options.pop("train_epochs", EPOCHS),
        plugins=plugins,
        **options,
    )


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def train(strategy, stream):
    for experience in stream.train_stream:
        strategy.train(experience)
    return strategy


class TestTracePlugin:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_records_each_presentation_by_row(self, make_stream, make_model, num_workers):
        watch, plugin = Watch(), TracePlugin()
        strategy = naive(make_model(), [watch, plugin])
        strategy.train(make_stream(5).train_stream[1], num_workers=num_workers)
        trace = plugin.traces[1]
        assert trace.loss.shape == (EPOCHS, trace.num_samples)
        assert (trace.length == EPOCHS).all()
        for epoch in range(EPOCHS):
            seen = [batch for batch in watch.batches if batch[1] == epoch]
            rows = torch.cat([batch[4] for batch in seen])
            assert sorted(rows.tolist()) == list(range(trace.num_samples))
            np.testing.assert_allclose(trace.loss[epoch, rows], torch.cat([batch[5] for batch in seen]), atol=1e-6)

    @pytest.mark.parametrize("score", ["mli", "forgetting", "aum", "epoch_loss", "epoch_accuracy"])
    def test_scores_while_training_are_those_of_the_whole_trace(self, make_stream, make_model, score):
        whole, online = TracePlugin(), TracePlugin(score)
        train(naive(make_model(), [whole, online]), make_stream(2))
        for experience in (0, 1):
            expected = whole.traces[experience].score(score)
            np.testing.assert_array_equal(online.traces[experience].score(), expected)

    def test_replayed_samples_are_ignored_or_continue_their_trace(self, make_stream, make_model):
        ignoring, recording, watch = TracePlugin(), TracePlugin(replayed=True), Watch()
        train(naive(make_model(), [watch, ignoring, recording, ReplayPlugin(mem_size=20)]), make_stream(2))
        replays = torch.cat([batch[4][batch[3] == 0] for batch in watch.batches if batch[0] == 1])
        assert len(replays) > 0
        assert (ignoring.traces[0].length == EPOCHS).all()
        expected = EPOCHS + torch.bincount(replays, minlength=recording.traces[0].num_samples)
        np.testing.assert_array_equal(recording.traces[0].length, expected)
        np.testing.assert_array_equal(recording.traces[1].loss, ignoring.traces[1].loss)

    def test_oversampled_samples_are_presentations_of_their_own(self, digits, make_model):
        # A task-balanced loader shows the samples of the small task again and again within an epoch.
        from avalanche.benchmarks import dataset_benchmark
        from avalanche.benchmarks.utils import _make_taskaware_classification_dataset as task_data

        images, _ = digits
        parts = [task_data(images, task_labels=0).subset(range(100))]
        parts.append(task_data(images, task_labels=1).subset(range(100, 110)))
        stream = dataset_benchmark([parts[0].concat(parts[1])], [parts[0]])
        plugin = TracePlugin()
        naive(make_model(), [plugin], train_epochs=1).train(stream.train_stream[0])
        assert (plugin.traces[0].length[:100] == 1).all()
        assert (plugin.traces[0].length[100:] > 1).all()

    def test_saves_and_refuses(self, make_stream, make_model, tmp_path):
        plugin = TracePlugin(save_to=tmp_path)
        naive(make_model(), [plugin]).train(make_stream(5).train_stream[0])
        saved = Trace.load(tmp_path / "experience_000.npz")
        np.testing.assert_array_equal(saved.loss, plugin.traces[0].loss)
        assert saved.metadata == {"experience": 0, "epochs": EPOCHS}
        with pytest.raises(ValueError, match="needs a whole trace"):
            TracePlugin("mli", save_to=tmp_path)
        with pytest.raises(ValueError, match="no trace holds"):
            TracePlugin("grand")
        with pytest.raises(ValueError, match="score_options"):
            TracePlugin(score_options={"kind": "consecutive"})

    def test_masked_outputs_and_half_precision(self, make_stream, make_model):
        plugin = TracePlugin()
        strategy = TAG(
            model=with_head(make_model(), "masked"),
            lr=0.01,
            train_mb_size=BATCH,
            autocast=torch.bfloat16,
            plugins=[plugin],
            evaluator=EvaluationPlugin(loggers=[]),
        )
        train(strategy, make_stream(5, task_labels=True))
        assert all(np.isfinite(trace.loss).all() for trace in plugin.traces.values())


class TestPruning:
    @pytest.mark.parametrize("score", ["epoch_loss", "mli"])
    def test_removes_what_the_scores_say(self, make_stream, make_model, score):
        watch = Watch()
        plugin = PruningPlugin(score, remove_fraction=0.4, scoring_epochs=4, min_per_class=0)
        strategy = train(naive(make_model(), [watch, plugin]), make_stream(2))
        for experience in (0, 1):
            losses = [batch for batch in watch.batches if batch[0] == experience and batch[2]]
            trace = np.full((4, len(plugin.scores[experience])), np.nan)
            for _, epoch, _, _, rows, values, _ in losses:
                trace[epoch, rows] = values
            expected = trace.mean(axis=0) if score == "epoch_loss" else max_loss_increase(trace)
            np.testing.assert_allclose(plugin.scores[experience], expected, atol=1e-5)
            remove = "highest" if score == "epoch_loss" else "lowest"
            chosen = select(plugin.scores[experience], remove_fraction=0.4, remove=remove)
            np.testing.assert_array_equal(plugin.selections[experience].removed, chosen.removed)
            for epoch in range(EPOCHS):
                rows = watch.rows(experience, scoring=False, epoch=epoch)
                assert sorted(rows.tolist()) == chosen.kept.tolist()
        assert strategy.train_epochs == EPOCHS

    @pytest.mark.parametrize("streams", [True, False])
    @pytest.mark.parametrize(
        "others",
        [
            lambda model, optimizer: [],
            lambda model, optimizer: [ReplayPlugin(mem_size=40)],
            lambda model, optimizer: [EWCPlugin(0.5), LwFPlugin()],
            lambda model, optimizer: [SynapticIntelligencePlugin(0.1)],
            lambda model, optimizer: [LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5))],
        ],
        ids=["alone", "replay", "EWC and LwF", "SI", "scheduler"],
    )
    def test_without_removal_nothing_changes(self, make_stream, make_model, others, streams):
        results = []
        for pruned in (False, True):
            model = with_head(make_model(dropout=0.2), "incremental")
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            plugins = [RandomStreamsPlugin(3), InMemoryLoaderPlugin()] if streams else []
            plugins += [PruningPlugin(remove_fraction=0.0, scoring_epochs=3)] if pruned else [Watch()]
            evaluator = EvaluationPlugin(
                accuracy_metrics(minibatch=True, epoch=True, experience=True),
                loss_metrics(minibatch=True, epoch=True),
                loggers=[],
            )
            strategy = naive(
                model, plugins + others(model, optimizer), optimizer=optimizer, evaluator=evaluator, eval_every=2
            )
            torch.manual_seed(1)
            stream = make_stream(2)
            for experience in stream.train_stream:
                strategy.train(experience, eval_streams=[stream.test_stream[:1]])
            metrics = {
                name: values for name, values in evaluator.get_all_metrics().items() if not name.startswith("Pruning")
            }
            results.append((weights(model), optimizer.param_groups[0]["lr"], metrics, vars(strategy.clock)))
        (plain, plain_lr, plain_metrics, plain_clock), (ours, our_lr, our_metrics, our_clock) = results
        for left, right in zip(plain, ours, strict=True):
            assert torch.equal(left, right)
        assert plain_lr == our_lr
        assert plain_metrics == our_metrics
        assert plain_clock == our_clock

    @pytest.mark.parametrize("head", ["masked", "multi"])
    def test_with_tag_and_task_heads(self, make_stream, make_model, head):
        results = []
        for fraction in (None, 0.0, 0.4):
            model = with_head(make_model(), head)
            optimizer = TAGOptimizer(model.parameters(), 0.01)
            plugins = [RandomStreamsPlugin(0), Watch()]
            plugins += [] if fraction is None else [PruningPlugin(remove_fraction=fraction, scoring_epochs=2)]
            strategy = TAG(
                model=model,
                optimizer=optimizer,
                train_mb_size=BATCH,
                train_epochs=2,
                plugins=plugins,
                evaluator=EvaluationPlugin(loggers=[]),
            )
            results.append(weights(train(strategy, make_stream(5, task_labels=True)).model))
        plain, untouched, pruned = results
        assert all(torch.equal(left, right) for left, right in zip(plain, untouched, strict=True))
        assert not all(torch.equal(left, right) for left, right in zip(plain, pruned, strict=True))

    @pytest.mark.parametrize(("source", "share"), [("pruned", 0.0), ("full", 0.1)])
    def test_buffers_see_the_kept_samples_or_all(self, make_stream, make_model, source, share):
        replay = ReplayPlugin(mem_size=100)
        plugin = PruningPlugin(remove_fraction=0.5, scoring_epochs=1, buffer_source=source)
        watch = Watch()
        train(naive(make_model(), [watch, plugin, replay]), make_stream(2))
        experiences, rows = decode_sample_ids(dataset_field(replay.storage_policy.buffer, SAMPLE_ID))
        removed = [
            int(row in plugin.selections[int(experience)].removed)
            for experience, row in zip(experiences, rows, strict=True)
        ]
        assert np.mean(removed) == share if share == 0 else np.mean(removed) > share
        replayed = [batch for batch in watch.batches if batch[0] == 1 and (batch[3] == 0).any()]
        assert any(batch[2] for batch in replayed)  # the memory takes part in the scoring phase ...
        assert not all(batch[2] for batch in replayed)  # ... and after it
        assert all(len(batch[4]) == 2 * BATCH or batch is replayed[-1] for batch in replayed[:3])

    def test_metrics_and_loggers_hear_nothing_of_the_scoring_phase(self, make_stream, make_model):
        evaluator = EvaluationPlugin(accuracy_metrics(minibatch=True, epoch=True), loggers=[])
        plugin = PruningPlugin(remove_fraction=0.25, scoring_epochs=4)
        experience = make_stream(2).train_stream[0]
        naive(make_model(), [plugin], evaluator=evaluator).train(experience)
        metrics = evaluator.get_all_metrics()
        kept = len(plugin.selections[0].kept)
        steps = EPOCHS * -(-kept // BATCH)
        assert metrics["Top1_Acc_MB/train_phase/train_stream/Task000"][0] == list(range(steps))
        assert len(metrics["Top1_Acc_Epoch/train_phase/train_stream/Task000"][0]) == EPOCHS
        counts = plugin.selections[0].counts
        assert sorted(counts) == experience.classes_in_this_experience
        targets = np.asarray(experience.dataset.targets)
        for label, (stay, go) in counts.items():
            assert stay + go == (targets == label).sum()
            assert metrics[f"Pruning_Kept/train_phase/Exp000/Class{label:03d}"][1] == [stay]
            assert metrics[f"Pruning_Removed/train_phase/Exp000/Class{label:03d}"][1] == [go]
        assert metrics["Pruning_Kept_Fraction/train_phase/Exp000"][1] == [kept / len(targets)]
        assert metrics["Pruning_Score/train_phase/Exp000/Q100"][1] == [plugin.scores[0].max()]

    def test_without_reset_the_scoring_epochs_are_the_first(self, make_stream, make_model):
        watch, model = Watch(), make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        plugin = PruningPlugin(remove_fraction=0.4, scoring_epochs=1, reset=False)
        states = []

        class Look(SupervisedPlugin):
            def before_training_iteration(self, strategy, **kwargs):
                states.append(len(strategy.optimizer.state))

        strategy = naive(model, [watch, plugin, Look()], optimizer=optimizer)
        strategy.train(make_stream(2).train_stream[0])
        epochs = {batch[1]: batch[2] for batch in watch.batches}
        assert epochs == {0: True, 1: False, 2: False}
        first = sum(batch[1] == 0 for batch in watch.batches)
        assert states[0] == 0
        assert states[first - 1] > 0
        assert states[first] == 0  # the momentum is as it was at the start
        assert len(watch.rows(0, scoring=False, epoch=2)) == len(plugin.selections[0].kept)
        with pytest.raises(ValueError, match="must be more, got 3"):
            naive(model, [PruningPlugin(scoring_epochs=3, reset=False)]).train(make_stream(2).train_stream[0])

    def test_known_scores_need_no_training(self, make_stream, make_model):
        stream, watch = make_stream(2), Watch()
        sizes = [len(experience.dataset) for experience in stream.train_stream]
        scores = {index: torch.arange(size) * 37 % size for index, size in enumerate(sizes)}
        plugin = PruningPlugin("epoch_loss", remove_count=10, scores=scores)
        train(naive(make_model(), [watch, plugin]), stream)
        assert not any(batch[2] for batch in watch.batches)
        for index, size in enumerate(sizes):
            assert sorted(scores[index][plugin.selections[index].removed].tolist()) == list(range(size - 10, size))
        with pytest.raises(ValueError, match="no entry for experience 1"):
            train(naive(make_model(), [PruningPlugin(scores={0: scores[0]})]), stream)
        with pytest.raises(ValueError, match="one score for each of the"):
            train(naive(make_model(), [PruningPlugin(scores={0: scores[0][:-1]})]), stream)

    @pytest.mark.parametrize("score", ["random", "el2n", "grand", "gradient_loss"])
    def test_scores_that_no_trace_holds(self, make_stream, make_model, score):
        model = with_head(make_model(), "multi")
        plugin = PruningPlugin(score, remove_fraction=0.3, scoring_epochs=1, min_per_class=1, seed=7)
        train(naive(model, [plugin]), make_stream(2, task_labels=True))
        for experience in (0, 1):
            assert np.isfinite(plugin.scores[experience]).all()
            assert len(np.unique(plugin.scores[experience])) > len(plugin.scores[experience]) // 2

    def test_el2n_from_training(self, make_stream, make_model):
        watch = Watch()
        plugin = PruningPlugin("el2n", scoring_epochs=2, score_options={"source": "training"})
        outputs = {}

        class Outputs(SupervisedPlugin):
            def after_forward(self, strategy, **kwargs):
                if is_scoring(strategy):
                    rows = decode_sample_ids(batch_field(strategy, SAMPLE_ID))[1].tolist()
                    errors = strategy.mb_output.detach().double().softmax(1) - F.one_hot(strategy.mb_y, 10)
                    for row, norm in zip(rows, errors.norm(dim=1).tolist(), strict=True):
                        outputs.setdefault(row, []).append(norm)

        naive(make_model(), [watch, plugin, Outputs()]).train(make_stream(5).train_stream[0])
        expected = [np.mean(outputs[row]) for row in range(len(plugin.scores[0]))]
        np.testing.assert_allclose(plugin.scores[0], expected, atol=1e-9)

    def test_window_options_and_selection(self, make_stream, make_model):
        stream = make_stream(5)
        plugin = PruningPlugin("epoch_loss", scoring_epochs=4, score_options={"window": 2})
        watch = Watch()
        naive(make_model(), [watch, plugin]).train(stream.train_stream[0])
        late = [batch for batch in watch.batches if batch[2] and batch[1] >= 2]
        sums = np.zeros(len(plugin.scores[0]))
        for batch in late:
            sums[batch[4]] += batch[5].numpy()
        np.testing.assert_allclose(plugin.scores[0], sums / 2, atol=1e-5)

        chosen = functools.partial(coverage_centric, keep_fraction=0.3, cutoff_fraction=0.1)
        plugin = PruningPlugin("aum", scoring_epochs=2, selection=chosen)
        naive(make_model(), [plugin]).train(stream.train_stream[0])
        assert len(plugin.selections[0].kept) == int(0.3 * len(plugin.scores[0]))

    def test_a_stop_while_scoring_ends_the_scoring(self, make_stream, make_model):
        class StopEarly(SupervisedPlugin):
            def after_training_epoch(self, strategy, **kwargs):
                if is_scoring(strategy) and strategy.clock.train_exp_epochs == 1:
                    strategy.stop_training()

        watch, plugin = Watch(), PruningPlugin(scoring_epochs=6)
        train(naive(make_model(), [watch, plugin, StopEarly()]), make_stream(2))
        for experience in (0, 1):
            scored = {batch[1] for batch in watch.batches if batch[0] == experience and batch[2]}
            trained = {batch[1] for batch in watch.batches if batch[0] == experience and not batch[2]}
            assert (scored, trained) == ({0, 1}, {0, 1, 2})

    def test_results_are_saved(self, make_stream, make_model, tmp_path):
        plugin = PruningPlugin("mli", scoring_epochs=2, min_per_class=0, save_to=tmp_path)
        stream = make_stream(2)
        train(naive(make_model(), [plugin]), stream)
        with np.load(tmp_path / "experience_001.npz", allow_pickle=False) as saved:
            np.testing.assert_array_equal(saved["scores"], plugin.scores[1])
            np.testing.assert_array_equal(saved["kept"], plugin.selections[1].kept)
            np.testing.assert_array_equal(saved["removed_ids"], plugin.selections[1].removed + (1 << 32))
            np.testing.assert_array_equal(saved["targets"], np.asarray(stream.train_stream[1].dataset.targets))
            assert json.loads(str(saved["header"]))["score"] == "mli"

    def test_classes_do_not_vanish_unasked(self, make_stream, make_model):
        stream = make_stream(5)
        targets = np.asarray(stream.train_stream[0].dataset.targets)
        scores = {0: (targets == targets.max()).astype(float)}
        count = int(scores[0].sum())
        options = {"scores": scores, "remove_count": count}
        with pytest.raises(ValueError, match="all samples of class 1 of experience 0"):
            naive(make_model(), [PruningPlugin(**options)]).train(stream.train_stream[0])
        for minimum, kept in ((0, 0), (2, 2)):
            plugin = PruningPlugin(**options, min_per_class=minimum)
            naive(make_model(), [plugin]).train(stream.train_stream[0])
            assert plugin.selections[0].counts[1].kept == kept

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"score": "epochloss"}, "epoch_loss"),
            ({"remove_fraction": 1.0}, r"must be in \[0, 1\)"),
            ({"remove_fraction": 0.4, "remove_count": 3}, "either remove_fraction or remove_count"),
            ({"remove_count": -1}, "at least one of"),
            ({"scoring_epochs": 0}, "give at least 1"),
            ({"scoring_epochs": 1.5}, "number of epochs"),
            ({"tie_break": "first"}, "'index' or 'random'"),
            ({"buffer_source": "some"}, "'pruned' or 'full'"),
            ({"remove": "most"}, "'highest', 'lowest'"),
            ({"class_cap": "equal"}, "'balanced'"),
            ({"min_per_class": -1}, "must not be negative"),
            ({"score_options": {"kind": "consecutive"}}, "option of score 'epoch_loss' 'kind': .* window, interval"),
            ({"score_options": {"windw": 2}}, "did you mean 'window'"),
            ({"score_options": {"window": 2, "length": 3}}, "unknown option of score 'epoch_loss' 'length'"),
            ({"score": "epoch_accuracy", "score_options": {"interval": "a"}}, "interval must be a number of pres.*'a'"),
            ({"score_options": {"interval": 0}}, "interval must be a number of presentations, at least 1, got 0"),
            ({"score": "el2n", "score_options": {"source": "test"}}, "'checkpoint' or 'training'"),
            ({"remove_fraction": 0.5, "selection": coverage_centric}, "got both"),
            ({"min_per_class": 3, "selection": coverage_centric}, "got both"),
            ({"score": "el2n", "score_options": {"sorce": "training"}}, "source"),
            ({"score": "random", "score_options": {"window": 2}}, "option of score 'random'"),
            ({"score": "grand", "score_options": {"batchsize": 2}}, "batch_size"),
            ({"score": "grand", "score_options": {"targets": None}}, "unknown option .* 'targets'"),
            ({"score": "grand", "score_options": {"head": "linear"}}, "head must be a conv.* or linear layer, got str"),
            ({"score": "gradient_loss", "score_options": {"batch_size": 0}}, "batch_size must be at least 1, got 0"),
            ({"score": "caper", "score_options": {"targets": None}}, "unknown option of score 'caper' 'targets'"),
            ({"score": "caper", "score_options": {"perturbation": "gauss"}}, "'gaussian' or 'pgd', got 'gauss'"),
            ({"score": "caper", "score_options": {"num_trials": 0}}, "num_trials must be at least 1, got 0"),
            ({"score": "caper", "score_options": {"num_filters": 2.5}}, "num_filters must be an integer"),
            ({"score": "caper", "score_options": {"noise_std": -1}}, "noise_std must be finite and not negative"),
            ({"score": "caper", "score_options": {"noise_std": "a"}}, "noise_std must be a number, got 'a'"),
            ({"score": "caper", "score_options": {"layer": "layer4"}}, "layer must be a conv.* layer, got str"),
            ({"score": "caper", "score_options": {"generator": 1}}, "generator must be a torch.Generator or None, got"),
            ({"scores": {0: [1.0]}, "score_options": {"window": 2}}, "known scores"),
        ],
    )
    def test_bad_arguments(self, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            PruningPlugin(**options)

    def test_layers_must_be_those_of_the_model(self, make_stream, make_model):
        watch = Watch()
        plugin = PruningPlugin("grand", score_options={"head": nn.Linear(3, 2)})
        with pytest.raises(ValueError, match=r"score_options\['head'\] must be a layer of the model"):
            naive(make_model(), [watch, plugin]).train(make_stream(2).train_stream[0])
        assert not watch.batches  # before any training

    @pytest.mark.parametrize("fraction", [0.875, 0.95])
    def test_nearly_all_can_go(self, make_stream, make_model, fraction):
        plugin = PruningPlugin("random", remove_fraction=fraction, min_per_class=1)
        naive(make_model(), [plugin]).train(make_stream(2).train_stream[0])
        total = len(plugin.scores[0])
        assert len(plugin.selections[0].removed) == round(fraction * total)

    def test_a_window_in_the_removal_order(self, make_stream, make_model):
        experience = make_stream(2).train_stream[0]
        size = len(experience.dataset)
        scores = torch.arange(size) * 37 % size
        plugin = PruningPlugin("mli", scores={0: scores}, remove_count=20, skip_count=50)
        naive(make_model(), [plugin]).train(experience)
        assert sorted(scores[plugin.selections[0].removed].tolist()) == list(range(50, 70))
        for options in ({"skip_count": -1}, {"skip_count": 5, "class_cap": 3}):
            with pytest.raises(ValueError, match="skip_count"):
                PruningPlugin(**options)

    def test_removed_samples_do_not_come_back(self, make_stream, make_model):
        watch, plugin = Watch(), PruningPlugin(scoring_epochs=1, min_per_class=0)
        train(
            naive(make_model(), [watch, plugin], template=Cumulative, criterion=nn.CrossEntropyLoss()), make_stream(2)
        )
        later = torch.cat([batch[4][batch[3] == 0] for batch in watch.batches if batch[0] == 1])
        assert len(later) > 0
        assert not set(later.tolist()) & set(plugin.selections[0].removed.tolist())

    @pytest.mark.parametrize("first", [True, False])
    def test_early_stopping_waits_for_the_training(self, make_stream, make_model, first):
        watch, stream = Watch(), make_stream(2)
        stopping = EarlyStoppingPlugin(patience=2, val_stream_name="test_stream")
        pruning = PruningPlugin(scoring_epochs=6, min_per_class=0)
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
        strategy = naive(
            make_model(),
            [watch, stopping, pruning] if first else [watch, pruning, stopping],
            evaluator=evaluator,
            eval_every=1,
            train_epochs=12,
        )
        strategy.train(stream.train_stream[0], eval_streams=[stream.test_stream])
        assert len({batch[1] for batch in watch.batches if batch[2]}) == 6
        assert len({batch[1] for batch in watch.batches if not batch[2]}) >= 2
        assert stopping.patience == 2

    def test_an_interrupted_scoring_leaves_a_strategy_that_works(self, make_stream, make_model):
        class Interrupt(SupervisedPlugin):
            armed = True

            def after_training_iteration(self, strategy, **kwargs):
                if Interrupt.armed and strategy.clock.train_exp_epochs == 1:
                    Interrupt.armed = False
                    raise KeyboardInterrupt

        stream, model = make_stream(2), make_model()
        evaluator = EvaluationPlugin(accuracy_metrics(epoch=True, stream=True), loggers=[])
        plugin = PruningPlugin(scoring_epochs=3, min_per_class=0)
        strategy = naive(model, [plugin, Interrupt()], evaluator=evaluator)
        before = weights(model)
        with pytest.raises(KeyboardInterrupt):
            strategy.train(stream.train_stream[0])
        assert strategy.eval(stream.test_stream)
        strategy.train(stream.train_stream[0])
        assert len(plugin.selections[0].kept) > 0
        assert strategy.train_epochs == EPOCHS
        assert len(evaluator.get_all_metrics()["Top1_Acc_Epoch/train_phase/train_stream/Task000"][0]) == EPOCHS
        assert not torch.equal(before[0], weights(model)[0])

    def test_a_refused_selection_leaves_a_strategy_that_works(self, make_stream, make_model):
        stream, model = make_stream(5), make_model()
        targets = np.asarray(stream.train_stream[0].dataset.targets)
        plugin = PruningPlugin(scores={0: targets.astype(float)}, remove_count=int((targets == 1).sum()))
        evaluator = EvaluationPlugin(accuracy_metrics(stream=True), loggers=[])
        strategy = naive(model, [plugin], evaluator=evaluator)
        with pytest.raises(ValueError, match="all samples of class 1"):
            strategy.train(stream.train_stream[0])
        assert evaluator.active
        plugin.min_per_class = 1
        strategy.train(stream.train_stream[0])
        assert strategy.eval(stream.test_stream)

    def test_a_stop_from_behind_is_an_error(self, make_stream, make_model):
        class StopInFront(SupervisedPlugin):
            def before_training_epoch(self, strategy, **kwargs):
                if strategy.clock.train_exp_epochs == 1:
                    strategy.stop_training()

        with pytest.raises(RuntimeError, match="put that plugin before PruningPlugin"):
            naive(make_model(), [PruningPlugin(scoring_epochs=3), StopInFront()]).train(make_stream(2).train_stream[0])

    def test_an_experience_comes_again_with_replay(self, make_stream, make_model):
        watch, plugin = Watch(), PruningPlugin("random", remove_fraction=0.5)
        strategy = naive(make_model(), [watch, plugin, ReplayPlugin(mem_size=100, batch_size_mem=4)], train_epochs=1)
        experience = make_stream(2).train_stream[0]
        strategy.train(experience)
        visits = [len(watch.batches)]
        strategy.train(experience)
        assert len(watch.batches) - visits[0] == visits[0]  # the memory does not make the epoch longer

    def test_other_samplers_and_small_rests(self, make_stream, make_model):
        class Weighted(SupervisedPlugin):
            def before_training_exp(self, strategy, **kwargs):
                sampler = WeightedRandomSampler(torch.ones(len(strategy.adapted_dataset)), 64)
                strategy.dataloader = DataLoader(strategy.adapted_dataset, batch_size=8, sampler=sampler)

        experience = make_stream(2).train_stream[0]
        with pytest.raises(TypeError, match="cannot be narrowed"):
            naive(make_model(), [Weighted(), PruningPlugin("random")]).train(experience)
        size = len(experience.dataset)
        few = PruningPlugin("random", remove_count=size - BATCH + 1)
        with pytest.raises(ValueError, match="fewer than a mini-batch"):
            naive(make_model(), [few]).train(experience, drop_last=True)
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
        with (
            pytest.warns(UserWarning, match="one is left over"),
            pytest.raises(ValueError, match="more than 1 value per channel"),
        ):
            naive(model, [PruningPlugin("random", remove_count=size - BATCH - 1)]).train(experience)

    def test_bad_arguments_that_training_shows(self, make_stream, make_model):
        experience = make_stream(5).train_stream[0]
        with pytest.raises(ValueError, match="at least one of the"):
            naive(make_model(), [PruningPlugin(remove_count=10_000)]).train(experience)
        with pytest.raises(ValueError, match="more than one PruningPlugin"):
            naive(make_model(), [PruningPlugin(), PruningPlugin()]).train(experience)
        with pytest.raises(ValueError, match="RandomStreamsPlugin must come before"):
            naive(make_model(), [PruningPlugin(), RandomStreamsPlugin(0)]).train(experience)
        plugin = TracePlugin()
        naive(make_model(), [plugin]).train(experience)
        with pytest.raises(ValueError, match="another stream"):
            naive(make_model(), [plugin]).train(make_stream(2).train_stream[0])
        with pytest.warns(UserWarning, match="forgetting counts equal"):
            PruningPlugin("forgetting", scoring_epochs=3)


class TestInfoBatch:
    def test_skips_and_weighs_up(self, make_stream, make_model):
        watch, plugin = Watch(), InfoBatchPlugin(seed=4)
        strategy = naive(make_model(), [watch, plugin], train_epochs=8)
        experience = make_stream(2).train_stream[0]
        strategy.train(experience)
        sizes = [len(watch.rows(0, scoring=False, epoch=epoch)) for epoch in range(8)]
        total = len(experience.dataset)
        assert sizes[0] == sizes[7] == total  # no history at first, annealing at last
        assert all(size < total for size in sizes[1:7])
        assert plugin.presentations == {0: (sum(sizes), 8 * total)}

    def test_the_loss_is_the_weighted_mean(self, make_stream, make_model):
        losses = []

        class Look(SupervisedPlugin):
            def before_backward(self, strategy, **kwargs):
                rows = decode_sample_ids(batch_field(strategy, SAMPLE_ID))[1]
                each = F.cross_entropy(strategy.mb_output, strategy.mb_y, reduction="none")
                losses.append((strategy.loss.item(), float((plugin._weights[rows] * each.detach()).mean())))

        plugin = InfoBatchPlugin()
        naive(make_model(), [plugin, Look()], train_epochs=4).train(make_stream(2).train_stream[0])
        found, expected = map(np.array, zip(*losses, strict=True))
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_the_weights_make_the_sum_that_of_the_full_data(self, make_stream, make_model):
        sums = {}

        class Look(SupervisedPlugin):
            def before_backward(self, strategy, **kwargs):
                epoch = strategy.clock.train_exp_epochs
                sums[epoch] = sums.get(epoch, 0.0) + strategy.loss.item() * len(strategy.mb_y)

        # With a learning rate of 0 the losses stay as they are, label smoothing included.
        model = make_model()
        strategy = naive(
            model,
            [InfoBatchPlugin(), Look()],
            optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
            criterion=nn.CrossEntropyLoss(label_smoothing=0.2),
            train_epochs=40,
        )
        strategy.train(make_stream(2).train_stream[0])
        full, pruned = sums[0], [sums[epoch] for epoch in range(1, 34)]
        assert np.std(pruned) > 0
        assert np.mean(pruned) == pytest.approx(full, rel=0.01)

    def test_other_criteria_and_several_tasks_are_refused(self, make_stream, make_model):
        experience = make_stream(2).train_stream[0]
        for criterion in (nn.CrossEntropyLoss(weight=torch.ones(10)), nn.NLLLoss()):
            with pytest.raises(ValueError, match="CrossEntropyLoss without class weights"):
                naive(make_model(), [InfoBatchPlugin()], criterion=criterion).train(experience)

    def test_with_replay(self, make_stream, make_model):
        watch, plugin = Watch(), InfoBatchPlugin()
        train(naive(make_model(), [watch, plugin, ReplayPlugin(mem_size=40)], train_epochs=5), make_stream(2))
        shown, full = plugin.presentations[1]
        assert len(watch.rows(1, scoring=False)) == shown < full
        assert any((batch[3] == 0).any() for batch in watch.batches if batch[0] == 1 and batch[1] == 2)

    def test_goes_with_no_other_pruning(self, make_stream, make_model):
        with pytest.raises(ValueError, match="several pruning plugins"):
            naive(make_model(), [PruningPlugin(), InfoBatchPlugin()]).train(make_stream(2).train_stream[0])


class Killed(Exception):
    """What a kill looks like from inside."""


class KillAt(SupervisedPlugin):
    def __init__(self, step):
        super().__init__()
        self.step, self.steps = step, 0

    def after_training_iteration(self, strategy, **kwargs):
        self.steps += 1
        if self.steps == self.step:
            raise Killed

    def checkpoint_state(self):
        return {}

    def load_checkpoint_state(self, state):
        pass


@pytest.mark.parametrize(("mode", "step"), [("iteration", 4), ("iteration", 27), ("epoch", 21), ("iteration", 45)])
@pytest.mark.parametrize("method", ["pruning", "resume", "infobatch", "full trace"])
def test_killed_runs_end_in_the_same_bits(make_stream, make_model, tmp_path, method, step, mode):
    def run(path, kill_at):
        stream = make_stream(2)
        model = with_head(make_model(dropout=0.2), "incremental")
        options = {"pruning": {}, "resume": {"reset": False}, "full trace": {"score_options": {"window": 2}}}
        pruning = InfoBatchPlugin() if method == "infobatch" else PruningPlugin(scoring_epochs=2, **options[method])
        trace = TracePlugin()
        every = 3 if mode == "iteration" else 1
        strategy = naive(
            model,
            [
                CheckpointPlugin(path, save_every=every, mode=mode, unique_objects=stream),
                RandomStreamsPlugin(0),
                InMemoryLoaderPlugin(),
                trace,
                pruning,
                ReplayPlugin(mem_size=40),
                KillAt(kill_at),
            ],
            optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        )
        strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=stream)
        for experience in stream.train_stream[start:]:
            strategy.train(experience)
            save_checkpoint(strategy, path, unique_objects=stream)
        return model, trace, pruning

    model, trace, pruning = run(tmp_path / "whole.safetensors", None)
    with pytest.raises(Killed):
        run(tmp_path / "killed.safetensors", step)
    resumed_model, resumed_trace, resumed_pruning = run(tmp_path / "killed.safetensors", None)
    for left, right in zip(model.parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(left, right)
    for experience in (0, 1):
        np.testing.assert_array_equal(resumed_trace.traces[experience].loss, trace.traces[experience].loss)
    if method == "infobatch":
        assert resumed_pruning.presentations == pruning.presentations
    else:
        for experience in (0, 1):
            np.testing.assert_array_equal(resumed_pruning.scores[experience], pruning.scores[experience])
            np.testing.assert_array_equal(
                resumed_pruning.selections[experience].kept, pruning.selections[experience].kept
            )
