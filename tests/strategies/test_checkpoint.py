"""Runs that are killed and resumed must end in the same bits as runs that are not."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.logging import CSVLogger, InteractiveLogger, TensorboardLogger, TextLogger
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training.plugins import (
    AGEMPlugin,
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.supervised import Cumulative, Naive
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.transforms import RandomRotation

from clpack.benchmarks import PermutedDigits, SplitDigits
from clpack.data import TensorImages
from clpack.strategies import TAG, TAGPlugin, with_head
from clpack.strategies._flat import flatten
from clpack.strategies.checkpoint import CheckpointPlugin, maybe_load_checkpoint, save_checkpoint
from clpack.strategies.loader import InMemoryLoaderPlugin, RandomStreamsPlugin

CLASSES, SIZE, EPOCHS, BATCH = 6, 4, 3, 8  # 3 experiences of 2 classes, 3 epochs of 5 batches


class Killed(Exception):
    """What a kill looks like from inside."""


class AddNoise:
    """A random augmentation that draws from all three global generators."""

    def __call__(self, image: Tensor) -> Tensor:
        shift = 0.01 * random.random() + 0.01 * float(np.random.rand())  # noqa: NPY002
        return image + 0.1 * torch.randn_like(image) + shift


class Plain(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(SIZE * SIZE, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3)
        )
        self.classifier: nn.Module = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x))
        return out


class Featured(nn.Module):
    """What :func:`with_head` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.num_features, self.linear = Plain().features, 12, nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.features(x))
        return out


class Growing(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = IncrementalClassifier(12, initial_out_features=2)


class MultiHead(MultiTaskModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.features = Plain().features
        self.classifier = MultiHeadClassifier(12, initial_out_features=2)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x), task_labels)
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "growing": Growing,
    "multihead": MultiHead,
    **{head: lambda head=head: with_head(Featured(), head) for head in ("incremental", "multi", "masked")},
}


class KillAt(SupervisedPlugin):  # type: ignore[misc]
    """Raises in one hook of one experience, once so many iterations of it are done."""

    def __init__(self, hook: str | None, experience: int, iterations: int) -> None:
        super().__init__()
        if hook is not None:
            setattr(self, hook, self._maybe_kill)
        self.at = (experience, iterations)
        self.trained = 0

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.trained += 1

    def checkpoint_state(self) -> dict[str, Any]:
        return {}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        pass

    def _maybe_kill(self, strategy: Any, **kwargs: Any) -> None:
        if (strategy.clock.train_exp_counter, strategy.clock.train_exp_iterations) == self.at:
            raise Killed


def make_benchmark(*, task_labels: bool = False) -> Any:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(CLASSES).repeat_interleave(20)
    images = torch.randn(len(targets), 1, SIZE, SIZE, generator=generator) + targets.view(-1, 1, 1, 1) / 3
    test = TensorImages(images[::4] + 0.1, targets[::4])
    return nc_benchmark(
        TensorImages(images, targets),
        test,
        n_experiences=3,
        task_labels=task_labels,
        shuffle=False,
        train_transform=AddNoise(),
        eval_transform=None,
    )


def make_strategy(method: str, head: str, plugins: list[Any], loggers: list[Any] | None = None) -> Any:
    model = MODELS[head]()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    own: list[Any] = []
    if method == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        own = [LRSchedulerPlugin(torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))]
    elif method == "plateau":
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        own = [LRSchedulerPlugin(schedule, metric="train_loss", step_granularity="iteration")]
    elif method == "replay":
        own = [ReplayPlugin(mem_size=15)]
    elif method == "ewc":
        own = [EWCPlugin(0.5)]
    elif method == "lwf":
        own = [LwFPlugin(1.0, 2.0)]
    elif method == "si":
        own = [SynapticIntelligencePlugin(0.5)]
    elif method == "agem":
        own = [AGEMPlugin(10, 10)]
    elif method == "tag":
        own = [ReplayPlugin(mem_size=15)]
    evaluator = EvaluationPlugin(
        accuracy_metrics(minibatch=True, epoch=True, experience=True, stream=True),
        loss_metrics(epoch_running=True, experience=True),
        forgetting_metrics(experience=True, stream=True),
        loggers=loggers,
    )
    cls = {"cumulative": Cumulative, "tag": TAG}.get(method, Naive)
    return cls(
        model=model,
        **({"lr": 0.01} if method == "tag" else {"optimizer": optimizer}),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        eval_mb_size=16,
        plugins=[*plugins, *own],
        evaluator=evaluator,
        eval_every=1 if method == "adam" else -1,
    )


