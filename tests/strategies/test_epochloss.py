"""Adversarial training, subnetworks, the plateau rule, and EpochLoss, which is made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from safetensors.torch import save_file
from torch import nn

from clpack.attacks import corrupt, pgd
from clpack.models import MLP
from clpack.randomness import generator_for
from clpack.strategies import (
    AccuracyMatrix,
    AdversarialTrainingPlugin,
    EpochLoss,
    InMemoryLoaderPlugin,
    PlateauPlugin,
    PruningPlugin,
    RandomStreamsPlugin,
    SubnetworkPlugin,
    is_scoring,
    robust_accuracy_metrics,
    with_head,
)
from clpack.strategies.checkpoint import CheckpointPlugin, maybe_load_checkpoint, save_checkpoint


@pytest.fixture
def make_stream(make_stream):
    """Streams with a validation part: the first 30 samples of each experience."""

    def make(n_experiences=5, task_labels=True):
        stream = make_stream(n_experiences, task_labels, class_ids_from_zero_in_each_exp=task_labels)
        parts = [experience.dataset for experience in stream.train_stream]
        return dataset_benchmark(
            [part.subset(range(30, len(part))) for part in parts],
            [experience.dataset for experience in stream.test_stream],
            other_streams_datasets={"valid": [part.subset(range(30)) for part in parts]},
        )

    return make


class Watch(SupervisedPlugin):
    """Notes something of every iteration; not to be taken back by pruning."""

    def __init__(self, what):
        super().__init__()
        self.what, self.notes = what, []

    def after_forward(self, strategy, **kwargs):
        self.notes.append(self.what(strategy))

    def checkpoint_state(self):
        return {}

    def load_checkpoint_state(self, state):
        pass


def quiet(*metrics):
    return EvaluationPlugin(*metrics, loggers=[])


def naive(model, plugins, *, train_epochs=2, evaluator=None, lr=0.1):
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True),
        train_mb_size=32,
        train_epochs=train_epochs,
        plugins=plugins,
        evaluator=evaluator or quiet(),
    )


class Conv(nn.Module):
    """A small network with normalization by the batch, as EpochLoss has it."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.num_features = 12
        self.linear = nn.Linear(12, 2)

    def features(self, images):
        hidden = self.bn1(self.conv1(images)).relu()
        return self.bn2(self.conv2(hidden)).relu().mean(dim=(2, 3))

    def forward(self, images):
        return self.linear(self.features(images))


class TestAdversarialTraining:
    def test_every_batch_is_the_attacked_one(self, make_stream, make_model):
        stream, seen = make_stream(2), []

        class Look(SupervisedPlugin):
            def before_training_iteration(self, strategy, **kwargs):
                self.clean, self.state = strategy.mb_x.clone(), strategy.model.state_dict()
                if strategy.clock.train_epoch_iterations == 0:
                    self.generator = generator_for(3, "training attack", 0, strategy.clock.train_exp_epochs)

            def after_forward(self, strategy, **kwargs):
                expected = pgd(
                    strategy.model,
                    self.clean,
                    strategy.mb_y,
                    steps=4,
                    generator=self.generator,
                    task_labels=strategy.mb_task_id,
                )
                seen.append(torch.equal(strategy.mb_x, expected))
                assert strategy.model.training

        plugin = AdversarialTrainingPlugin(seed=3, steps=4)
        naive(with_head(make_model(dropout=0.2), "multi"), [plugin, Look()]).train(stream.train_stream[0])
        assert seen
        assert all(seen)

    def test_corruptions_and_no_attack_while_scoring(self, make_stream, make_model):
        changed = Watch(lambda strategy: (is_scoring(strategy), bool((strategy.mb_x * 16 % 1).any())))
        plugins = [
            PruningPlugin(scoring_epochs=1, min_per_class=0),
            AdversarialTrainingPlugin("gaussian_noise", severity=2),
            changed,
        ]
        naive(make_model(2), plugins).train(make_stream(5).train_stream[0])
        assert set(changed.notes) == {(True, False), (False, True)}

    def test_with_replay_the_memory_is_attacked_too(self, make_stream, make_model):
        whole = Watch(lambda strategy: (len(strategy.mb_x), bool((strategy.mb_x * 16 % 1).flatten(1).any(1).all())))
        strategy = naive(make_model(), [AdversarialTrainingPlugin(steps=1), ReplayPlugin(mem_size=40), whole])
        for experience in make_stream(2, task_labels=False).train_stream:
            strategy.train(experience)
        assert max(size for size, _ in whole.notes) == 64
        assert all(attacked for _, attacked in whole.notes)

    def test_bad_arguments(self):
        for name, options, message in (
            ("pdg", {}, "pgd"),
            ("pgd", {"epsilon": 0.1}, "eps"),
            ("pgd", {"eps": -1.0}, "must not be negative"),
            ("rotate", {"severity": 9}, "severity"),
        ):
            with pytest.raises((ValueError, TypeError), match=message):
                AdversarialTrainingPlugin(name, **options)
        with pytest.raises(TypeError, match="has an option 'sevrity'"):
            robust_accuracy_metrics(("gaussian_noise",), sevrity=2)


