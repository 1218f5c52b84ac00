"""The graph encoder: exact values, shared references, in-place restoring, and refusals."""

from __future__ import annotations

import collections
import enum
import functools
import itertools
import json
import math
import random
import threading
import types
import typing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from clpack.strategies._state import read_header, read_state, write_state


class Color(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: float


class Thing:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("left", "right")

    left: list[int]


class Counted:
    """Stands for a logger: says itself what its state is."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.file = threading.Lock()

    def checkpoint_state(self) -> dict[str, Any]:
        return {"offset": self.offset}

    def load_checkpoint_state(self, state: dict[str, Any]) -> None:
        self.offset = state["offset"] + 100


def identity(value: Any) -> Any:
    return value


def nothing_skipped(owner: object, name: str) -> bool:
    return False


def read(path: Path, live: Any = None, unique: Any = None) -> Any:
    root = {"value": live, "names": Thing(color=Color.RED, point=Point(0, 0), function=identity)}
    return read_state(path, root, unique_objects=unique, skip=nothing_skipped)["value"]


def round_trip(path: Path, value: Any, live: Any = None) -> Any:
    write_state(path, {"token": "t"}, {"value": value}, unique_objects=None, skip=nothing_skipped)
    return read(path, live)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**70,
        0.1 + 0.2,
        -math.inf,
        "text \u2603",
        b"\x00\xff",
        [1, [2, "a"], (3, None)],
        {1: "a", "b": [2.5], (1, 2): None, None: 0},
        {3, 1, 2},
        frozenset({"a"}),
        collections.deque([1, 2], maxlen=3),
        collections.OrderedDict(b=1, a=2),
        slice(1, None, 2),
        range(2, 9, 3),
        Color.RED,
        Point(1, 2.5),
        Path("a/b"),
        torch.Size([2, 3]),
        torch.bfloat16,
        torch.device("cpu"),
        np.float32(0.1),
        int,
        nn.Linear,
        nn.functional.relu,
        nn.functional.gelu,
        torch.zeros,
    ],
    ids=repr,
)
def test_values(value: Any, path: Path) -> None:
    restored = round_trip(path, value)
    assert type(restored) is type(value)
    assert restored == value
    if isinstance(value, dict | set):
        assert list(restored) == list(value)


def test_nan_and_default_factory(path: Path) -> None:
    restored = round_trip(path, collections.defaultdict(functools.partial(identity, 7), a=math.nan))
    assert math.isnan(restored["a"])
    assert restored["new"] == 7


def test_counters_as_a_metric_of_avalanche_has_them(path: Path) -> None:
    saved, live = collections.defaultdict(typing.Counter), collections.defaultdict(typing.Counter)
    saved[0].update("aab")
    restored = round_trip(path, saved, live=live)
    assert restored is live
    assert restored[0] == {"a": 2, "b": 1}
    assert restored[1] == collections.Counter()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool, torch.int8, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (3, 2)])
def test_tensors(dtype: torch.dtype, shape: tuple[int, ...], path: Path) -> None:
    value = (torch.arange(math.prod(shape)).reshape(shape) - 0.5).to(dtype)
    restored = round_trip(path, value)
    assert restored.dtype == dtype
    assert torch.equal(restored, value)


def test_memory_is_shared_as_before(path: Path) -> None:
    parameter = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    parameter.grad = torch.ones(2, 3)
    restored = round_trip(
        path, [parameter, parameter.detach().flatten(), parameter.detach().T, parameter, parameter.grad]
    )
    assert restored[0] is restored[3]
    assert restored[0].grad is restored[4]
    assert restored[2].stride() == (1, 3)
    restored[1][5] = 50.0
    assert restored[0][1, 2] == restored[2][2, 1] == 50.0
    assert parameter[1, 2] == 5.0


def test_only_the_used_part_of_a_storage_is_written(path: Path) -> None:
    base = torch.arange(10_000.0)
    restored = round_trip(path, [base[5000:5004], base[5002:5006]])
    assert torch.equal(restored[0], torch.tensor([5000.0, 5001, 5002, 5003]))
    restored[0][2] = -1
    assert restored[1][0] == -1
    assert path.stat().st_size < 5000


def test_arrays(path: Path) -> None:
    value = np.arange(6, dtype=np.int16).reshape(2, 3)
    restored = round_trip(path, value)
    assert restored.dtype == np.int16
    assert np.array_equal(restored, value)
    with pytest.raises(TypeError, match="value is an array of Python objects"):
        round_trip(path, np.array([None, 1]))


def test_shared_references_and_cycles(path: Path) -> None:
    inner: list[Any] = [1]
    pair = (inner, [inner])
    inner.append(pair)
    thing = Thing(pair=pair)
    vars(thing)["itself"] = thing
    restored = round_trip(path, thing)
    assert restored.itself is restored
    assert restored.pair[0] is restored.pair[1][0]
    assert restored.pair[0][1] is restored.pair


def test_slots(path: Path) -> None:
    value = Slotted()
    value.left = [1]
    restored = round_trip(path, value, live=Slotted())
    assert restored.left == [1]
    assert not hasattr(restored, "right")


def test_order_of_sets_that_grew_differently(path: Path) -> None:
    grown = set(range(2, 22, 4))
    for value in (grown, grown.copy(), grown.copy() | {7, 23}, {33, 1, 18, 50, 4}, set(range(90, 60, -3)).copy()):
        assert list(round_trip(path, value)) == list(value)
    assert [list(grown), list(grown.copy())] == [[2, 6, 10, 14, 18], [2, 18, 6, 10, 14]]  # equal, in other orders


def test_order_of_sets_of_labels(path: Path) -> None:
    """As Avalanche's LwF makes them: the labels of each experience, united with the earlier ones."""
    shuffled = random.Random(0)
    sets: list[set[int]] = []
    for _ in range(20):
        labels = shuffled.sample(range(100), 100)
        experiences = [set(labels[start : start + 10]) for start in range(0, 100, 10)]
        sets += itertools.accumulate(experiences, set.union)
    assert sum(list(set(iter(each))) != list(each) for each in sets) > 20  # which rebuilding does not give
    for found, each in zip(round_trip(path, sets), sets, strict=True):
        assert list(found) == list(each)
        assert list(found | {3, 50, 101}) == list(each | {3, 50, 101})


def test_order_of_sets_up_to_a_size(path: Path) -> None:
    shuffled = random.Random(0)
    largest, too_large = (set(shuffled.sample(range(10**6), size)) for size in (400, 1001))
    restored = round_trip(path, [largest, too_large])
    assert list(restored[0]) == list(largest)
    assert restored[1] == too_large


def test_random_generator(path: Path) -> None:
    saved, live = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    assert round_trip(path, saved, live=live) is live
    assert torch.equal(torch.rand(2, generator=live), torch.rand(2, generator=saved))


def test_in_place(path: Path) -> None:
    live = Thing(model=nn.Linear(2, 2), numbers=[5, 6, 7], gone=1)
    model, weight, numbers = live.model, live.model.weight, live.numbers  # type: ignore[attr-defined]
    saved = Thing(model=nn.Linear(2, 2), numbers=[1], new={"a": 2})
    handle = model.register_forward_hook(lambda *arguments: None)
    assert round_trip(path, saved, live=live) is live
    assert vars(live) == {"model": model, "numbers": [1], "new": {"a": 2}}
    assert vars(live)["numbers"] is numbers
    assert model.weight is weight
    assert torch.equal(weight, vars(saved)["model"].weight)
    assert handle.id in model._forward_hooks


def test_one_live_object_for_one_saved_object(path: Path) -> None:
    shared = nn.Linear(1, 1)
    saved = {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}
    restored = round_trip(path, saved, live={"a": shared, "b": shared})
    assert restored["a"] is shared
    assert restored["b"] is not shared
    assert torch.equal(restored["a"].weight, saved["a"].weight)
    assert torch.equal(restored["b"].weight, saved["b"].weight)


def test_grown_parameter(path: Path) -> None:
    live, saved = nn.Linear(2, 2), nn.Linear(2, 5)
    weight = live.weight
    round_trip(path, saved, live=live)
    assert live.weight is not weight
    assert torch.equal(live.weight, saved.weight)
    assert live.weight.requires_grad


def test_own_state_and_kept_resources(path: Path) -> None:
    def make(offset: int) -> dict[str, Any]:
        return {
            "handle": nn.Linear(1, 1).register_forward_hook(identity),
            "logger": Counted(offset),
            "lock": threading.Lock(),
            "function": lambda: offset,
            "empty": iter([]),
        }

    live = make(1)
    lock, function = live["lock"], live["function"]
    round_trip(path, make(7), live=live)
    assert live["logger"].offset == 107
    assert live["lock"] is lock
    assert live["function"] is function
    assert list(live["empty"]) == []
    with pytest.raises(ValueError, match=r"value\['lock'\] was a .*lock, which a checkpoint cannot hold"):
        round_trip(path, {"lock": threading.Lock()}, live={})


@pytest.mark.parametrize("make", [lambda: iter([1]), lambda: (k for k in [1]), lambda: enumerate([1])])
def test_open_iterators(make: Any, path: Path) -> None:
    with pytest.raises(TypeError, match=r"value\.inner\[0\] is an open iterator"):
        round_trip(path, Thing(inner=[make()]))
    assert not path.exists()


@pytest.mark.parametrize(
    "value", [random.Random(1), np.random.default_rng(1), bytearray(b"a"), types.SimpleNamespace()]
)
def test_state_out_of_reach(value: Any, path: Path) -> None:
    with pytest.raises(
        TypeError, match=rf"value\[0\] is a .*{type(value).__name__}, whose state a checkpoint cannot hold"
    ):
        round_trip(path, [value])


def test_unstorable_tensor(path: Path) -> None:
    with pytest.raises(TypeError, match=r"value\['a'\] is a Tensor of layout torch.sparse_coo"):
        round_trip(path, {"a": torch.eye(2).to_sparse()})


def test_unique_objects(path: Path) -> None:
    def make() -> dict[str, Any]:
        return {"images": Thing(pixels=torch.zeros(1000)), "labels": [1, 2, 3]}

    unique, again = make(), make()
    value = [unique["images"].pixels, unique["images"], Thing(labels=unique["labels"])]
    write_state(path, {}, {"value": value}, unique_objects=unique, skip=nothing_skipped)
    restored = read(path, unique=again)
    assert restored[0] is again["images"].pixels
    assert restored[1] is again["images"]
    assert restored[2].labels is again["labels"]
    assert path.stat().st_size < 4000
    again["labels"].append(4)
    with pytest.raises(ValueError, match=r"expected \['builtins', 'list', 3\] at objects.labels, found .*4"):
        read(path, unique=again)


def forge(path: Path, **record: Any) -> None:
    """Writes a state file whose value is the given record."""
    records = [{"kind": "dict", "items": [["value", [1]]], "factory": None}, record]
    table = torch.frombuffer(bytearray(json.dumps({"records": records, "blocks": []}).encode()), dtype=torch.uint8)
    save_file({"table": table}, path, metadata={"format": "clpack state", "schema": "1"})


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("subprocess", "Popen"),
        ("pathlib", "os.system"),
        ("torch.nn.functional", "torch.load"),
        ("torch.serialization", "load"),
        ("avalanche.training.checkpoint", "maybe_load_checkpoint"),
        ("clpack.files", "os.system"),
        ("clpack.files", "write_text"),
        (Counted.__module__, "read"),
        ("not_imported", "anything"),
    ],
)
def test_hostile_references(module: str, name: str, path: Path) -> None:
    for record in (
        {"kind": "named", "name": [module, name]},
        {"kind": "object", "class": [module, name], "attributes": []},
        {"kind": "list", "class": [module, name], "items": [], "attributes": []},
        {"kind": "enum", "class": [module, name], "name": "x"},
    ):
        forge(path, **record)
        with pytest.raises(ValueError, match=f"the checkpoint refers to {module}.{name}, which is neither"):
            read(path, live=Counted(0))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "exit"},
        {"kind": "object", "class": ["builtins", "dict"], "attributes": []},
        {"kind": "torch", "name": "from_file"},
        {"kind": "dtype", "name": "load"},
        {"kind": "bitgenerator", "name": "load", "state": None},
    ],
    ids=str,
)
def test_forged_records(record: dict[str, Any], path: Path) -> None:
    forge(path, **record)
    with pytest.raises(ValueError, match="the checkpoint is damaged"):
        read(path)


def test_constructors_are_not_called(path: Path) -> None:
    made = functools.partial(collections.Counter, "aab")
    assert round_trip(path, made, live=functools.partial(collections.Counter))() == {"a": 2, "b": 1}
    with pytest.raises(ValueError, match="calls <class 'collections.Counter'>, which is not a function"):
        read(path)


def test_headers(path: Path) -> None:
    round_trip(path, 1)
    assert read_header(path)["token"] == "t"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of clpack"):
        read_header(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "clpack state", "schema": "2"})
    with pytest.raises(ValueError, match="has checkpoint schema '2', this version of clpack reads '1'"):
        read_header(path)


def test_file_is_plain_safetensors(path: Path) -> None:
    round_trip(path, [torch.ones(3)])
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"0", "table"}
        assert json.loads(file.get_tensor("table").numpy().tobytes())["records"][0]["kind"] == "dict"