def run(
    method: str,
    head: str,
    path: Path,
    *,
    kill: tuple[str | None, int, int] = (None, 0, 0),
    save_every: int = 1,
    mode: Any = "iteration",
    num_workers: int = 0,
    arrange: Callable[[Any], list[Any]] = lambda checkpoint: [checkpoint],
    loggers: Callable[[], list[Any]] = list,
) -> dict[str, Any]:
    """One process: builds everything from scratch, resumes if there is something to resume, and runs to the end."""
    benchmark = make_benchmark(task_labels=head in ("multihead", "multi", "masked"))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global generator is what is tested)
    random.seed(1)
    checkpoint = CheckpointPlugin(path, save_every=save_every, mode=mode, unique_objects=benchmark)
    killer = KillAt(*kill)
    strategy = make_strategy(method, head, [*arrange(checkpoint), killer], loggers())
    strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=benchmark)
    for experience in benchmark.train_stream[start:]:
        strategy.train(experience, num_workers=num_workers)
        strategy.eval(benchmark.test_stream)
        save_checkpoint(strategy, path, unique_objects=benchmark)
    state = strategy.optimizer.state
    return {
        "parameters": strategy.model.state_dict(),
        "optimizer": {name: state[value] for name, value in strategy.model.named_parameters() if value in state},
        "alphas": [plugin.reports for plugin in strategy.plugins if isinstance(plugin, TAGPlugin)],
        "metrics": strategy.evaluator.get_all_metrics(),
        "random": (torch.rand(1).item(), random.random(), float(np.random.rand())),  # noqa: NPY002
        "start": start,
        "trained": killer.trained,  # iterations in this process
        "epochs": strategy.train_epochs,
    }


def as_text(result: Any) -> str:
    """Every bit of a result, NaN included."""
    return json.dumps(result, default=Tensor.tolist)


def assert_same(resumed: dict[str, Any], whole: dict[str, Any]) -> None:
    for part in ("parameters", "optimizer", "alphas", "metrics", "random"):
        assert as_text(resumed[part]) == as_text(whole[part]), part
    assert resumed["epochs"] == whole["epochs"] == EPOCHS


_whole_runs: dict[tuple[str, str], dict[str, Any]] = {}


@pytest.fixture
def whole_run(tmp_path: Path) -> Iterator[Callable[[str, str], dict[str, Any]]]:
    def get(method: str, head: str) -> dict[str, Any]:
        if (method, head) not in _whole_runs:
            _whole_runs[method, head] = run(method, head, tmp_path / "whole.safetensors", save_every=10**6)
        return _whole_runs[method, head]

    return get


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # faster for such small models, above all on a busy machine


FIRST = ("after_forward", 0, 0)
MID_EPOCH = ("after_backward", 1, 8)
EPOCH_BOUNDARY = ("after_training_epoch", 1, 10)
EPOCH_START = ("before_training_epoch", 1, 5)
IN_EVAL = ("before_eval_exp", 2, 15)
LAST = ("before_update", 2, 13)

CASES = [
    ("naive", "plain", FIRST, 1, "iteration"),
    ("naive", "growing", MID_EPOCH, 3, "iteration"),
    ("naive", "multihead", LAST, 1, "epoch"),
    ("adam", "growing", EPOCH_BOUNDARY, 1, "iteration"),
    ("adam", "multihead", MID_EPOCH, 3, "iteration"),
    ("plateau", "plain", LAST, 3, "iteration"),
    ("replay", "plain", MID_EPOCH, 1, "iteration"),
    ("replay", "growing", LAST, 3, "iteration"),
    ("replay", "multihead", IN_EVAL, 1, "epoch"),
    ("ewc", "growing", MID_EPOCH, 1, "iteration"),
    ("ewc", "growing", EPOCH_START, 1, "epoch"),
    ("lwf", "growing", LAST, 1, "iteration"),
    ("lwf", "multihead", MID_EPOCH, 1, "epoch"),
    ("si", "growing", MID_EPOCH, 3, "iteration"),
    ("cumulative", "multihead", LAST, 1, "iteration"),
]