class TestRobustAccuracy:
    def test_matrices_of_clean_and_attacked_accuracy(self, make_stream, make_model):
        stream = make_stream(2)
        clean = AccuracyMatrix()
        robust, noisy = robust_accuracy_metrics(("pgd", "gaussian_noise"), steps=3, eps=0.1, step_size=0.05, severity=2)
        evaluator = quiet(clean, robust, noisy)
        model = with_head(make_model(), "multi")
        strategy = naive(model, [], evaluator=evaluator, train_epochs=5)
        for experience in stream.train_stream:
            strategy.train(experience)
            strategy.eval(stream.test_stream)
        assert (robust.matrix.diagonal() < clean.matrix.diagonal()).all()
        data = stream.test_stream[1].dataset
        images, targets = torch.stack([data[k][0] for k in range(len(data))]), torch.tensor(list(data.targets))
        labels = torch.ones(len(data), dtype=torch.int64)
        model.eval()
        generator = generator_for(0, "evaluation attack", "gaussian_noise", 1)
        parts = [corrupt(part, "gaussian_noise", 2, generator=generator) for part in images.split(32)]
        hits = torch.cat([model(part, labels[: len(part)]).argmax(1) for part in parts]) == targets
        assert noisy.matrix[1, 1] == hits.double().mean().item()
        values = evaluator.get_last_metrics()
        assert values["Average_Accuracy/eval_phase/test_stream"] == clean.matrix[:, 1].mean()
        options = "eps=0.1_step_size=0.05_steps=3"
        assert values[f"Average_Accuracy_pgd_{options}/eval_phase/test_stream"] == robust.matrix[:, 1].mean()

    def test_repeats_itself_and_leaves_the_model_alone(self, make_stream, make_model):
        stream, results = make_stream(5), []
        (robust,) = robust_accuracy_metrics(("pgd",), steps=2)
        strategy = naive(with_head(Conv(), "multi"), [], evaluator=quiet(robust))
        strategy.train(stream.train_stream[0])
        for _ in range(2):
            state = {name: value.clone() for name, value in strategy.model.state_dict().items()}
            strategy.eval(stream.test_stream[:1])
            results.append(robust.matrix[0, 0])
            assert all(torch.equal(value, state[name]) for name, value in strategy.model.state_dict().items())
        assert results[0] == results[1]


