"""Weights of one run that another starts from."""

from __future__ import annotations

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import Naive
from safetensors.torch import load_file, save_file

from clpack.models import MLP
from clpack.strategies import PretrainingPlugin, SubnetworkPlugin, with_head
from clpack.strategies.pretraining import load_weights


def trained(stream, plugins, model=None):
    model = MLP(10, input_size=64, hidden_sizes=(16,)) if model is None else model
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        train_mb_size=64,
        evaluator=None,
        plugins=plugins,
    )
    strategy.train(stream.train_stream[0])
    return strategy


class Doubling(SupervisedPlugin):
    """Changes the weights when the training is over, as plugins do that restore the best ones."""

    def after_training_exp(self, strategy, **kwargs):
        with torch.no_grad():
            strategy.model.linear.weight.mul_(2)


def test_weights_are_kept_as_they_are_after_training(make_stream, tmp_path):
    strategy = trained(make_stream(), [PretrainingPlugin(save_to=tmp_path / "new"), Doubling()])
    found = load_file(tmp_path / "new" / "weights.safetensors")
    expected = strategy.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.safetensors"]


def test_nothing_is_written_without_a_folder(make_stream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(make_stream(), [PretrainingPlugin()])
    assert not list(tmp_path.iterdir())


def test_only_the_first_task_starts_from_them(make_stream, tmp_path):
    trained(make_stream(), [PretrainingPlugin(save_to=tmp_path)])
    pretrained = load_file(tmp_path / "weights.safetensors")
    path = tmp_path / "weights.safetensors"
    plugin = SubnetworkPlugin(pretrained_path=path, finetune_epochs=0)
    model = with_head(MLP(10, input_size=64, hidden_sizes=(16,)), "multi")
    random = model.model.features[1].weight.clone()
    plugin.attach(model)
    assert torch.equal(model.model.features[1].weight, pretrained["features.1.weight"])
    initial = [value for name, value in plugin.subnetworks.named_buffers() if name.startswith("initial")]
    assert [torch.equal(value, random) for value in initial] == [True]  # where free weights go back to


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.1.weight": None}, "no features.1.weight"),
        ({"features.9.weight": torch.ones(1)}, "features.9.weight, which the model has not"),
        ({"features.1.bias": torch.ones(5)}, r"features.1.bias of shape \(5,\), not \(16,\)"),
    ],
)
def test_weights_of_another_network(change, message, tmp_path):
    model = MLP(10, input_size=64, hidden_sizes=(16,))
    state = {**model.state_dict(), **change}
    save_file({name: value for name, value in state.items() if value is not None}, tmp_path / "weights.safetensors")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"weights of another network than MLP: {message}"):
        load_weights(model, tmp_path / "weights.safetensors")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_no_such_file(make_stream, tmp_path):
    plugin = SubnetworkPlugin(pretrained_path=tmp_path / "none.safetensors")
    model = with_head(MLP(10, input_size=64, hidden_sizes=(16,)), "multi")
    with pytest.raises(FileNotFoundError):
        trained(make_stream(5, task_labels=True), [plugin], model)