@pytest.mark.parametrize(("method", "head", "kill", "save_every", "mode"), CASES)
def test_killed_and_resumed(
    method: str,
    head: str,
    kill: tuple[str, int, int],
    save_every: int,
    mode: str,
    tmp_path: Path,
    whole_run: Callable[[str, str], dict[str, Any]],
) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        run(method, head, path, kill=kill, save_every=save_every, mode=mode)
    resumed = run(method, head, path, save_every=save_every, mode=mode)
    assert resumed["start"] == kill[1] - (kill == IN_EVAL)
    assert_same(resumed, whole_run(method, head))


def test_killed_three_times(tmp_path: Path, whole_run: Callable[[str, str], dict[str, Any]]) -> None:
    path = tmp_path / "run.safetensors"
    for kill in (FIRST, MID_EPOCH, LAST):
        with pytest.raises(Killed):
            run("replay", "growing", path, kill=kill, save_every=3)
    resumed = run("replay", "growing", path, save_every=3)
    assert (resumed["start"], resumed["trained"]) == (2, 15 - 12)  # killed in the 14th iteration, saved after 12
    assert_same(resumed, whole_run("replay", "growing"))


def test_workers(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    whole = run("naive", "plain", tmp_path / "whole.safetensors", save_every=10**6, num_workers=2)
    with pytest.raises(Killed):
        run("naive", "plain", path, kill=MID_EPOCH, num_workers=2)
    assert_same(run("naive", "plain", path, num_workers=2), whole)


@pytest.mark.parametrize("first", [True, False], ids=["checkpoint first", "checkpoint last"])
@pytest.mark.parametrize("mode", ["iteration", "epoch"])
def test_with_the_plugins_that_replace_the_loader(first: bool, mode: str, tmp_path: Path) -> None:
    def arrange(checkpoint: CheckpointPlugin) -> list[Any]:
        others = [RandomStreamsPlugin(3), InMemoryLoaderPlugin()]
        return [checkpoint, *others] if first else [*others, checkpoint]

    path = tmp_path / "run.safetensors"
    whole = run("replay", "plain", tmp_path / "whole.safetensors", save_every=10**6, arrange=arrange)
    with pytest.raises(Killed):
        run("replay", "plain", path, kill=LAST, mode=mode, arrange=arrange)
    assert_same(run("replay", "plain", path, mode=mode, arrange=arrange), whole)


def test_with_loggers(tmp_path: Path, whole_run: Callable[[str, str], dict[str, Any]]) -> None:
    def loggers() -> list[Any]:
        return [
            InteractiveLogger(),
            TextLogger((tmp_path / "log.txt").open("a")),
            CSVLogger(str(tmp_path / "csv")),
            TensorboardLogger(str(tmp_path / "tensorboard")),
        ]

    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        run("ewc", "growing", path, kill=MID_EPOCH, loggers=loggers)
    assert_same(run("ewc", "growing", path, loggers=loggers), whole_run("ewc", "growing"))


@pytest.mark.parametrize("head", ["incremental", "multi", "masked"])
def test_tag(head: str, tmp_path: Path) -> None:
    """The optimizer keeps views of its state between steps: after resuming they must be views of the new state."""

    def arrange(checkpoint: CheckpointPlugin) -> list[Any]:
        return [checkpoint, RandomStreamsPlugin(3), InMemoryLoaderPlugin()]

    path = tmp_path / "run.safetensors"
    whole = run("tag", head, tmp_path / "whole.safetensors", save_every=10**6, arrange=arrange)
    with pytest.raises(Killed):
        run("tag", head, path, kill=LAST, save_every=3, arrange=arrange)
    resumed = run("tag", head, path, save_every=3, arrange=arrange)
    assert (resumed["start"], resumed["trained"]) == (2, 15 - 12)
    first_layer = next(iter(resumed["optimizer"].values()))
    assert first_layer["tasks"] == [0, 1, 2]
    assert len(resumed["alphas"][0][2]) == 3
    assert_same(resumed, whole)


def test_in_a_new_process(tmp_path: Path, whole_run: Callable[[str, str], dict[str, Any]]) -> None:
    path, output = tmp_path / "run.safetensors", tmp_path / "results.json"
    with pytest.raises(Killed):
        run("lwf", "growing", path, kill=LAST, save_every=3)
    script = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location({Plain.__module__!r}, {__file__!r})
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.torch.set_num_threads(1)
results = module.run("lwf", "growing", module.Path({str(path)!r}), save_every=3)
module.Path({str(output)!r}).write_text(module.as_text(results))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "5"}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True)
    resumed = json.loads(output.read_text())
    assert (resumed["start"], resumed["trained"]) == (2, 15 - 12)
    assert_same(resumed, whole_run("lwf", "growing"))