class TestSubnetworks:
    @pytest.mark.parametrize("bn", ["shared", "per_task"])
    def test_earlier_tasks_are_kept(self, make_stream, bn):
        torch.manual_seed(0)
        stream, plugin = make_stream(2), SubnetworkPlugin(finetune_epochs=1, bn=bn)
        strategy = naive(with_head(Conv(), "multi"), [plugin])
        weights, outputs = [], []

        def look(strategy):
            data = stream.test_stream[0].dataset
            images = torch.stack([data[k][0] for k in range(40)])
            strategy.model.eval()
            with torch.no_grad(), plugin.subnetworks.view(0):
                outputs.append(strategy.model(images, 0))
                weights.append(strategy.model.model.conv2.weight.clone())

        for experience in stream.train_stream:
            strategy.train(experience)
            look(strategy)
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(outputs[0], outputs[1]) == (bn == "per_task")
        assert plugin.tasks == {0: 0, 1: 1}
        share = (plugin.subnetworks.mask(0)["conv2.weight"]).double().mean().item()
        assert share == pytest.approx(0.35, abs=0.01)

    @pytest.mark.parametrize("other", [lambda: ReplayPlugin(20), lambda: LwFPlugin(1.0, 2.0)], ids=["replay", "LwF"])
    def test_earlier_tasks_are_kept_with_a_memory_of_them(self, make_stream, other):
        torch.manual_seed(0)
        stream, plugin = make_stream(2), SubnetworkPlugin(finetune_epochs=1, bn="per_task")
        strategy = naive(with_head(Conv(), "multi"), [plugin, other()])
        strategy.train(stream.train_stream[0])
        before = {name: value.clone() for name, value in strategy.model.heads.classifiers["0"].state_dict().items()}
        strategy.train(stream.train_stream[1])
        after = strategy.model.heads.classifiers["0"].state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())

    def test_phases(self, make_stream):
        notes = Watch(lambda strategy: (strategy.clock.train_exp_epochs, len(strategy.optimizer.state)))
        plugin = SubnetworkPlugin(finetune_epochs=2)
        tuning = Watch(lambda strategy: plugin.is_finetuning)
        strategy = naive(with_head(Conv(), "multi"), [plugin, notes, tuning], train_epochs=3)
        strategy.train(make_stream(5).train_stream[0])
        epochs = {epoch: phase for (epoch, _), phase in zip(notes.notes, tuning.notes, strict=True)}
        assert epochs == {0: False, 1: False, 2: False, 3: True, 4: True}
        first = dict(reversed(notes.notes))  # at the first iteration of each epoch
        assert (first[0], first[3]) == (0, 0)  # momentum begins anew
        assert first[1] > 0
        assert strategy.train_epochs == 3

    def test_a_stop_without_fine_tuning_ends_the_task(self, make_stream):
        class Stop(SupervisedPlugin):
            def after_training_epoch(self, strategy, **kwargs):
                if strategy.clock.train_exp_epochs == 1:
                    strategy.stop_training()

        epochs = Watch(lambda strategy: strategy.clock.train_exp_epochs)
        plugin = SubnetworkPlugin(finetune_epochs=0)
        naive(with_head(Conv(), "multi"), [epochs, Stop(), plugin], train_epochs=6).train(
            make_stream(5).train_stream[0]
        )
        assert set(epochs.notes) == {0, 1}

    def test_goes_on_after_an_interruption(self, make_stream):
        armed = {"after_training_iteration", "after_eval_iteration"}

        class Interrupt(SupervisedPlugin):
            def _maybe(self, hook):
                if hook in armed:
                    armed.remove(hook)
                    raise KeyboardInterrupt

            def after_training_iteration(self, strategy, **kwargs):
                if strategy.clock.train_exp_epochs == 1:
                    self._maybe("after_training_iteration")

            def after_eval_iteration(self, strategy, **kwargs):
                self._maybe("after_eval_iteration")

        stream, plugin = make_stream(2), SubnetworkPlugin(finetune_epochs=1)
        strategy = naive(with_head(Conv(), "multi"), [plugin, Interrupt()])
        with pytest.raises(KeyboardInterrupt):
            strategy.train(stream.train_stream[0])
        with pytest.raises(RuntimeError, match="task 0 was interrupted"):
            strategy.train(stream.train_stream[1])
        for experience in stream.train_stream:
            strategy.train(experience)
        assert strategy.train_epochs == 2
        before = strategy.model.model.conv2.weight.detach().clone()
        with pytest.raises(KeyboardInterrupt):
            strategy.eval(stream.test_stream)
        strategy.eval(stream.test_stream)
        assert torch.equal(strategy.model.model.conv2.weight, before)

    def test_bad_arguments_and_models(self, make_stream, make_model):
        experience = make_stream(5).train_stream[0]
        for options in ({"prune_fraction": 1.0}, {"finetune_epochs": -1}, {"bn": "each"}):
            with pytest.raises(ValueError, match="must be"):
                SubnetworkPlugin(**options)
        with pytest.raises(TypeError, match='with_head\\(model, "multi"\\)'):
            naive(make_model(), [SubnetworkPlugin()]).train(experience)
        with pytest.raises(ValueError, match="more than one SubnetworkPlugin"):
            naive(with_head(Conv(), "multi"), [SubnetworkPlugin(), SubnetworkPlugin()]).train(experience)
        strategy = naive(with_head(Conv(), "multi"), [SubnetworkPlugin(finetune_epochs=0)], train_epochs=1)
        strategy.train(experience)
        with pytest.raises(ValueError, match="a task of its own"):
            strategy.train(experience)


