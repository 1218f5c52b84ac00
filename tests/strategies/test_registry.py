"""The strategies by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, ReplayPlugin

from clpack import strategies
from clpack.optim import TAG
from clpack.strategies.registry import Option, StrategyInfo
from clpack.strategies.templates import Cumulative, Template


@pytest.fixture
def make_tasks(make_stream):
    """Streams with task labels, of the digits, and with a validation part."""

    def make(n_experiences):
        stream = make_stream(n_experiences, task_labels=True)
        train, test = ([part.dataset for part in parts] for parts in (stream.train_stream, stream.test_stream))
        return dataset_benchmark(train, test, other_streams_datasets={"valid": test})

    return make


def test_every_strategy_trains(make_tasks, make_model):
    stream, brief = make_tasks(5), {"CondensedReplay": {"iterations": 1, "batch_real": 8}}
    brief |= {key: {"iterations": 1, "statistics": 0} for key in ("ClassImpressions", "CCSI")}
    for name in strategies.names():
        network = make_model()
        model = network if name in ("CCSI", "iCaRL") else strategies.with_head(network, "multi")
        options = {"train_mb_size": 32, "train_epochs": 2, **brief.get(name, {})}
        strategy = strategies.get(name, model=model, lr=0.01, **options)
        for experience in stream.train_stream[:2]:
            strategy.train(experience)
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        assert torch.isfinite(weights).all(), name
        assert not torch.equal(network.features[1].weight, make_model().features[1].weight), name


def test_options_reach_plugin_and_optimizer(make_model):
    strategy = strategies.get("Replay", model=make_model(), lr=0.01, mem_size=7, momentum=0.5, train_mb_size=3)
    (plugin,) = [plugin for plugin in strategy.plugins if isinstance(plugin, ReplayPlugin)]
    assert plugin.mem_size == 7
    assert isinstance(strategy.optimizer, torch.optim.SGD)
    assert strategy.optimizer.param_groups[0]["momentum"] == 0.5
    assert strategy.train_mb_size == strategy.eval_mb_size == 3
    assert type(strategies.get("Cumulative", model=make_model(), lr=0.1)) is Cumulative
    assert strategies.get("Naive", model=make_model(), lr=0.1, autocast="bfloat16").autocast is torch.bfloat16


def test_hybrids_are_baselines_with_a_tag_optimizer(make_model):
    strategy = strategies.get("EWC", model=make_model(), lr=0.01, optimizer="TAG-Adam", b=7.0, ewc_lambda=3.0)
    assert type(strategy) is Template
    assert isinstance(strategy.optimizer, TAG)
    assert (strategy.optimizer.defaults["base"], strategy.optimizer.defaults["b"]) == ("adam", 7.0)
    kinds = [type(plugin) for plugin in strategy.plugins]
    assert kinds.index(strategies.TAGPlugin) < kinds.index(EWCPlugin)


def test_strategies_can_be_joined(make_model, make_stream):
    name, options = "Pruning+Replay", {"score": "random", "remove_count": 40, "mem_size": 7}
    strategy = strategies.get(name, model=make_model(), lr=0.01, train_mb_size=32, optimizer="TAG-Adam", **options)
    kinds = [type(plugin) for plugin in strategy.plugins]
    assert kinds[:3] == [strategies.TAGPlugin, strategies.PruningPlugin, ReplayPlugin]
    assert strategy.plugins[2].mem_size == 7
    for experience in make_stream(5).train_stream[:2]:
        strategy.train(experience)
    assert [len(selection.removed) for selection in strategy.plugins[1].selections.values()] == [40, 40]

    assert type(strategies.get("EWC+Cumulative", model=make_model(), lr=0.1)) is Cumulative
    assert strategies.describe("TAG+LwF").optimizer == "TAG-RMSprop"
    text = str(strategies.describe(name))
    assert all(part in text for part in ("removes some", "buffer", "mem_size=200", "remove_count=None", "Chaudhry"))


def test_options_of_ccsi_reach_the_strategy_and_its_impressions(make_model):
    options = {"margin": 0.5, "idc_target": "none", "iterations": 7, "tv_l2": 0.5, "init": "noise", "seed": 3}
    options["pixel_range"] = [-1, 2.5]
    strategy = strategies.get("CCSI", model=make_model(), lr=0.2, momentum=0.5, train_mb_size=8, **options)
    assert type(strategy) is strategies.CCSI
    assert strategy.optimizer.param_groups[0]["momentum"] == 0.5
    assert (strategy.margin, strategy.less_forget, strategy._held_out.unlabeled) == (0.5, 5.0, "none")
    (plugin,) = [plugin for plugin in strategy.plugins if isinstance(plugin, strategies.ClassImpressionPlugin)]
    assert (plugin.options.iterations, plugin.options.tv_l2, plugin.options.from_mean) == (7, 0.5, False)
    assert plugin.options.pixel_range == [-1, 2.5]
    assert (plugin.seed, plugin.synthetic_fraction) == (3, 0.66)


def test_options_of_a_template_reach_it(make_model):
    strategy = strategies.get("iCaRL", model=make_model(), lr=0.1, mem_size=7, flip=False)
    assert type(strategy) is strategies.ICaRL
    assert (strategy.mem_size, strategy.flip) == (7, False)


def test_epochloss_is_four_strategies_in_one(make_tasks, make_model):
    stream, plateau = make_tasks(5), {"patience": 2, "interval": 1}
    common = {"lr": 0.1, "train_mb_size": 32, "train_epochs": 3, "seed": 4, "evaluator": EvaluationPlugin(loggers=[])}
    options = {"score": "random", "class_cap": "balanced", "finetune_epochs": 2, "bn": "per_task", "momentum": 0.5}
    whole = strategies.EpochLoss(
        model=make_model(), attack="pgd", attack_options={"steps": 2, "eps": 0.1}, plateau=plateau, **common, **options
    )
    attack = {"attack_steps": 2, "attack_eps": 0.1}
    joined = strategies.get(
        "Pruning+Subnetworks+Adversarial+Plateau",
        model=strategies.with_head(make_model(), "multi"),
        remove_fraction=0.4,
        nesterov=True,
        **(common | options | attack | plateau),
    )
    assert [type(plugin) for plugin in joined.plugins] == [type(plugin) for plugin in whole.plugins]
    assert {plugin.seed for plugin in joined.plugins if hasattr(plugin, "seed")} == {4}
    for strategy in (whole, joined):
        torch.manual_seed(1)
        for experience in stream.train_stream[:2]:
            strategy.train(experience)
    for left, right in zip(whole.model.parameters(), joined.model.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Pruning+Replai", "unknown strategy 'Replai': did you mean 'Replay'"),
        ("Replay+", "unknown strategy ''"),
        ("Pruning+InfoBatch", "both Pruning and InfoBatch have a choice of samples of its own; take one of them"),
        ("Mine+Replay", r"Mine\+Replay: both Mine and Replay have the option mem_size; take one of them"),
        ("Naive+Naive", r"Naive\+Naive: both Naive and Naive have the name Naive"),
    ],
)
def test_what_does_not_go_together(name, message, monkeypatch):
    mine = StrategyInfo("Mine", "", "-", {"mem_size": Option(1)})
    monkeypatch.setitem(strategies.registry.STRATEGIES, "Mine", mine)
    with pytest.raises(ValueError, match=message):
        strategies.describe(name)


def test_options_that_only_others_have():
    has_option = strategies.registry.has_option
    assert has_option("Pruning", "remove_count")
    assert has_option("Pruning+Replay", "mem_size")
    assert not has_option("Pruning", "mem_size")
    assert has_option("Naive", "lr_milestones")  # everyone's
    assert has_option("Naive", "momentum")  # the optimizer's
    assert has_option("Naive", "eps")  # that of Adam, not that of an attack


def test_learning_rate_schedule(make_stream, make_model):
    strategy = strategies.get("Naive", model=make_model(), lr=1.0, train_epochs=4, lr_milestones=[1, 3], lr_gamma=0.5)
    rates = []

    class Watch(SupervisedPlugin):
        def before_training_epoch(self, strategy, **kwargs):
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    strategy.plugins.append(Watch())
    for experience in make_stream(5).train_stream[:2]:
        strategy.train(experience)
    assert rates == [1.0, 0.5, 0.5, 0.25] * 2  # each experience begins anew


def test_descriptions_name_options_and_reference():
    text = str(strategies.describe("EWC"))
    assert "ewc_lambda=1.0" in text
    assert "Kirkpatrick" in text


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "Replai",
            {},
            ValueError,
            "unknown strategy 'Replai': did you mean 'Replay'.* expected one of Naive, Cumulative",
        ),
        ("Naive", {"lr": 0.0}, ValueError, "lr must be positive, got 0.0"),
        ("Naive", {"optimizer": "adam"}, ValueError, "unknown optimizer 'adam': did you mean 'Adam'"),
        ("Replay", {"memory_size": 3}, TypeError, "unknown Replay option 'memory_size': did you mean 'mem_size'"),
        ("AGEM", {"sample_size": 0}, ValueError, "sample_size must be at least 1, got 0"),
        ("Replay", {"mem_size": "x"}, TypeError, "mem_size must be an integer, got 'x'"),
        ("Replay", {"mem_size": -1}, ValueError, "mem_size must be at least 1, got -1"),
        ("EWC", {"ewc_lambda": -1}, ValueError, "ewc_lambda must be at least 0, got -1"),
        ("EWC", {"mode": "off"}, ValueError, "mode must be one of 'separate', 'online', got 'off'"),
        ("Naive", {"lr": "a"}, TypeError, "lr must be a number, got 'a'"),
        ("Naive", {"train_epochs": 0}, ValueError, "train_epochs must be at least 1, got 0"),
        ("Naive", {"train_mb_size": 0}, ValueError, "train_mb_size must be at least 1, got 0"),
        ("Naive", {"autocast": "float16"}, ValueError, "autocast must be 'bfloat16' or None, got 'float16'"),
        ("TAG", {"base": "adam"}, TypeError, "base goes by the name of the optimizer: .*TAG-Adam"),
        ("TAG", {"b": -1.0}, ValueError, "b must be non-negative"),
        ("Naive", {"lr_milestones": 3}, TypeError, r"lr_milestones must be a list of epochs such as .*, got 3"),
        ("Naive", {"lr_milestones": [0]}, ValueError, "each of lr_milestones must be at least 1, got 0"),
        ("Naive", {"lr_gamma": -1}, ValueError, "lr_gamma must be at least 0, got -1"),
        ("Pruning", {"reset": 1}, TypeError, "reset must be true or false, got 1"),
        ("Pruning", {"score": 3}, TypeError, "score must be text, got 3"),
        ("Pruning", {"score": "mil"}, ValueError, "unknown score 'mil': did you mean 'mli'"),
        ("Pruning", {"class_cap": "even"}, ValueError, "class_cap must be one of 'balanced' or an integer, got 'even'"),
        ("Pruning", {"class_cap": 1.5}, TypeError, "class_cap must be an integer, got 1.5"),
        ("Pruning", {"remove": "all"}, ValueError, "remove must be one of 'highest', 'lowest', got 'all'"),
        ("Pruning", {"score_options": [1]}, TypeError, r"score_options must be a mapping, got \[1\]"),
        ("Pruning", {"remove_fraction": 0.1, "remove_count": 1}, ValueError, "give either"),
        ("InfoBatch", {"delta": 2}, ValueError, r"delta must be in \[0, 1\], got 2"),
        ("Adversarial", {"attack": "pdg"}, ValueError, "unknown attack 'pdg': did you mean 'pgd'"),
        ("Adversarial", {"attack_severity": 2}, TypeError, "unknown pgd option 'severity'"),
        ("Adversarial", {"attack": "rotate", "attack_steps": 2}, TypeError, "steps"),
        ("Adversarial", {"attack_random_start": 1}, TypeError, "attack_random_start must be true or false, got 1"),
        ("Adversarial", {"eps": 0.1}, TypeError, "unknown Adversarial option 'eps'"),
        ("Subnetworks", {"bn": "own"}, ValueError, "bn must be one of 'shared', 'per_task', got 'own'"),
        ("Subnetworks", {"prune_fraction": 1}, ValueError, "prune_fraction must be in"),
        ("Plateau", {"patience": 0}, ValueError, "patience must be at least 1, got 0"),
        ("CondensedReplay", {"method": "gm"}, ValueError, "method must be one of 'dc', 'dsa', 'dm', 'mtt', .*'gm'"),
        ("CondensedReplay", {"num_experts": 0}, ValueError, "num_experts must be at least 1, got 0"),
        ("CondensedReplay", {"memory_bytes": 9, "images_per_class": 1}, ValueError, "got both: 9 and 1"),
        ("CondensedReplay", {"batch_size_mem": 9}, ValueError, "got 9 with memory_only=True"),
        ("CondensedReplay", {"network": "convnet"}, ValueError, "unknown network 'convnet': did you mean 'ConvNet'"),
        ("ClassImpressions", {"init": "zeros"}, ValueError, "init must be one of 'mean', 'noise', got 'zeros'"),
        ("ClassImpressions", {"margin": 0.1}, TypeError, "unknown ClassImpressions option 'margin'"),
        ("CCSI", {"num_batches": 2, "images_per_class": 3}, ValueError, "got both: 3 and 2"),
        ("CCSI", {"margin": -0.1}, ValueError, "margin must be at least 0, got -0.1"),
        ("CCSI", {"rho": 2.0}, ValueError, r"rho must be in \[0, 1\], got 2.0"),
    ],
)
def test_bad_input(make_model, name, options, error, message):
    with pytest.raises(error, match=message):
        strategies.get(name, model=make_model(), **{"lr": 0.1, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": 2.0}, r"rho must be in \[0, 1\], got 2.0"),
        ({"rho": [0.9, -1]}, r"each of rho must be in \[0, 1\], got -1"),
        ({"temperature": 0}, r"temperature must be in \(0, inf\), got 0"),
        ({"synthetic_fraction": 1}, r"synthetic_fraction must be in \(0, 1\), got 1"),
        ({"validation_fraction": 0.0}, r"validation_fraction must be in \(0, 1\), got 0.0"),
        ({"cn_momentum": 1.5}, r"cn_momentum must be in \(0, 1\], got 1.5"),
        ({"less_forget": -1}, "less_forget must be at least 0, got -1"),
        ({"tv_l2": [0.1, -0.1]}, "each of tv_l2 must be at least 0, got -0.1"),
        ({"num_batches": [2, None]}, "each of num_batches must be an integer, got None"),
        ({"l2": [0.1, 0.1]}, r"l2 must be a number, got \[0.1, 0.1\]"),
        ({"pixel_range": [1, 0]}, r"pixel_range must be the lowest and then the highest value, .* got \[1, 0\]"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"preset": "released", "images_per_class": 3}, "needs whole batches: give num_batches"),
    ],
)
def test_options_of_ccsi_are_checked_without_a_model(options, message):
    good = {"rho": [0, 1], "temperature": [1, 5], "tv_l2": [0, 1], "num_batches": [2, 3], "cn_momentum": 1}
    strategies.check("CCSI", lr=0.1, **good)
    with pytest.raises((TypeError, ValueError), match=message):
        strategies.check("CCSI", lr=0.1, **options)


# Subnetworks misses a task label first; iCaRL, CCSI and its impressions want another model.
@pytest.mark.parametrize("name", sorted({*strategies.names()} - {"Subnetworks", "iCaRL", "ClassImpressions", "CCSI"}))
def test_empty_experience_is_refused_before_training(digits, make_model, name):
    empty, rest = as_classification_dataset(digits[0]).subset([]), as_classification_dataset(digits[1])
    stream = dataset_benchmark([empty], [rest], other_streams_datasets={"valid": [rest]})
    strategy = strategies.get(name, model=strategies.with_head(make_model(), "multi"), lr=0.1)
    with pytest.raises(ValueError, match="experience 0 is empty, expected at least one sample"):
        strategy.train(stream.train_stream[0])


def test_experience_smaller_than_a_batch_that_is_dropped(make_stream, make_model):
    strategy = strategies.get("Naive", model=make_model(), lr=0.1, train_mb_size=1000)
    with pytest.raises(ValueError, match="experience 0 has .* samples, fewer than a mini-batch of 1000, and drop_last"):
        strategy.train(make_stream().train_stream[0], drop_last=True)


def test_names_do_not_load_avalanche():
    code = "import sys, clpack.strategies as s; s.describe('TAG'); print({'torch', 'avalanche'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