def test_plugin_does_not_change_the_run(tmp_path: Path) -> None:
    with_plugin = run("replay", "plain", tmp_path / "run.safetensors", save_every=1)
    without = run("replay", "plain", tmp_path / "other.safetensors", arrange=lambda checkpoint: [])
    assert_same(with_plugin, without)


def train_first_experience(method: str, path: Path, *, unique: bool = True) -> tuple[Any, Any]:
    benchmark = make_benchmark()
    torch.manual_seed(1)
    strategy = make_strategy(method, "growing", [])
    strategy.train(benchmark.train_stream[0])
    save_checkpoint(strategy, path, unique_objects=benchmark if unique else None)
    return strategy, benchmark


def test_between_experiences_without_the_plugin(tmp_path: Path) -> None:
    strategy, benchmark = train_first_experience("adam", tmp_path / "a.safetensors")
    drawn = torch.rand(3)
    resumed = make_strategy("adam", "growing", [])
    torch.manual_seed(77)
    loaded, start = maybe_load_checkpoint(resumed, tmp_path / "a.safetensors", unique_objects=benchmark)
    assert loaded is resumed
    assert start == 1
    assert torch.equal(torch.rand(3), drawn)
    for name, value in strategy.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value)
    for old, new in zip(strategy.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(resumed.optimizer.state[new]["exp_avg"], strategy.optimizer.state[old]["exp_avg"])
    assert resumed.plugins[0].scheduler.optimizer is resumed.optimizer
    assert resumed.optimized_param_id["features.1.weight"] is resumed.model.features[1].weight


def test_restores_in_place(tmp_path: Path) -> None:
    _, benchmark = train_first_experience("ewc", tmp_path / "a.safetensors")
    resumed = make_strategy("ewc", "growing", [])
    before = (resumed.model, resumed.model.features[1].weight, resumed.plugins[0], resumed.evaluator.metrics[0])
    maybe_load_checkpoint(resumed, tmp_path / "a.safetensors", unique_objects=benchmark)
    after = (resumed.model, resumed.model.features[1].weight, resumed.plugins[0], resumed.evaluator.metrics[0])
    assert all(old is new for old, new in zip(before, after, strict=True))
    assert next(resumed.model.parameters()) is resumed.optimizer.param_groups[0]["params"][0]


def test_nothing_saved(tmp_path: Path) -> None:
    strategy = make_strategy("naive", "plain", [])
    assert maybe_load_checkpoint(strategy, tmp_path / "none.safetensors") == (strategy, 0)


def test_buffers_refer_to_the_benchmark(tmp_path: Path) -> None:
    def blocks(path: Path) -> list[int]:
        with safe_open(path, framework="pt") as file:
            return [file.get_slice(name).get_shape()[0] for name in file.keys() if name != "table"]  # noqa: SIM118

    strategy, benchmark = train_first_experience("replay", tmp_path / "unique.safetensors")
    train_first_experience("replay", tmp_path / "values.safetensors", unique=False)
    images = CLASSES * 20 * SIZE * SIZE * 4  # bytes
    assert images in blocks(tmp_path / "values.safetensors")
    assert images not in blocks(tmp_path / "unique.safetensors")

    for path, unique_objects in (("unique", benchmark), ("values", None)):
        resumed = make_strategy("replay", "growing", [])
        maybe_load_checkpoint(resumed, tmp_path / f"{path}.safetensors", unique_objects=unique_objects)
        buffer, expected = (each.plugins[0].storage_policy.buffer.eval() for each in (resumed, strategy))
        assert len(buffer) == len(expected) == 15
        assert all(torch.equal(buffer[k][0], expected[k][0]) and buffer[k][1:] == expected[k][1:] for k in range(15))


def test_another_benchmark(tmp_path: Path) -> None:
    train_first_experience("replay", tmp_path / "a.safetensors")
    other = nc_benchmark(TensorImages(torch.zeros(9, 1), range(9)), TensorImages(torch.zeros(9, 1), range(9)), 3, False)
    fresh = make_strategy("replay", "growing", [])
    for given, found in (
        (other, r"3 samples, targets \[.*\], targets_task_labels \[0\], checksum \w+"),
        (make_benchmark(task_labels=True), r"10 samples, targets \[2, 3\], targets_task_labels \[1\], checksum \w+"),
        (None, "None"),
    ):
        with pytest.raises(ValueError, match=rf"its unique_objects.test_stream\[\d\] is {found}, the saved one is"):
            maybe_load_checkpoint(fresh, tmp_path / "a.safetensors", unique_objects=given)
    assert fresh.clock.train_exp_counter == 0


def digits(seed: int) -> Any:
    return SplitDigits(5, seed=seed)


def relabeled(seed: int) -> Any:
    """The same classes and counts, on other images."""
    targets = np.random.default_rng(seed).permutation(np.arange(4).repeat(5)).tolist()
    data = TensorImages(torch.zeros(20, 1), targets)
    return nc_benchmark(data, data, n_experiences=2, task_labels=False, shuffle=False)


def permuted(seed: int) -> Any:
    return PermutedDigits(2, seed=seed)


def rotated(angle: int) -> Any:
    data = TensorImages(torch.zeros(4, 1, 2, 2), range(4))
    rotation = RandomRotation((angle, angle))
    return nc_benchmark(data, data, n_experiences=2, task_labels=False, shuffle=False, eval_transform=rotation)


@pytest.mark.parametrize("make", [digits, relabeled, permuted, rotated])
def test_a_benchmark_of_another_seed(make: Callable[[int], Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    strategy = make_strategy("naive", "plain", [])
    save_checkpoint(strategy, path, unique_objects=make(1))
    assert maybe_load_checkpoint(strategy, path, unique_objects=make(1)) == (strategy, 0)
    with pytest.raises(ValueError, match=r"its unique_objects\.\w+_stream\[\d\] is .*, the saved one is"):
        maybe_load_checkpoint(strategy, path, unique_objects=make(2))


def test_a_benchmark_of_fewer_experiences(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    strategy = make_strategy("naive", "plain", [])
    save_checkpoint(strategy, path, unique_objects=rotated(1))
    first_only = nc_benchmark(
        *[TensorImages(torch.zeros(2, 1, 2, 2), range(2))] * 2,
        n_experiences=1,
        task_labels=False,
        shuffle=False,
        eval_transform=RandomRotation((1, 1)),
    )
    with pytest.raises(ValueError, match=r"test_stream\[1\] is None, the saved one is 2 samples, targets \[2, 3\]"):
        maybe_load_checkpoint(strategy, path, unique_objects=first_only)


def test_the_benchmark_that_was_checked_is_the_one_resumed_with(tmp_path: Path) -> None:
    """The plugin's may be another object."""
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        run("replay", "plain", path, kill=MID_EPOCH)
    benchmark = make_benchmark()
    checkpoint = CheckpointPlugin(path, mode="iteration", unique_objects=make_benchmark())
    strategy = make_strategy("replay", "plain", [checkpoint, KillAt(None, 0, 0)])
    maybe_load_checkpoint(strategy, path, unique_objects=benchmark)
    strategy.train(benchmark.train_stream[1])
    memory = strategy.plugins[2].storage_policy.buffer.eval()
    images = {leaf.data for leaf in flatten(memory._flat_data)[0]}
    assert images == {leaf.data for leaf in flatten(benchmark.train_stream[0].dataset._flat_data)[0]}


def test_saved_hyperparameters_win(tmp_path: Path) -> None:
    _, benchmark = train_first_experience("replay", tmp_path / "a.safetensors")
    resumed = make_strategy("replay", "growing", [])
    resumed.train_mb_size, resumed.train_epochs, resumed.plugins[0].mem_size = 1, 7, 99
    resumed.optimizer.param_groups[0]["lr"] = 9.0
    maybe_load_checkpoint(resumed, tmp_path / "a.safetensors", unique_objects=benchmark)
    assert (resumed.train_mb_size, resumed.train_epochs, resumed.plugins[0].mem_size) == (BATCH, EPOCHS, 15)
    assert resumed.optimizer.param_groups[0]["lr"] == 0.05


def test_another_strategy(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    _, benchmark = train_first_experience("ewc", path)
    wider = make_strategy("ewc", "growing", [])
    wider.model.features[1] = nn.Linear(SIZE * SIZE, 13)
    weight = wider.model.features[1].weight.clone()
    with pytest.raises(ValueError, match=r"parameter features.1.bias is \[13\], the saved one is \[12\]"):
        maybe_load_checkpoint(wider, path, unique_objects=benchmark)
    assert torch.equal(wider.model.features[1].weight, weight)
    with pytest.raises(ValueError, match=r"its plugins\[0\] is .*LwFPlugin, the saved one is .*EWCPlugin"):
        maybe_load_checkpoint(make_strategy("lwf", "growing", []), path, unique_objects=benchmark)
    with pytest.raises(ValueError, match=r"its model is .*Plain"):
        maybe_load_checkpoint(make_strategy("ewc", "plain", []), path, unique_objects=benchmark)


def test_inside_needs_the_plugin_and_the_right_experience(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        run("naive", "plain", path, kill=MID_EPOCH)
    benchmark = make_benchmark()
    with pytest.raises(ValueError, match="interrupted inside an experience"):
        maybe_load_checkpoint(make_strategy("naive", "plain", [KillAt(None, 0, 0)]), path, unique_objects=benchmark)
    checkpoint = CheckpointPlugin(path, mode="iteration", unique_objects=benchmark)
    strategy = make_strategy("naive", "plain", [checkpoint, KillAt(None, 0, 0)])
    maybe_load_checkpoint(strategy, path, unique_objects=benchmark)
    with pytest.raises(ValueError, match="inside experience 1, but training goes on with experience 2"):
        strategy.train(benchmark.train_stream[2])


def test_interrupted_and_damaged_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    strategy, benchmark = train_first_experience("naive", path)
    whole = path.read_bytes()

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    strategy.train(benchmark.train_stream[1])
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(strategy, path, unique_objects=benchmark)
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["a.safetensors"]

    for content in (whole[:-7], whole[:100], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or not a checkpoint"):
            maybe_load_checkpoint(make_strategy("naive", "growing", []), path, unique_objects=benchmark)


def test_open_iterator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"strategy\.plugins\[0\]\.buffer_dliter is an open iterator"):
        train_first_experience("agem", tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_bad_arguments(tmp_path: Path) -> None:
    strategy = make_strategy("naive", "plain", [])
    for call in (CheckpointPlugin, partial(maybe_load_checkpoint, strategy), partial(save_checkpoint, strategy)):
        with pytest.raises(
            ValueError, match=r"fname must name a file, got the folder .*; give .*checkpoint.safetensors"
        ):
            call(tmp_path)
    for save_every in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="save_every must be a positive integer"):
            CheckpointPlugin(tmp_path / "a", save_every=save_every)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='mode must be "epoch" or "iteration", got \'experience\''):
        CheckpointPlugin(tmp_path / "a", mode="experience")  # type: ignore[arg-type]