class TestPlateau:
    def test_comes_after_the_plugins_that_make_phases(self, make_stream):
        strategy = naive(with_head(Conv(), "multi"), [PlateauPlugin(), SubnetworkPlugin()])
        with pytest.raises(ValueError, match="SubnetworkPlugin must come before PlateauPlugin"):
            strategy.train(make_stream(5).train_stream[0])

    def test_follows_the_rule(self, make_stream, monkeypatch):
        accuracies = iter([0.5, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6])
        states = []

        def accuracy(self, strategy):
            states.append(strategy.model.state_dict()["model.conv1.weight"].clone())
            return next(accuracies)

        monkeypatch.setattr(PlateauPlugin, "_accuracy", accuracy)
        rates = Watch(lambda strategy: (strategy.clock.train_exp_epochs, strategy.optimizer.param_groups[0]["lr"]))
        plugin = PlateauPlugin(patience=2, interval=1, min_lr=0.01)
        strategy = naive(with_head(Conv(), "multi"), [plugin, rates], train_epochs=20)
        strategy.train(make_stream(5).train_stream[0])
        # best at the third; two more: 0.1 -> 0.01; two more: to 0.001, which ends it
        assert dict(rates.notes) == {**dict.fromkeys(range(5), 0.1), **dict.fromkeys((5, 6), 0.010000000000000002)}
        assert torch.equal(strategy.model.state_dict()["model.conv1.weight"], states[2])
        assert strategy.optimizer.param_groups[0]["lr"] == 0.1

    def test_measures_the_validation_accuracy(self, make_stream):
        evaluator = quiet()
        strategy = naive(with_head(Conv(), "multi"), [PlateauPlugin(interval=1)], train_epochs=2, evaluator=evaluator)
        stream = make_stream(5)
        strategy.train(stream.train_stream[1])
        logged = evaluator.get_all_metrics()["Validation_Accuracy/train_phase/Exp001"][1]
        data = stream.valid_stream[1].dataset
        strategy.model.eval()
        hits = 0
        for part in torch.stack([data[k][0] for k in range(30)]).split(32):
            hits += (strategy.model(part, 1).argmax(1) == torch.tensor(list(data.targets))).sum().item()
        assert max(logged) == hits / 30  # of the best weights, which are back
        with pytest.raises(ValueError, match="no stream 'dev' to validate on"):
            naive(with_head(Conv(), "multi"), [PlateauPlugin(stream_name="dev")]).train(stream.train_stream[0])
        with pytest.raises(ValueError, match="factor"):
            PlateauPlugin(factor=2.0)


