"""Whole runs of the methods against those of the authors' programs: gradients and factors of every update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clpack.condensation import LowRankImages, Settings, train_network
from clpack.condensation._draws import Draws
from clpack.condensation._updates import DistributionMatching, GradientMatching, RealImages, TrajectoryMatching
from clpack.condensation.evaluate import train_pass
from clpack.models import ConvNet

NORMS = {"instancenorm": "instance", "batchnorm": "batch", "groupnorm": "group"}
PAIRS = ("crop", "cutout", "scale")
OPTIONS = {"batch_real": int, "batch_train": int, "lr_img": float, "lr_net": float}


def network_of(config, parameters):
    network = ConvNet(
        config["K"],
        input_size=config["H"],
        in_channels=config["C"],
        width=config["width"],
        depth=config["depth"],
        norm=NORMS[config["norm"]],
        activation={"leakyrelu": "leaky_relu"}.get(config.get("act"), "relu"),
    )
    with torch.no_grad():
        for parameter, values in zip(network.parameters(), parameters, strict=True):
            parameter.copy_(values)
    return network.train()


class Replay(Draws):
    """Returns what was drawn when the run was recorded, in the same order."""

    def __init__(self, recording):
        super().__init__(0, nn.Identity, torch.device("cpu"))
        self.recording = recording
        self.chosen = iter(recording.get("real_index", ()))
        self.shuffles = (recording[f"shuffle_{i}"] for i in range(int(recording.get("n_shuffle", 0))))
        self.calls = iter(recording.meta.get("augment_calls", ())[::2])  # pairs of a real and a synthetic batch

    def network(self, index):
        count = int(self.recording["n_params"])
        return network_of(self.recording.meta["cfg"], [self.recording[f"net{index}_p{j}"] for j in range(count)])

    def real(self, members, count, *names):
        indices = next(self.chosen)
        assert set(indices.tolist()) == set(members.tolist())
        return indices[:count]

    def order(self, count, *names):
        return next(self.shuffles)

    def augmentation(self, strategy, shape, *names):
        if strategy == "none":
            return {}
        call = next(self.calls)
        draws, params = iter(call["draws"]), {}
        name = call["chosen"]
        for operation in ("brightness", "saturation", "contrast") if name == "color" else (name,):
            params[operation] = (next(draws), next(draws)) if operation in PAIRS else next(draws)
        return params

    def left(self):
        return [next(each, None) for each in (self.chosen, self.shuffles, self.calls)]


def settings_of(recording, method, **options):
    arguments = recording.meta["argv"]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    for name, kind in OPTIONS.items():
        if f"--{name}" in given:
            options[name] = kind(given[f"--{name}"])
    options["augmentation"] = given.get("--dsa_strategy", "none")
    options["metric"] = given.get("--dis_metric", "ours")
    return Settings.for_method(method, rank=int(given["--rank"]), images_per_class=int(given["--ipc"]), **options)


def storage_of(recording):
    a, b = recording["factor_a_init"], recording["factor_b_init"]
    storage = LowRankImages(len(a), a.shape[1], a.shape[2], b.shape[3], a.shape[3])
    storage.load_state_dict({"a": a.clone(), "b": b.clone()})
    return storage


def record_gradients(updater):
    """Keeps the gradients of the factors at every step."""
    seen = []
    storage = updater.storage
    updater.optimizers[0].register_step_pre_hook(
        lambda *_: seen.append((storage.a.grad.clone(), storage.b.grad.clone()))
    )
    return seen


def assert_same_steps(recording, updater, seen):
    for factor, gradients in zip("ab", zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(torch.stack(gradients), recording[f"grad_{factor}"], rtol=2e-3, atol=1e-5)
        last = getattr(updater.storage, factor).detach()
        torch.testing.assert_close(last, recording[f"factor_{factor}"][-1], rtol=1e-3, atol=1e-4)


def real_images_of(recording):
    return RealImages(recording["images"], recording["labels"], range(recording.meta["cfg"]["K"]), torch.device("cpu"))


@pytest.mark.parametrize("piece_size", [4, 1000])
@pytest.mark.parametrize("name", ["lodc_ours", "lodc_mse", "lodc_cos_bn", "lodsa"])
def test_gradient_matching(golden, name, piece_size):
    recording = golden(f"condensation/{name}")
    settings = settings_of(
        recording, "dsa" if name == "lodsa" else "dc", loops=tuple(recording.meta["loops"]), piece_size=piece_size
    )
    draws = Replay(recording)
    updater = GradientMatching(real_images_of(recording), storage_of(recording), settings, draws)
    seen = record_gradients(updater)
    losses = torch.stack([updater.update(iteration) for iteration in range(recording.meta["iterations"])])
    assert_same_steps(recording, updater, seen)
    expected = recording["class_losses"].view(len(losses), -1).mean(1).float()
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert draws.left() == [None, None, None]


@pytest.mark.parametrize("piece_size", [4, 1000])
@pytest.mark.parametrize("name", ["lodm", "lodm_bn", "lodm_dsa"])
def test_distribution_matching(golden, name, piece_size):
    recording = golden(f"condensation/{name}")
    draws, settings = Replay(recording), settings_of(recording, "dm", piece_size=piece_size)
    updater = DistributionMatching(real_images_of(recording), storage_of(recording), settings, draws)
    seen = record_gradients(updater)
    for iteration in range(recording.meta["iterations"]):
        updater.update(iteration)
    assert_same_steps(recording, updater, seen)
    assert draws.left() == [None, None, None]


class RecordedExperts:
    num_epochs = 4

    def __init__(self, recording):
        self.recording = recording
        self.num_parameters = len(recording["expert0_t0"])

    def __len__(self):
        return 2

    def parameters(self, expert, epoch):
        return self.recording[f"expert{expert}_t{epoch}"]


class ReplayTrajectories(Replay):
    def network(self, index):
        count = sum(name.startswith("param_shape") for name in self.recording)
        shapes = [self.recording[f"param_shape_{j}"].tolist() for j in range(count)]
        return network_of(self.recording.meta["cfg"], [torch.zeros(shape) for shape in shapes])

    def order(self, count, *names):
        return torch.arange(2) if names == ("experts",) else super().order(count, *names)

    def start_epoch(self, max_start_epoch, iteration):
        return int(self.recording["start_epoch"][iteration])


def test_trajectory_matching(golden):
    recording = golden("condensation/lomtt")
    options = {**recording.meta["args"], "augmentation": "none"}
    settings = Settings.for_method("mtt", images_per_class=options.pop("ipc"), **options)
    real = RealImages(torch.zeros(3, 3, 8, 8), torch.arange(3), range(3), torch.device("cpu"))
    draws = ReplayTrajectories(recording)
    updater = TrajectoryMatching(real, storage_of(recording), settings, draws, RecordedExperts(recording))
    seen = record_gradients(updater)
    torch.testing.assert_close(updater.lr.detach(), recording["syn_lr_init"].float().view(()))
    for iteration in range(recording.meta["iterations"]):
        loss = updater.update(iteration)
        torch.testing.assert_close(loss, recording["grand_loss"][iteration].float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            updater.lr.grad, recording["syn_lr_grad"][iteration].float().view(()), rtol=2e-3, atol=1e-5
        )
        torch.testing.assert_close(updater.lr.detach(), recording["syn_lr"][iteration].float().view(()))
    assert_same_steps(recording, updater, seen)
    assert draws.left() == [None, None, None]


def test_evaluation(golden):
    recording = golden("condensation/evaluate")
    meta = recording.meta
    network = network_of(meta["cfg"], [recording[f"init_p{j}"] for j in range(10)])
    curve = train_network(
        network,
        recording["x"],
        recording["y"],
        epochs=meta["epoch_eval_train"],
        lr=meta["lr_net"],
        generator=torch.Generator().manual_seed(0),
    )
    torch.testing.assert_close(curve[:, 0], recording["train_loss"].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(curve[:, 1], recording["train_acc"].float(), rtol=1e-4, atol=1e-5)
    for j, parameter in enumerate(network.parameters()):
        torch.testing.assert_close(parameter.detach(), recording[f"final_p{j}"], rtol=1e-3, atol=1e-5)
    nothing = torch.optim.SGD(network.parameters(), lr=0.0)
    # In training mode as well as in evaluation mode: there is no batch normalization.
    result = train_pass(network, nothing, recording["xt"], recording["yt"], torch.arange(30), 256)
    expected = torch.stack([recording["test_loss"].view(()), recording["test_acc"]]).float()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
