"""The strategies by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from avalanche.benchmarks import dataset_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.training.plugins import EWCPlugin, ReplayPlugin

from clpack import strategies
from clpack.optim import TAG
from clpack.strategies.templates import Cumulative, Template


def test_every_strategy_trains(make_stream, make_model):
    stream = make_stream(5)
    for name in strategies.names():
        model = make_model()
        strategy = strategies.get(name, model=model, lr=0.01, train_mb_size=32, train_epochs=2)
        for experience in stream.train_stream[:2]:
            strategy.train(experience)
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        assert torch.isfinite(weights).all(), name
        assert not torch.equal(model.linear.weight, make_model().linear.weight), name


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
    ],
)
def test_bad_input(make_model, name, options, error, message):
    with pytest.raises(error, match=message):
        strategies.get(name, model=make_model(), **{"lr": 0.1, **options})


@pytest.mark.parametrize("name", strategies.names())
def test_empty_experience_is_refused_before_training(digits, make_model, name):
    stream = dataset_benchmark([as_classification_dataset(digits[0]).subset([])], [digits[1]])
    strategy = strategies.get(name, model=make_model(), lr=0.1)
    with pytest.raises(ValueError, match="experience 0 is empty, expected at least one sample"):
        strategy.train(stream.train_stream[0])


def test_names_do_not_load_avalanche():
    code = "import sys, clpack.strategies as s; s.describe('TAG'); print({'torch', 'avalanche'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