def epochloss(**options):
    torch.manual_seed(2)
    defaults = {
        "model": Conv(),
        "scoring_epochs": 2,
        "train_epochs": 3,
        "finetune_epochs": 2,
        "train_mb_size": 16,
        "class_cap": "balanced",
        "plateau": {"interval": 1},
        "evaluator": quiet(),
    }
    return EpochLoss(**(defaults | options))


class TestEpochLoss:
    def test_three_steps(self, make_stream):
        stream, matrix = make_stream(2), AccuracyMatrix()
        phases = Watch(lambda strategy: (strategy.clock.train_exp_counter, is_scoring(strategy), len(strategy.mb_x)))
        strategy = epochloss(
            attack="pgd",
            attack_options={"steps": 2},
            bn="per_task",
            plugins=[phases],
            evaluator=quiet(matrix),
        )
        for experience in stream.train_stream:
            strategy.train(experience)
            strategy.eval(stream.test_stream[: experience.current_experience + 1])
        pruning = next(plugin for plugin in strategy.plugins if isinstance(plugin, PruningPlugin))
        for experience in (0, 1):
            size = len(stream.train_stream[experience].dataset)
            scored = sum(count for where, scoring, count in phases.notes if where == experience and scoring)
            trained = sum(count for where, scoring, count in phases.notes if where == experience and not scoring)
            kept = len(pruning.selections[experience].kept)
            assert (scored, trained) == (2 * size, 5 * kept)
            removed = {counts.removed for counts in pruning.selections[experience].counts.values()}
            assert len(removed) == 1
        assert matrix.matrix[0, 0] == matrix.matrix[0, 1]  # nothing is forgotten

    def test_mixed_precision(self, make_stream):
        strategy = epochloss(autocast=torch.bfloat16, attack="pgd", attack_options={"steps": 1})
        strategy.train(make_stream(5).train_stream[0])
        strategy.eval(make_stream(5).test_stream[:1])

    @pytest.mark.parametrize("score", [None, "random", "caper", "epoch_accuracy"])
    def test_other_scores(self, make_stream, score):
        strategy = epochloss(score=score)
        strategy.train(make_stream(5).train_stream[0])
        assert any(isinstance(plugin, PruningPlugin) for plugin in strategy.plugins) == (score is not None)

    def test_a_schedule_that_cannot_begin(self):
        with pytest.raises(ValueError, match="lr must be at least min_lr = 0.0001, got 1e-05"):
            epochloss(lr=1e-5, plateau={})
        with pytest.raises(TypeError, match="plateau must be .* a dict, or None, got False"):
            epochloss(plateau=False)
        with pytest.raises(TypeError, match="interval must be a whole number of epochs, got 2.5"):
            PlateauPlugin(interval=2.5)

    def test_mislabeled_samples_are_removed_first(self, make_stream):
        stream = make_stream(2)
        data = stream.train_stream[0].dataset
        chosen = torch.randperm(len(data))[:200].tolist()
        images = torch.stack([data[k][0] for k in chosen])
        targets = torch.tensor([data[k][1] for k in chosen])
        wrong = torch.arange(0, 200, 10)
        targets[wrong] = (targets[wrong] + 1) % 5
        from clpack.data import TensorImages

        noisy = dataset_benchmark(
            [_labeled(TensorImages(images, targets))], [data], other_streams_datasets={"valid": [data]}
        )
        strategy = epochloss(model=MLP(5, input_size=64, hidden_sizes=(64,)), scoring_epochs=15, train_epochs=1)
        strategy.train(noisy.train_stream[0])
        pruning = next(plugin for plugin in strategy.plugins if isinstance(plugin, PruningPlugin))
        assert set(wrong.tolist()) <= set(pruning.selections[0].removed.tolist())

    def test_resume_variant_has_as_many_epochs_in_all(self, make_stream):
        epochs = Watch(lambda strategy: strategy.clock.train_exp_epochs)
        strategy = epochloss(reset=False, scoring_epochs=1, plugins=[epochs])
        strategy.train(make_stream(5).train_stream[0])
        assert max(epochs.notes) + 1 == 3 + 2

    def test_pretrained_weights(self, make_stream, tmp_path):
        source = Conv()
        save_file(source.state_dict(), tmp_path / "weights.safetensors")
        strategy = epochloss(pretrained_path=tmp_path / "weights.safetensors")
        assert torch.equal(strategy.model.model.conv1.weight, source.conv1.weight)
        subnetworks = next(plugin for plugin in strategy.plugins if isinstance(plugin, SubnetworkPlugin)).subnetworks
        assert not torch.equal(subnetworks.get_buffer("initial_conv1"), source.conv1.weight)
        with pytest.raises(ValueError, match="weights of another network"):
            epochloss(model=MLP(2, input_size=64), pretrained_path=tmp_path / "weights.safetensors")

    def test_a_plateau_in_each_phase_leads_to_the_next(self, make_stream, monkeypatch):
        monkeypatch.setattr(PlateauPlugin, "_accuracy", lambda self, strategy: 0.5)
        phases = Watch(
            lambda strategy: (
                is_scoring(strategy),
                next(plugin for plugin in strategy.plugins if isinstance(plugin, SubnetworkPlugin)).is_finetuning,
                strategy.clock.train_exp_epochs,
            )
        )
        strategy = epochloss(
            scoring_epochs=9,
            train_epochs=9,
            finetune_epochs=9,
            plateau={"interval": 1, "patience": 2, "min_lr": 0.05},
            plugins=[phases],
        )
        for experience in make_stream(2).train_stream:
            phases.notes.clear()
            strategy.train(experience)
            counts = [
                len({note[2] for note in phases.notes if note[:2] == kind})
                for kind in ((True, False), (False, False), (False, True))
            ]
            assert counts == [3, 3, 3]  # one better than nothing, two that are not
        assert strategy.train_epochs == 9


