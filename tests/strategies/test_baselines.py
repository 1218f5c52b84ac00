"""The arguments of Avalanche's baselines as they are offered here, and the defaults by name."""

from __future__ import annotations

import inspect

import pytest
from avalanche.training.storage_policy import ClassBalancedBuffer, ExperienceBalancedBuffer, ReservoirSamplingBuffer

from clpack import strategies
from clpack.strategies import AGEMPlugin
from clpack.strategies.baselines import replay
from clpack.strategies.registry import STRATEGIES, _load


def test_policies_of_replay():
    assert type(replay(7).storage_policy) is ExperienceBalancedBuffer
    assert type(replay(7, policy="class_balanced").storage_policy) is ClassBalancedBuffer
    plugin = replay(7, 3, "reservoir")
    assert type(plugin.storage_policy) is ReservoirSamplingBuffer
    assert (plugin.mem_size, plugin.storage_policy.max_size, plugin.batch_size_mem) == (7, 7, 3)


@pytest.mark.parametrize(
    ("function", "args", "error", "message"),
    [
        (replay, (-1,), ValueError, "mem_size must be at least 1, got -1"),
        (replay, (2.5,), TypeError, "mem_size must be an integer, got 2.5"),
        (replay, (7, 0), ValueError, "batch_size_mem must be at least 1, got 0"),
        (replay, (7, True), TypeError, "batch_size_mem must be an integer, got True"),
        (replay, (7, None, "foo"), ValueError, "policy must be one of 'experience_balanced', .*'reservoir', got 'foo'"),
        (AGEMPlugin, (0, 1), ValueError, "patterns_per_experience must be at least 1, got 0"),
        (AGEMPlugin, (1, 1.5), TypeError, "sample_size must be an integer, got 1.5"),
    ],
)
def test_bad_input(function, args, error, message):
    with pytest.raises(error, match=message):
        function(*args)


@pytest.mark.parametrize("name", strategies.names())
def test_defaults_by_name_are_those_of_the_classes(name):
    info, parameters = strategies.describe(name), {}
    for path in (info.plugin, info.template):  # what a template gives on wins
        parameters |= inspect.signature(_load(path)).parameters if path else {}
    names = {option: option.removeprefix(info.prefix) for option in info.options}
    defaults = {option: parameters[key].default for option, key in names.items() if key in parameters}
    given = {option: value for option, value in defaults.items() if value is not inspect.Parameter.empty}
    if name == "CondensedReplay":
        assert given.pop("memory_only") is False  # by name it is the protocol of the paper
    assert {option: STRATEGIES[name].options[option].default for option in given} == given
