"""The data path: ids, fields, and what training and storage policies see after a rewrite."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from avalanche.benchmarks import (
    class_incremental_benchmark,
    nc_benchmark,
    task_incremental_benchmark,
    with_classes_timeline,
)
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, as_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from avalanche.training import Cumulative, Naive
from avalanche.training.plugins import EWCPlugin, ReplayPlugin
from sklearn.datasets import load_digits
from torch import nn

from clpack.data import BatchTransform, TensorImages
from clpack.strategies.data import (
    SAMPLE_ID,
    add_samples,
    attach_sample_ids,
    batch_field,
    dataset_field,
    decode_sample_ids,
    encode_sample_ids,
    keep_samples,
    replace_samples,
    synthetic_dataset,
)

N_EXPERIENCES = 5
LABELLED = ("classes, labelled", "tasks, newer family")
STREAMS = ("classes", "classes, newer family", *LABELLED)


class Doubled(BatchTransform):
    def __call__(self, images):
        return images * 2


def digits(count=200):
    images, targets = load_digits(return_X_y=True)
    return TensorImages(torch.tensor(images[:count] / 16, dtype=torch.float32).view(-1, 1, 8, 8), targets[:count])


def make_stream(kind, data=None):
    data = digits() if data is None else data
    if kind.startswith("classes") and "newer" not in kind:
        labelled = kind in LABELLED
        return nc_benchmark(
            data,
            data,
            N_EXPERIENCES,
            task_labels=labelled,
            shuffle=False,
            class_ids_from_zero_in_each_exp=labelled,
            train_transform=Doubled(),
            eval_transform=Doubled(),
        ).train_stream
    groups = {"train": (Doubled(), None), "eval": (Doubled(), None)}
    benchmark = class_incremental_benchmark(
        {"train": as_classification_dataset(data, transform_groups=groups)},
        num_experiences=N_EXPERIENCES,
        class_order=list(range(10)),
    )
    if kind in LABELLED:
        benchmark = with_classes_timeline(task_incremental_benchmark(benchmark))
        for experience in benchmark.train_stream:  # MultiHeadClassifier takes lists, not sets
            experience.classes_in_this_experience = sorted(experience.classes_in_this_experience)
    return benchmark.train_stream


class GrowingHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.classifier = IncrementalClassifier(64, initial_out_features=2)

    def forward(self, x):
        return self.classifier(x.flatten(1))


class TaskHeads(MultiTaskModule):
    def __init__(self):
        super().__init__()
        self.heads = MultiHeadClassifier(64, initial_out_features=2)

    def forward(self, x, task_labels):
        return self.heads(x.flatten(1), task_labels)


class Recorder(SupervisedPlugin):
    """Attaches ids, rewrites the data with ``rewrite`` in ``hook``, and keeps what the batches held."""

    def __init__(self, rewrite=None, hook="after_train_dataset_adaptation"):
        super().__init__()
        self.seen = []
        if rewrite is not None:
            setattr(self, hook, rewrite)

    def before_train_dataset_adaptation(self, strategy, **kwargs):
        attach_sample_ids(strategy)
        self.seen.append([])

    def before_training_iteration(self, strategy, **kwargs):
        self.seen[-1].append((batch_field(strategy, SAMPLE_ID), strategy.mb_x, strategy.mb_y, strategy.mbatch[-1]))

    def epoch(self, experience):
        ids, images, targets, last = map(torch.cat, zip(*self.seen[experience], strict=True))
        return ids, images, targets, last


def train(stream, plugins, *, model=None, template=Naive, epochs=1, experiences=3):
    torch.manual_seed(0)
    if model is None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    strategy = template(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=16,
        train_epochs=epochs,
        plugins=plugins,
        evaluator=None,
    )
    for experience in stream[:experiences]:
        strategy.train(experience)
    return strategy


def test_sample_ids_are_experience_and_row():
    rows = torch.tensor([0, 5, 2**32 - 1])
    ids = encode_sample_ids(3, rows)
    assert ids.tolist() == [12884901888, 12884901893, 17179869183]
    experiences, decoded = decode_sample_ids(torch.cat([ids, torch.tensor([-1])]))
    assert experiences.tolist() == [3, 3, 3, -1]
    assert decoded.tolist() == [0, 5, 2**32 - 1, -1]


@pytest.mark.parametrize("kind", STREAMS)
def test_ids_name_the_samples_of_the_batch(kind):
    stream = make_stream(kind)
    first, second = Recorder(), Recorder()
    train(stream, [first, second], epochs=2)
    for number, experience in enumerate(stream[:3]):
        ids, images, targets, task_labels = first.epoch(number)
        assert torch.equal(ids, second.epoch(number)[0])
        experiences, rows = decode_sample_ids(ids)
        assert experiences.unique().tolist() == [number]
        original = experience.dataset
        assert sorted(rows.tolist()) == sorted([*range(len(original))] * 2)
        assert torch.equal(images, torch.stack([original[row][0] for row in rows.tolist()]))
        assert targets.tolist() == [original[row][1] for row in rows.tolist()]
        if kind in LABELLED:
            assert task_labels.unique().tolist() == [number]
        assert SAMPLE_ID not in original._data_attributes


@pytest.mark.parametrize("kind", LABELLED)
def test_task_label_stays_the_last_column_in_replay_batches(kind):
    stream, recorder = make_stream(kind), Recorder()
    model = TaskHeads()
    train(stream, [recorder, ReplayPlugin(mem_size=30), EWCPlugin(ewc_lambda=0.1)], model=model)
    ids, images, targets, task_labels = recorder.epoch(2)
    experiences, rows = decode_sample_ids(ids)
    assert experiences.unique().tolist() == [0, 1, 2]
    assert torch.equal(task_labels, experiences)
    for number, row, image, target in zip(experiences.tolist(), rows.tolist(), images, targets.tolist(), strict=True):
        sample = stream[number].dataset[row]
        assert torch.equal(image, sample[0])
        assert target == sample[1]


@pytest.mark.parametrize("kind", STREAMS)
def test_dataset_field_equals_reading_the_attribute_sample_by_sample(kind):
    stream = make_stream(kind)
    data = stream[2].dataset.subset([7, 1, 1, 3]).concat(stream[0].dataset.subset(range(2, 9)))
    names = ["targets", *(["targets_task_labels"] if kind in LABELLED else [])]
    for name in names:
        values = dataset_field(data, name)
        assert values.dtype == torch.int64
        assert values.tolist() == list(data._data_attributes[name])


def test_dataset_field_reads_every_form_of_attribute():
    data = AvalancheDataset([digits(6)])
    for values in (range(3, 9), [5, 4, 3, 2, 1, 0], torch.arange(6) * 2, np.arange(6) * 3):
        named = data.update_data_attribute("given", DataAttribute(values, "given")).subset([5, 0])
        assert dataset_field(named, "given").tolist() == [int(values[5]), int(values[0])]
    with pytest.raises(ValueError, match=r"no field 'absent', only \['given'\]"):
        dataset_field(named, "absent")


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("hook", ["after_train_dataset_adaptation", "before_training_exp"])
@pytest.mark.parametrize("storage", ["training", "original"])
def test_keep_samples(kind, hook, storage):
    stream = make_stream(kind)

    def keep_even_rows(strategy, **kwargs):
        ids = dataset_field(strategy.adapted_dataset, SAMPLE_ID)
        keep_samples(strategy, ids[ids % 2 == 0].flip(0), storage=storage, **kwargs)

    recorder, replay = Recorder(keep_even_rows, hook), ReplayPlugin(mem_size=1000)
    strategy = train(stream, [recorder, replay])
    for number, experience in enumerate(stream[:3]):
        size = len(experience.dataset)
        experiences, rows = decode_sample_ids(recorder.epoch(number)[0])
        assert sorted(rows[experiences == number].tolist()) == list(range(0, size, 2))
        experiences, rows = decode_sample_ids(dataset_field(replay.storage_policy.buffer, SAMPLE_ID))
        stored = range(0, size, 2) if storage == "training" else range(size)
        assert sorted(rows[experiences == number].tolist()) == list(stored)
        if kind in LABELLED:
            assert set(recorder.epoch(number)[3].tolist()) <= set(range(number + 1))
    assert strategy.clock.train_exp_counter == 3


def test_keeping_everything_changes_nothing_and_the_order_of_ids_does_not_matter():
    def weights(choose):
        def keep(strategy, **kwargs):
            keep_samples(strategy, choose(dataset_field(strategy.adapted_dataset, SAMPLE_ID)), **kwargs)

        strategy = train(make_stream("classes"), [Recorder(keep if choose else None)])
        return strategy.model[1].weight

    assert torch.equal(weights(lambda ids: ids), weights(None))
    assert torch.equal(weights(lambda ids: ids[:20]), weights(lambda ids: ids[:20].flip(0)))
    assert not torch.equal(weights(lambda ids: ids[:20]), weights(None))


def test_keep_samples_leaves_the_samples_of_earlier_experiences():
    def keep_first(strategy, **kwargs):
        ids = dataset_field(strategy.experience.dataset, SAMPLE_ID)
        keep_samples(strategy, ids[:3], storage="original", **kwargs)

    recorder = Recorder(keep_first)
    stream = make_stream("classes")
    train(stream, [recorder], template=Cumulative)
    experiences = decode_sample_ids(recorder.epoch(2)[0])[0]
    sizes = [len(experience.dataset) for experience in stream]
    assert experiences.bincount().tolist() == [sizes[0], sizes[1], 3]


@pytest.mark.parametrize(
    ("kind", "model"), [("classes", GrowingHead), ("classes, newer family", GrowingHead), (LABELLED[0], TaskHeads)]
)
def test_pruned_training_of_growing_heads(kind, model):
    def keep_half(strategy, **kwargs):
        ids = dataset_field(strategy.adapted_dataset, SAMPLE_ID)
        keep_samples(strategy, ids[: len(ids) // 2], **kwargs)

    recorder = Recorder(keep_half, "before_training_exp")
    strategy = train(make_stream(kind), [recorder, ReplayPlugin(mem_size=20)], model=model(), epochs=8)
    heads = [module for module in strategy.model.modules() if isinstance(module, IncrementalClassifier)]
    assert [head.classifier.out_features for head in heads] == ([6] if model is GrowingHead else [2, 2, 2])
    _, images, targets, task_labels = recorder.epoch(2)
    with torch.no_grad():
        outputs = strategy.model(images, task_labels) if model is TaskHeads else strategy.model(images)
    assert (outputs.argmax(1) == targets).float().mean() > 0.8


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("storage", ["training", "original"])
def test_added_synthetic_samples(kind, storage):
    stream = make_stream(kind)

    def add_impressions(strategy, **kwargs):
        images = torch.full((4, 1, 8, 8), 7.0)
        impressions = synthetic_dataset(strategy.adapted_dataset, images, [0, 1, 0, 1])
        add_samples(strategy, impressions, storage=storage, **kwargs)

    recorder, replay = Recorder(add_impressions), ReplayPlugin(mem_size=1000)
    train(stream, [recorder, replay])
    ids, images, targets, task_labels = recorder.epoch(1)
    synthetic = ids == -1
    assert bool((images[synthetic] == 7).all())  # the stream's transform would have doubled them
    assert targets[synthetic].tolist().count(0) * 2 == int(synthetic.sum())
    assert decode_sample_ids(ids[~synthetic])[0].unique().tolist() == [0, 1]
    if kind in LABELLED:
        assert set(task_labels[synthetic].tolist()) == ({0, 1} if storage == "training" else {1})
    stored = dataset_field(replay.storage_policy.buffer, SAMPLE_ID)
    assert int((stored == -1).sum()) == (12 if storage == "training" else 0)
    assert int((stored >= 0).sum()) == sum(len(experience.dataset) for experience in stream[:3])


@pytest.mark.parametrize("kind", STREAMS)
def test_replaced_by_a_condensed_set(kind):
    stream = make_stream(kind)

    def condense(strategy, **kwargs):
        condensed = synthetic_dataset(
            strategy.experience.dataset, torch.full((6, 1, 8, 8), 0.5), [0, 0, 0, 1, 1, 1], transform=Doubled()
        )
        replace_samples(strategy, condensed, **kwargs)

    recorder, replay = Recorder(condense, "before_training_exp"), ReplayPlugin(mem_size=10)
    train(stream, [recorder, replay], experiences=1)
    ids, images, targets, task_labels = recorder.epoch(0)
    assert ids.tolist() == [-1] * 6
    assert bool((images == 1).all())  # 0.5, doubled by its own transform once
    assert sorted(targets.tolist()) == [0, 0, 0, 1, 1, 1]
    if kind in LABELLED:
        assert task_labels.tolist() == [0] * 6
    stored = dataset_field(replay.storage_policy.buffer, SAMPLE_ID)
    assert len(stored) == 10
    assert bool((stored >= 0).all())


def test_replacement_may_be_what_is_stored():
    def condense(strategy, **kwargs):
        condensed = synthetic_dataset(strategy.adapted_dataset, torch.zeros(6, 1, 8, 8), [0] * 6)
        replace_samples(strategy, condensed, storage="training", **kwargs)

    replay = ReplayPlugin(mem_size=10)
    train(make_stream("classes"), [Recorder(condense), replay], experiences=1)
    assert dataset_field(replay.storage_policy.buffer, SAMPLE_ID).tolist() == [-1] * 6


def test_synthetic_dataset_matches_further_fields_and_draws_nothing():
    plain = make_stream("classes, labelled")[1].dataset
    marks = DataAttribute([0] * len(plain), "is_memory", use_in_getitem=True)
    like = plain.update_data_attribute("is_memory", marks)
    images = torch.zeros(2, 1, 8, 8)
    before = torch.get_rng_state()
    made = synthetic_dataset(like, images, [0, 1], [3, 4], fields={"is_memory": [1, 1]})
    assert torch.equal(before, torch.get_rng_state())
    assert type(made) is type(like)
    assert list(made._data_attributes) == list(like._data_attributes)
    assert [list(made[row][1:]) for row in (0, 1)] == [[0, 3, 1], [1, 4, 1]]
    assert like.concat(made)[len(like)][2:] == [3, 1]

    with pytest.raises(ValueError, match=r"fields must hold values for \['is_memory'\] and nothing else, got \[\]"):
        synthetic_dataset(like, images, [0, 1])
    with pytest.raises(ValueError, match=r"nothing else, got \['is_memroy'\]"):
        synthetic_dataset(plain, images, [0, 1], fields={"is_memroy": [1, 1]})
    with pytest.raises(ValueError, match="'is_memory' must hold one value per image, got 1 for 2"):
        synthetic_dataset(like, images, [0, 1], fields={"is_memory": [1]})
    with pytest.raises(ValueError, match="one value per image, got 3 for 2"):
        synthetic_dataset(plain, images, [0, 1], [1, 1, 1])
    with pytest.raises(ValueError, match=r"holds several: \[0, 1\]"):
        synthetic_dataset(make_stream("classes, labelled")[0].dataset.concat(plain), images, [0, 1])
    with pytest.raises(ValueError, match=r"\(1, 8, 8, torch.float32\), got \(64, torch.float32\)"):
        synthetic_dataset(plain, images.flatten(1), [0, 1])
    with pytest.raises(ValueError, match="images is empty"):
        synthetic_dataset(plain, images[:0], [])
    with pytest.raises(ValueError, match="task_labels is 0, but the stream has no task labels"):
        synthetic_dataset(make_stream("classes, newer family")[0].dataset, images, [0, 1], 0)


def ready_strategy():
    """A strategy as it is in ``after_train_dataset_adaptation`` of experience 1."""
    strategy = train(make_stream("classes"), [], experiences=1)
    strategy.experience = copy.copy(make_stream("classes")[1])
    attach_sample_ids(strategy)
    strategy.adapted_dataset = strategy.experience.dataset.train()
    return strategy


def test_bad_ids_are_refused():
    strategy = ready_strategy()
    ids = dataset_field(strategy.adapted_dataset, SAMPLE_ID)
    with pytest.raises(ValueError, match="nothing would be left of experience 1"):
        keep_samples(strategy, ids[:0])
    with pytest.raises(ValueError, match=r"holds \[4294967298\] more than once"):
        keep_samples(strategy, torch.tensor([4294967298, 4294967297, 4294967298]))
    with pytest.raises(ValueError, match=r"1 ids, such as \(experience, row\) = \(0, 7\), that are not in"):
        keep_samples(strategy, torch.cat([ids[:2], torch.tensor([7])]))
    with pytest.raises(TypeError, match=r"sample_ids must be an int64 tensor of shape \(K,\)"):
        keep_samples(strategy, [0, 1])
    with pytest.raises(TypeError, match="int64 tensor"):
        keep_samples(strategy, torch.ones(len(ids), dtype=torch.bool))
    with pytest.raises(ValueError, match="storage must be 'training' or 'original', got 'kept'"):
        keep_samples(strategy, ids, storage="kept")


def test_bad_data_is_refused():
    strategy = ready_strategy()
    plain = make_stream("classes")[0].dataset
    with pytest.raises(ValueError, match=r"\('sample_id', True\).* got \[\('targets', False\), \('targets_task"):
        add_samples(strategy, plain)
    with pytest.raises(ValueError, match="got TensorImages; build it with synthetic_dataset"):
        replace_samples(strategy, digits(4))
    with pytest.raises(ValueError, match="dataset is empty"):
        replace_samples(strategy, strategy.adapted_dataset.subset([]))


def test_missing_ids_are_explained():
    class Reads(SupervisedPlugin):
        def before_forward(self, strategy, **kwargs):
            batch_field(strategy, SAMPLE_ID)

    with pytest.raises(ValueError, match=r"no field 'sample_id'.* call attach_sample_ids in before_train"):
        train(make_stream("classes"), [Reads()])