def _labeled(images):
    from avalanche.benchmarks.utils import _make_taskaware_classification_dataset

    return _make_taskaware_classification_dataset(images, task_labels=0)


class Killed(Exception):
    """What a kill looks like from inside."""


class KillAt(Watch):
    def __init__(self, step):
        super().__init__(lambda strategy: None)
        self.step = step

    def after_training_iteration(self, strategy, **kwargs):
        if len(self.notes) == self.step:
            raise Killed


@pytest.mark.parametrize("step", [11, 50, 88, 130])  # scoring, training, fine-tuning, the second task
def test_killed_runs_end_in_the_same_bits(make_stream, tmp_path, step):
    def run(path, kill_at):
        stream, killer = make_stream(2), KillAt(kill_at)
        plugins = [
            CheckpointPlugin(path, save_every=4, mode="iteration", unique_objects=stream),
            RandomStreamsPlugin(0),
            InMemoryLoaderPlugin(),
            killer,
        ]
        strategy = epochloss(attack="pgd", attack_options={"steps": 1}, plugins=plugins, bn="per_task")
        strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=stream)
        for experience in stream.train_stream[start:]:
            strategy.train(experience)
            save_checkpoint(strategy, path, unique_objects=stream)
        return strategy

    whole = run(tmp_path / "whole.safetensors", None)
    with pytest.raises(Killed):
        run(tmp_path / "killed.safetensors", step)
    resumed = run(tmp_path / "killed.safetensors", None)
    for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)
    for kind in (SubnetworkPlugin, PruningPlugin):
        left, right = (next(plugin for plugin in run.plugins if isinstance(plugin, kind)) for run in (whole, resumed))
        if kind is SubnetworkPlugin:
            for name, value in left.subnetworks.state_dict().items():
                assert torch.equal(value, right.subnetworks.state_dict()[name])
        else:
            np.testing.assert_array_equal(left.selections[1].kept, right.selections[1].kept)
