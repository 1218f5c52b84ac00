"""The memory of condensed images, replay from it, and training on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets, dataset_benchmark, nc_benchmark
from avalanche.benchmarks.utils import DataAttribute
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import (
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    ReplayPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.storage_policy import HerdingSelectionStrategy
from avalanche.training.supervised import Naive
from torch import nn
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip

from clpack.benchmarks import NoisyDigits
from clpack.condensation import (
    CondensedSet,
    LowRankImages,
    augment,
    condense,
    dc_augment,
    equivalent_images_per_class,
    train_experts,
)
from clpack.data import TensorImages
from clpack.models import ConvNet
from clpack.randomness import generator_for
from clpack.strategies import (
    TAG,
    CheckpointPlugin,
    CondensedBuffer,
    CondensedMemoryMetric,
    CondensedReplay,
    CondensedReplayPlugin,
    InfoBatchPlugin,
    InMemoryLoaderPlugin,
    PruningPlugin,
    RandomStreamsPlugin,
    SubnetworkPlugin,
    TAGPlugin,
    maybe_load_checkpoint,
    save_checkpoint,
    with_head,
)
from clpack.strategies._images import read_images
from clpack.strategies._memory_sources import herding_order
from clpack.strategies.checkpoint import host_random_state


class Killed(Exception):
    """What a kill looks like from inside."""


def convnet(num_classes=10, in_channels=1, **options):
    return ConvNet(num_classes, input_size=8, in_channels=in_channels, width=8, depth=2, **options)


FAST = {"network": convnet, "iterations": 2, "batch_real": 8}
MTT = {"syn_steps": 2, "max_start_epoch": 2, "num_experts": 2, "lr_img": 1.0}


def plugin(method="dm", rank=2, **options):
    fast = {**FAST, **MTT} if method == "mtt" else FAST
    return CondensedReplayPlugin(method, rank, **{"images_per_class": 1, **fast, **options})


def naive(*plugins, model=None, template=Naive, **options):
    if model is None:
        torch.manual_seed(3)
        model = convnet()
    if template is Naive:
        options = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), **options}
    evaluator = EvaluationPlugin(CondensedMemoryMetric(), loggers=[])
    options = {"train_mb_size": 32, "train_epochs": 1, "evaluator": evaluator, **options}
    return template(model=model, plugins=list(plugins), **options)


def images_of(memory):
    """The images of each class of a memory."""
    return {label: memory.images(memory.targets == label) for label in memory.targets.unique().tolist()}


def condensed_set(side, classes):
    """A set of one image of each class."""
    targets = torch.tensor(list(classes))
    return CondensedSet(LowRankImages(len(targets), 1, side, side, 2), targets)


def weights(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class Watch(SupervisedPlugin):
    """Notes something of every iteration."""

    def __init__(self, what):
        super().__init__()
        self.what, self.notes = what, []

    def after_forward(self, strategy, **kwargs):
        self.notes.append(self.what(strategy))


class TestBudget:
    @pytest.mark.parametrize("seed", range(25))
    def test_is_never_exceeded(self, seed):
        draw = np.random.default_rng(seed)
        channels, side = int(draw.choice([1, 3])), int(draw.integers(6, 12))
        rank, half = draw.choice([None, 1, 2, 3]), bool(draw.integers(2))
        sizes = draw.integers(3, 9, size=6)
        targets = torch.arange(6).repeat_interleave(torch.from_numpy(sizes))
        data = TensorImages(torch.randn(len(targets), channels, side, side), targets)
        stream = nc_benchmark(data, data, 3, False, shuffle=False)
        size = 4 * channels * (side * side if rank is None else rank * 2 * side) // (1 + half) + 8
        budget = int(draw.integers(6 * size, 20 * size))
        policy = CondensedBuffer(
            "dm",
            rank,
            memory_bytes=budget,
            precision="float16" if half else "float32",
            init="noise",
            network=lambda: ConvNet(6, input_size=side, in_channels=channels, width=2, depth=1),
            iterations=1,
        )
        strategy = naive()
        for experience in stream.train_stream:
            policy.post_adapt(strategy, experience)
            classes = 2 * (experience.current_experience + 1)
            stored = [tensor for each in policy._sets.values() for tensor in each.storage.state_dict().values()]
            assert policy.nbytes == sum(tensor.nbytes for tensor in stored) + 8 * len(policy) <= budget
            assert {len(images) for images in images_of(policy.memory).values()} == {budget // classes // size}
            assert {tensor.dtype for tensor in stored} == {torch.float16 if half else torch.float32}

    def test_the_last_images_go_first(self, make_stream):
        stream, policy, strategy = make_stream(5), CondensedBuffer(memory_bytes=4000, **FAST), naive()
        policy.post_adapt(strategy, stream.train_stream[0])
        before = images_of(policy.memory)
        policy.post_adapt(strategy, stream.train_stream[1])
        after = images_of(policy.memory)
        assert [len(before[0]), len(after[0]), len(after[3])] == [14, 7, 7]  # 4000 / K / (4 * 32 + 8)
        assert torch.equal(after[0], before[0][:7])
        policy.resize(strategy, 600)
        assert torch.equal(images_of(policy.memory)[0], before[0][:1])
        with pytest.raises(ValueError, match="must be at least 544, for an image of 136 bytes, .* got 500"):
            policy.resize(strategy, 500)
        assert policy.max_size == 600

    def test_plain_images_of_each_class(self, make_stream):
        for rank, numbers in ((None, 64), (1, 16), (3, 48)):
            policy = CondensedBuffer("dm", rank, images_per_class=5, **FAST)
            policy.post_adapt(naive(), make_stream(5).train_stream[0])
            count = 5 if rank is None else equivalent_images_per_class(5, 8, 8, rank)
            assert (len(policy), policy.numel, policy.nbytes) == (
                2 * count,
                2 * count * numbers,
                2 * count * (4 * numbers + 8),
            )

    @pytest.mark.parametrize("method", ["dm", "dc"])
    def test_no_more_images_than_samples_to_begin_with(self, method):
        targets = torch.tensor([0] * 30 + [1] * 30 + [2] * 3 + [3] * 30)
        data = TensorImages(torch.randn(len(targets), 1, 8, 8), targets)
        stream = nc_benchmark(data, data, 2, False, shuffle=False)
        policy, strategy = CondensedBuffer(method, memory_bytes=80 * 136, init="svd", **FAST, loops=(1, 0)), naive()
        counts = []
        for experience in stream.train_stream:
            policy.post_adapt(strategy, experience)
            counts.append([len(images) for images in images_of(policy.memory).values()])
        assert counts == [[30, 30], [20, 20, 3, 20 if method == "dm" else 3]]  # DC makes equally many at once
        with pytest.raises(ValueError, match="init='svd' needs 4 samples .* class 2 has 3"):
            naive(plugin(method, init="svd", images_per_class=2)).train(stream.train_stream[0])  # the class comes later

    def test_too_small_for_the_stream(self, make_stream):
        strategy = naive(plugin(images_per_class=None, memory_bytes=1359))
        with pytest.raises(ValueError, match=r"at least 1360, for an image of 136 bytes, .* 10 classes, got 1359"):
            strategy.train(make_stream(5).train_stream[0])
        assert strategy.clock.train_iterations == 0

    def test_is_logged(self, make_stream):
        strategy = naive(plugin(rank=1))
        for experience in make_stream(5).train_stream[:2]:
            strategy.train(experience)
        found = {name: values[1] for name, values in strategy.evaluator.get_all_metrics().items()}
        assert found == {
            f"Memory_{what}/train_phase/Exp00{k}": [value * (k + 1)]
            for k in (0, 1)
            for what, value in (("Images", 8), ("Numbers", 128), ("Bytes", 576))
        }


class TestMemory:
    def test_dm_does_not_depend_on_the_order_of_classes(self, digits):
        memories = []
        for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 1, 0, 2]):
            policy, strategy = CondensedBuffer(**FAST), naive()
            for experience in nc_benchmark(*digits, len(order) // 2, False, fixed_class_order=order).train_stream:
                policy.post_adapt(strategy, experience)
            memories.append(images_of(policy.memory))
        for memory in memories[1:]:
            assert all(torch.equal(images, memory[label]) for label, images in memories[0].items())

    @pytest.mark.parametrize(("device", "together"), [("cpu", 1), ("cuda", 2)])
    def test_classes_that_dm_condenses_together(self, make_stream, monkeypatch, device, together):
        def stop(images, targets, **options):
            assert len(targets.unique()) == together
            raise Killed

        monkeypatch.setattr("clpack.strategies._memory_sources.condense", stop)
        strategy = naive()
        strategy.device = torch.device(device)
        with pytest.raises(Killed):
            CondensedBuffer(**FAST).post_adapt(strategy, make_stream(5).train_stream[0])

    @pytest.mark.parametrize("method", ["dc", "dsa", "dm"])
    def test_is_what_condense_makes(self, make_stream, method):
        network = convnet if method != "dm" else lambda: convnet(norm="batch")  # which takes all classes at once
        options = {**FAST, "network": network, "seed": 4, "augmentation": "flip"}
        policy, experience = CondensedBuffer(method, images_per_class=2, **options), make_stream(5).train_stream[1]
        policy.post_adapt(naive(), experience)
        expected = condense(*read_images(experience.dataset), method=method, rank=2, images_per_class=2, **options)
        assert torch.equal(policy.memory.images(), expected.images())
        assert torch.equal(policy.memory.targets, expected.targets)

    @pytest.mark.parametrize("augmentation", ["flip", "none"])
    def test_trajectories_are_those_of_the_experience(self, make_stream, tmp_path, augmentation):
        settings = {"seed": 4, "network": convnet}
        matching = {"iterations": 2, "syn_steps": 2, "max_start_epoch": 2, "lr_img": 1.0, "augmentation": augmentation}
        experts = {"num_experts": 2, "expert_lr": 0.02, "expert_batch_size": 16}
        policy, experience = CondensedBuffer("mtt", **settings, **matching, **experts), make_stream(5).train_stream[1]
        policy.post_adapt(naive(), experience)
        data, trained = read_images(experience.dataset), {"augmentation": augmentation}
        if augmentation == "none":
            trained = {"augmentation": "crop_scale_rotate", "family": "dc"}
        # the first epochs are the same however many follow
        trained = train_experts(
            *data, tmp_path, num_experts=2, epochs=5, lr=0.02, batch_size=16, num_classes=10, **trained, **settings
        )
        expected = condense(
            *data, method="mtt", rank=2, images_per_class=10, experts=trained, num_classes=10, **settings, **matching
        )
        assert torch.equal(policy.memory.images(), expected.images())
        assert policy.learned_lr == expected.metadata["lr"] != 0.01

    def test_inner_and_outer_loops_are_those_of_the_plain_images(self, make_stream, monkeypatch):
        asked = {}

        def stop(*args, **options):
            asked.update(options)
            raise Killed

        monkeypatch.setattr("clpack.strategies._memory_sources.condense", stop)
        policy = CondensedBuffer("dc", 2, memory_bytes=2 * 20 * 136, **FAST)  # 20 images in the memory of 10
        with pytest.raises(Killed):
            policy.post_adapt(naive(), make_stream(5).train_stream[0])
        assert (asked["images_per_class"], asked["keep_ipc"], asked["loops"]) == (20, True, (10, 50))

    def test_half_precision(self, make_stream):
        policies = [CondensedBuffer(precision=precision, **FAST) for precision in ("float32", "float16")]
        for policy in policies:
            policy.post_adapt(naive(), make_stream(5).train_stream[0])
        full, half = policies
        assert half.nbytes == full.nbytes // 2 + 4 * len(half)
        assert torch.allclose(half.memory.images(), full.memory.images(), rtol=1e-2, atol=1e-2)
        assert half.buffer[0][0].dtype is torch.float32

    def test_a_class_that_returns_is_condensed_anew(self, digits):
        data, halves = digits[0], (slice(300), slice(300, 600))
        stream = dataset_benchmark(
            [TensorImages(data.images[rows], data.targets[rows]) for rows in halves], [digits[1]]
        )
        policy, alone, strategy = CondensedBuffer(**FAST), CondensedBuffer(**FAST), naive()
        for experience in stream.train_stream:
            policy.post_adapt(strategy, experience)
        alone.post_adapt(strategy, stream.train_stream[1])
        assert torch.equal(policy.memory.images(), alone.memory.images())

    def test_the_same_class_of_two_tasks(self, make_stream):
        stream = make_stream(5, True, class_ids_from_zero_in_each_exp=True)
        policy, strategy = CondensedBuffer(images_per_class=1, rank=0, **FAST), naive()
        for experience in stream.train_stream[:2]:
            policy.post_adapt(strategy, experience)
        assert [(sample[1], sample[-1]) for sample in policy.buffer] == [(0, 0), (1, 0), (0, 1), (1, 1)]

    def test_classes_of_unequal_size_and_one_class_at_a_time(self):
        targets = torch.tensor([0] * 3 + [1] * 20 + [2])
        data = TensorImages(torch.randn(len(targets), 3, 8, 8), targets)
        policy, strategy = CondensedBuffer(**{**FAST, "network": lambda: convnet(3, 3)}), naive()
        for experience in nc_benchmark(data, data, 3, False, shuffle=False).train_stream:
            policy.post_adapt(strategy, experience)
        assert policy.memory.targets.tolist() == [0] * 20 + [1] * 20 + [2] * 20
        assert policy.buffer[0][0].shape == (3, 8, 8)

    def test_a_set_made_before(self, digits, make_stream):
        images, targets = digits[0].images, torch.tensor(digits[0].targets)
        ready = condense(images, targets, method="dm", rank=2, images_per_class=2, **FAST)
        policy, strategy = CondensedBuffer(condensed=ready), naive()
        short = CondensedBuffer(condensed=ready, memory_bytes=10 * 136 * 3)
        for experience in make_stream(5).train_stream:
            policy.post_adapt(strategy, experience)
            short.post_adapt(strategy, experience)
            seen = 2 * (experience.current_experience + 1)
            assert sorted(images_of(policy.memory)) == list(range(seen))
        assert torch.equal(policy.memory.images(), ready.images())
        expected = {label: images[:3] for label, images in images_of(ready).items()}
        assert all(torch.equal(images, expected[label]) for label, images in images_of(short.memory).items())

    def test_a_set_that_does_not_fit(self, make_stream):
        ready = condensed_set(8, range(10))
        streams = {"one": make_stream(5), "tasks": make_stream(5, True, class_ids_from_zero_in_each_exp=True)}
        for condensed, stream, message in (
            (condensed_set(8, range(4)), "one", r"all classes of the stream, got none of \[4, 5, 6, 7, 8, 9\]"),
            (condensed_set(9, range(10)), "one", r"shape of the stream, \(1, 8, 8\), got \(1, 9, 9\)"),
            (ready, "tasks", "several tasks of the stream number their classes alike"),
        ):
            strategy = naive(CondensedReplayPlugin(condensed=condensed))
            with pytest.raises(ValueError, match=message):
                strategy.train(streams[stream].train_stream[0])
            assert strategy.clock.train_iterations == 0

    def test_images_are_those_of_the_evaluation_transform(self, digits):
        normalize = Normalize([0.3], [0.4])
        options = {"train_transform": Compose([RandomHorizontalFlip(1.0), normalize]), "eval_transform": normalize}
        stream = nc_benchmark(*digits, 5, False, shuffle=False, **options)
        policy = CondensedBuffer("random", images_per_class=3)
        policy.post_adapt(naive(), stream.train_stream[0])
        samples = {normalize(image).numpy().tobytes() for image in digits[0].images}
        assert all(sample[0].numpy().tobytes() in samples for sample in policy.buffer.train())

    def test_random_and_herding(self, digits, make_stream):
        features = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = HerdingSelectionStrategy.make_sorted_indices_from_features(None, features)
        assert herding_order(features, 30).tolist() == expected
        assert herding_order(features, 4).tolist() == expected[:4]
        experience, kept = make_stream(5).train_stream[0], {}
        for method in ("random", "herding"):
            for seed in (0, 1):
                policy = CondensedBuffer(method, images_per_class=4, network=convnet, seed=seed)
                policy.post_adapt(naive(), experience)
                assert (len(policy), policy.numel, policy.nbytes) == (8, 512, 512 + 64)
                kept[method, seed] = policy.memory.images()
                policy.resize(None, 2)
                assert torch.equal(policy.memory.images(), kept[method, seed][[0, 1, 4, 5]])
        assert len({images.numpy().tobytes() for images in kept.values()}) == 4

    def test_nothing_else_changes(self, make_stream):
        stream, strategy = make_stream(5), naive()
        strategy.train(stream.train_stream[0])
        before = [parameter.clone() for parameter in strategy.model.parameters()]
        momentum = [state["momentum_buffer"].clone() for state in strategy.optimizer.state.values()]
        modes = [module.training for module in strategy.model.modules()]
        state = host_random_state()
        for method in ("dc", "dm", "mtt", "herding"):
            policy = plugin(method).storage_policy
            policy.post_adapt(strategy, stream.train_stream[1])
        assert state == host_random_state()
        assert all(map(torch.equal, before, strategy.model.parameters()))
        assert all(map(torch.equal, momentum, [s["momentum_buffer"] for s in strategy.optimizer.state.values()]))
        assert modes == [module.training for module in strategy.model.modules()]

    def test_data_that_cannot_be_gathered(self, digits):
        class Slow(TensorImages):
            pass

        strategy, memories = naive(), []
        for kind in (TensorImages, Slow):
            stream = nc_benchmark(kind(digits[0].images, digits[0].targets), digits[1], 5, False, shuffle=False)
            policy, state = CondensedBuffer(**FAST), host_random_state()
            policy.post_adapt(strategy, stream.train_stream[0])
            assert state == host_random_state()
            memories.append(policy.memory.images())
        assert torch.equal(*memories)

    def test_transforms_that_draw_from_any_generator(self, digits):
        def draw(image):
            return image + 0 * (random.random() + np.random.mtrand.random() + torch.rand(()))

        stream = nc_benchmark(*digits, 5, False, shuffle=False, eval_transform=draw, train_transform=draw)
        policy, strategy, state = CondensedBuffer(**FAST), naive(), host_random_state()
        policy.post_adapt(strategy, stream.train_stream[0])
        assert state == host_random_state()

    def test_images_of_several_sizes(self, digits):
        class Mixed(TensorImages):
            def __getitem__(self, index):
                image, label = super().__getitem__(index)
                return (image[..., :7] if index == 20 else image), label

        data = Mixed(digits[0].images, digits[0].targets)
        stream = nc_benchmark(data, digits[1], 1, False)
        with pytest.raises(ValueError, match=r"of one size to be condensed, got \(1, 8, 7\), \(1, 8, 8\); let eval_"):
            CondensedBuffer(**FAST).post_adapt(naive(), stream.train_stream[0])

    def test_what_is_told_about_it(self, make_stream, tmp_path):
        parts = []
        options = {**FAST, "callbacks": [lambda progress: parts.append(progress.part)], "save_to": tmp_path}
        policy, strategy = CondensedBuffer(memory_bytes=4000, **options), naive()
        for experience in make_stream(5, True).train_stream[:2]:
            policy.post_adapt(strategy, experience)
        names = [f"experience_00{task}_task_{task}_class_{label}" for task, label in ((0, 0), (0, 1), (1, 2), (1, 3))]
        assert list(dict.fromkeys(parts)) == names
        told = CondensedSet.load(tmp_path / "experience_001.safetensors").metadata
        assert told["classes"] == [{"task": k // 2, "class": k, "images": 7} for k in range(4)]
        assert told["settings"]["rank"] == 2
        assert "images_per_class" not in told["settings"]  # 14 for the first two classes, 7 for the others

    def test_works_in_avalanches_replay(self, make_stream):
        policy = CondensedBuffer(images_per_class=2, **FAST)
        strategy = naive(ReplayPlugin(mem_size=2, storage_policy=policy))
        for experience in make_stream(5).train_stream[:2]:
            strategy.train(experience)
        assert len(policy.buffer) == len(policy) == 16


@pytest.mark.parametrize("method", ["dm", "dc", "mtt", "random"])
def test_no_sample_is_in_a_checkpoint(make_stream, digits, tmp_path, method):
    path = tmp_path / "state.safetensors"
    normalize = Normalize([0.3], [0.4])  # samples are looked for as they are, and as they are condensed
    stream = make_stream(5, train_transform=normalize, eval_transform=normalize)
    contents, names = [], set()

    def collect(progress=None):
        for file in tmp_path.rglob("*.safetensors"):
            contents.append(file.read_bytes())
            names.add(file.name.split("_")[0])

    own = plugin(method, save_to=tmp_path / "memory", callbacks=[collect], checkpoint_every=1)
    while_condensing = {"mtt": {"condensation", "expert"}, "random": set()}.get(method, {"condensation"})
    strategy = naive(CheckpointPlugin(path, mode="iteration", save_every=2), own)
    for experience in stream.train_stream[:2]:
        strategy.train(experience)
    collect()
    save_checkpoint(strategy, path)
    contents.append(path.read_bytes())
    images = digits[0].images[torch.tensor(digits[0].targets) < 4]
    samples = [image.numpy().tobytes() for image in (*images, *normalize(images))]
    assert names >= {"experience", *while_condensing}
    assert any(sample in content for sample in samples for content in contents) == (method == "random")


class TestReplay:
    def test_batches_join_data_and_memory(self, make_stream):
        own, stream = plugin(images_per_class=4, batch_size_mem=8), make_stream(5)
        watch = Watch(lambda strategy: (strategy.mb_y[:-8].tolist(), strategy.mb_x[-8:], strategy.mb_y[-8:]))
        strategy = naive(InMemoryLoaderPlugin(), own, watch)
        strategy.train(stream.train_stream[0])
        assert all({*labels} <= {0, 1} for labels, _, _ in watch.notes)
        memory, first = images_of(own.storage_policy.memory), len(watch.notes)
        strategy.train(stream.train_stream[1])
        for labels, images, targets in watch.notes[first:]:
            assert {*labels} <= {2, 3}
            for image, label in zip(images, targets.tolist(), strict=True):
                assert (memory[label] == image).flatten(1).all(dim=1).any()
        assert {*own.storage_policy.memory.targets.tolist()} == {0, 1, 2, 3}

    @pytest.mark.parametrize("head", ["single", "incremental", "multi", "masked"])
    @pytest.mark.parametrize("beside", ["nothing", "EWC", "LwF", "TAG", "pruning"])
    def test_goes_with_others(self, make_stream, head, beside):
        labels = head in ("multi", "masked")
        stream, own = make_stream(5, labels), plugin()
        others = {"EWC": EWCPlugin(1.0), "LwF": LwFPlugin(), "pruning": PruningPlugin("random", min_per_class=0)}
        model = with_head(convnet(), head)
        before = [others[beside]] if beside in others else []
        options = {"template": TAG, "lr": 0.01} if beside == "TAG" else {}
        watch = Watch(lambda strategy: (strategy.mb_x, strategy.mb_y, strategy.mb_task_id))
        strategy = naive(*before, own, watch, model=model, **options)
        for experience in stream.train_stream[:3]:
            del watch.notes[:]
            memory = {image.numpy().tobytes(): (label, task) for image, label, *_, task in own.storage_policy.buffer}
            strategy.train(experience)
            strategy.eval(stream.test_stream)
            for batch in watch.notes:
                found = {image.numpy().tobytes(): (int(y), int(t)) for image, y, t in zip(*batch, strict=True)}
                assert memory.items() <= found.items()  # all four, eight or twelve
                assert len(found) > len(memory)
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        assert len(own.storage_policy) == 6 * 2
        if labels:
            assert [sample[-1] for sample in own.storage_policy.buffer] == [0] * 4 + [1] * 4 + [2] * 4

    @pytest.mark.parametrize("memory_only", [False, True])
    def test_streams_with_further_fields(self, memory_only):
        stream, own = NoisyDigits(5, seed=0, label_noise=20), plugin(memory_only=memory_only)
        strategy = naive(own)
        for experience in stream.train_stream[:2]:
            strategy.train(experience)
        assert len(own.storage_policy.buffer) == 8
        data = stream.train_stream[0].dataset
        shown = DataAttribute([0] * len(data), "is_changed", use_in_getitem=True)
        stream = benchmark_from_datasets(train=[data.update_data_attribute("is_changed", shown)])
        with pytest.raises(
            ValueError, match=r"have the fields \['is_changed'\], of which condensed images have no val"
        ):
            naive(plugin()).train(stream.train_stream[0])

    def test_kept_samples_are_what_is_condensed(self, make_stream):
        pruning, own = PruningPlugin("random", remove_fraction=0.8), plugin("random", images_per_class=100)
        experience = make_stream(5).train_stream[0]
        naive(pruning, own).train(experience)
        kept, memory = experience.dataset.subset(pruning.selections[0].kept.tolist()), own.storage_policy.memory
        assert {image.numpy().tobytes() for image in memory.images()} == {x.numpy().tobytes() for x, *_ in kept}

    def test_kept_samples_are_what_is_checked(self, make_stream):
        pruning = PruningPlugin("random", remove_fraction=0.98, min_per_class=0)
        strategy = naive(pruning, plugin(init="svd", images_per_class=2))
        with pytest.raises(ValueError, match=r"init='svd' needs 4 samples of each class .* class [01] has [123];"):
            strategy.train(make_stream(5).train_stream[0])
        assert strategy.clock.train_iterations == 0


class TestMemoryOnly:
    def test_trains_on_the_memory_with_new_weights(self, make_stream):
        own, stream, starts = plugin(memory_only=True, augmentation="none", seed=6), make_stream(5), []
        watch = Watch(lambda strategy: strategy.mb_x)

        class Begin(SupervisedPlugin):
            def before_training_epoch(self, strategy, **kwargs):
                starts.append(weights(strategy.model))
                assert not strategy.optimizer.state

        strategy = naive(own, watch, Begin())
        for experience in stream.train_stream[:2]:
            del watch.notes[:]
            strategy.train(experience)
            memory = own.storage_policy.memory.images()
            assert len(memory) == 4 * (experience.current_experience + 1)
            seen = torch.cat(watch.notes)
            assert torch.equal(seen.flatten(1).sort(0)[0], memory.flatten(1).sort(0)[0])
        assert not torch.equal(*starts)

        torch.manual_seed(77)  # weights are drawn from the seed of the plugin
        again = naive(plugin(memory_only=True, augmentation="none", seed=6), Begin(), model=convnet())
        again.train(stream.train_stream[0])
        assert torch.equal(starts[2], starts[0])

    @pytest.mark.parametrize("family", ["dsa", "dc"])
    def test_every_image_is_augmented_for_itself(self, make_stream, family):
        options = {"augmentation": "crop_rotate", "augmentation_family": family, "seed": 2}
        own, pairs = plugin(memory_only=True, **options), []

        class Before(SupervisedPlugin):
            def before_training_iteration(self, strategy, **kwargs):
                pairs.append([strategy.mb_x])

        after = Watch(lambda strategy: pairs[-1].append(strategy.mb_x))
        strategy = naive(Before(), own, after, train_mb_size=2, train_epochs=2)
        for experience in make_stream(5).train_stream[:2]:
            strategy.train(experience)
        epochs = [(0, 0)] * 2 + [(0, 1)] * 2 + [(1, 0)] * 4 + [(1, 1)] * 4
        assert len(pairs) == len(epochs)
        known = {}
        for (before, after), epoch in zip(pairs, epochs, strict=True):
            generator = known.setdefault(epoch, generator_for(2, "memory augmentation", *epoch))
            if family == "dsa":
                expected = augment(before, "crop_rotate", generator=generator, siamese=False)
            else:
                expected = dc_augment(before, "crop_rotate", generator=generator)
            assert torch.equal(after, expected)

    @pytest.mark.parametrize("kind", [float, torch.tensor])
    def test_learning_rate(self, make_stream, kind):
        model, rates = convnet(), Rates()
        groups = [{"params": model.features.parameters()}, {"params": model.linear.parameters(), "lr": kind(0.5)}]
        optimizer = torch.optim.SGD(groups, lr=kind(0.05), momentum=0.9)
        strategy = naive(plugin(memory_only=True), rates, model=model, optimizer=optimizer, train_epochs=7)
        for experience in make_stream(5).train_stream[:2]:
            strategy.train(experience)
        # after epoch 6 // 2 + 1, the rate falls and the momentum is gone
        high, low = pytest.approx([0.05, 0.5]), pytest.approx([0.005, 0.05])
        assert [rate for rate, _ in rates.notes] == 2 * (5 * [high] + 2 * [low])
        assert [momentum for _, momentum in rates.notes] == 2 * [False, True, True, True, True, False, True]
        assert [group["lr"] for group in optimizer.param_groups] == [kind(0.05), kind(0.5)]

    def test_learning_rate_that_was_learned_with_the_images(self, make_stream):
        own, rates, stream = plugin("mtt", memory_only=True, lr_lr=1e-5, init="svd"), Rates(), make_stream(5)
        strategy = naive(own, rates, train_epochs=4)
        for experience in stream.train_stream[:2]:
            strategy.train(experience)
        first, second = (each.metadata["lr"] for each in list(own.storage_policy._sets.values())[::2])
        assert first != second
        for rate, found in zip((first, (first + second) / 2), (rates.notes[:4], rates.notes[4:]), strict=True):
            assert [rate for rate, _ in found] == [pytest.approx([rate])] * 3 + [pytest.approx([0.1 * rate])]
        assert strategy.optimizer.param_groups[0]["lr"] == 0.05
        ready = condensed_set(8, range(10))
        ready.metadata["lr"] = -0.01
        with pytest.raises(ValueError, match=r"has learned the learning rate -0.01, .* lower lr_img or lr_lr"):
            naive(plugin(condensed=ready, memory_only=True)).train(stream.train_stream[0])

    @pytest.mark.parametrize("first", [True, False])
    def test_learning_rate_of_a_scheduler(self, make_stream, first):
        model, rates, own = convnet(), Rates(), plugin(memory_only=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.08)
        schedule = LRSchedulerPlugin(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch))
        plugins = [schedule, own, rates] if first else [own, schedule, rates]
        strategy = naive(*plugins, model=model, optimizer=optimizer, train_epochs=5)
        for experience in make_stream(5).train_stream[:2]:
            strategy.train(experience)
        assert [rate for rate, _ in rates.notes][:5] == [
            pytest.approx([rate]) for rate in (0.08, 0.04, 0.02, 0.01, 0.0005)
        ]
        assert optimizer.param_groups[0]["lr"] == 0.08

    def test_an_update_that_was_interrupted_lowers_nothing(self, make_stream):
        class Stop(SupervisedPlugin):
            def before_update(self, strategy, **kwargs):
                if strategy.clock.train_exp_epochs == 5:
                    assert strategy.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
                    raise Killed

        strategy, experience = naive(plugin(memory_only=True), Stop(), train_epochs=7), make_stream(5).train_stream[0]
        for _ in range(2):
            with pytest.raises(Killed):
                strategy.train(experience)

    @pytest.mark.parametrize("head", ["single", "incremental", "multi"])
    @pytest.mark.parametrize("method", ["dm", "herding"])
    def test_heads(self, make_stream, head, method):
        stream, model = make_stream(5, head == "multi"), with_head(convnet(), head)
        watch = Watch(lambda strategy: [*zip(strategy.mb_y.tolist(), strategy.mb_task_id.tolist(), strict=True)])
        strategy = naive(plugin(method, memory_only=True), watch, model=model)
        for experience in stream.train_stream[:3]:
            del watch.notes[:]
            strategy.train(experience)
            strategy.eval(stream.test_stream)
            labels = range(2 * experience.current_experience + 2)
            tasks = [label // 2 if head == "multi" else 0 for label in labels]
            assert set().union(*watch.notes) == {*zip(labels, tasks, strict=True)}
        assert torch.isfinite(weights(model)).all()

    def test_strategy(self, make_stream):
        options = {k: v for k, v in FAST.items() if k != "network"}
        own = naive(
            model=convnet(),
            template=CondensedReplay,
            optimizer=None,
            train_epochs=3,
            seed=5,
            images_per_class=2,
            condensation_options={**options, "network": convnet, "matching_augmentation": "none"},
        )
        model = convnet()
        same = naive(
            plugin(memory_only=True, seed=5, images_per_class=2, matching_augmentation="none"),
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4),
            train_epochs=3,
        )
        for strategy in (own, same):
            torch.manual_seed(1)
            for experience in make_stream(5).train_stream[:2]:
                strategy.train(experience)
        assert torch.equal(weights(own.model), weights(same.model))
        default = CondensedReplay(model=convnet())
        assert (default.train_epochs, default.train_mb_size) == (1001, 256)

    def test_what_does_not_go_together(self, make_stream):
        experience = make_stream(5).train_stream[0]
        others = (PruningPlugin("random"), InfoBatchPlugin(), ReplayPlugin(10), plugin(), EWCPlugin(1.0), LwFPlugin())
        for other in (*others, SynapticIntelligencePlugin(1.0), SubnetworkPlugin(), TAGPlugin()):
            strategy = naive(plugin(memory_only=True), other)
            with pytest.raises(ValueError, match=f"{type(other).__name__} needs samples of the stream, or the network"):
                strategy.train(experience)
            assert strategy.clock.train_iterations == 0

        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.factor = nn.Parameter(torch.ones(1))

        model = nn.Sequential(convnet(), Scale())
        with pytest.raises(ValueError, match="its module '1', a Scale, has parameters and no reset_parameters"):
            naive(plugin(memory_only=True), model=model).train(experience)


class Rates(SupervisedPlugin):
    """Notes with which learning rates the first update of each epoch is made, and whether there is momentum."""

    def __init__(self):
        super().__init__()
        self.notes = []

    def before_update(self, strategy, **kwargs):
        if strategy.clock.train_epoch_iterations == 0:
            rates = [float(group["lr"]) for group in strategy.optimizer.param_groups]
            self.notes.append((rates, bool(strategy.optimizer.state)))


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


@pytest.mark.parametrize(
    ("method", "memory_only", "step"),
    [("dm", False, 3), ("dm", False, 17), ("dm", True, 3), ("dm", True, 11), ("dm", True, 17), ("mtt", True, 17)],
)
def test_killed_runs_end_in_the_same_bits(make_stream, tmp_path, method, memory_only, step):
    def run(path, kill_at):
        torch.manual_seed(3)
        stream, own = make_stream(5), plugin(method, memory_only=memory_only)
        strategy = naive(
            CheckpointPlugin(path, save_every=2, mode="iteration", unique_objects=stream),
            RandomStreamsPlugin(0),
            InMemoryLoaderPlugin(),
            own,
            KillAt(kill_at),
            model=with_head(convnet(), "incremental"),
            train_epochs=7 if memory_only else 2,
            train_mb_size=4 if memory_only else 32,
        )
        strategy, start = maybe_load_checkpoint(strategy, path, unique_objects=stream)
        for experience in stream.train_stream[start:3]:
            strategy.train(experience)
            save_checkpoint(strategy, path, unique_objects=stream)
        return strategy, own.storage_policy

    strategy, memory = run(tmp_path / "whole.safetensors", None)
    with pytest.raises(Killed):
        run(tmp_path / "killed.safetensors", step)
    resumed, remembered = run(tmp_path / "killed.safetensors", None)
    assert torch.equal(weights(strategy.model), weights(resumed.model))
    assert torch.equal(memory.memory.images(), remembered.memory.images())
    assert [sample[1] for sample in memory.buffer] == [sample[1] for sample in remembered.buffer]
    assert strategy.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize(("saved", "built"), [({"rank": 2}, {"rank": 3}), ({}, {"precision": "float16"})])
def test_a_memory_that_is_stored_otherwise_is_not_taken_over(make_stream, tmp_path, saved, built):
    stream, path = make_stream(5), tmp_path / "state.safetensors"
    strategy = naive(plugin(images_per_class=2, **saved))
    strategy.train(stream.train_stream[0])
    save_checkpoint(strategy, path, unique_objects=stream)
    with pytest.raises(ValueError, match="memory of the checkpoint is stored as .*; build it with the rank and prec"):
        maybe_load_checkpoint(naive(plugin(images_per_class=2, **built)), path, unique_objects=stream)


class TestFiles:
    def test_memory_and_picture_after_each_experience(self, make_stream, tmp_path):
        own = plugin(mean=[0.3], std=[0.4])
        own.save_to = tmp_path / "memory"
        strategy = naive(own)
        for experience in make_stream(5).train_stream[:2]:
            strategy.train(experience)
        for current in (0, 1):
            loaded = CondensedSet.load(tmp_path / "memory" / f"experience_{current:03d}.safetensors")
            assert {*loaded.targets.tolist()} == set(range(2 * current + 2))
            assert (tmp_path / "memory" / f"experience_{current:03d}.png").stat().st_size > 0
        assert torch.equal(loaded.images(), own.storage_policy.memory.images())
        assert (loaded.mean, loaded.std) == ((0.3,), (0.4,))

    @pytest.mark.parametrize("method", ["dm", "dc", "mtt"])
    def test_an_interrupted_condensation_goes_on(self, make_stream, tmp_path, method):
        def policy(stop_at=None, **options):
            seen = []

            def callback(progress):
                seen.append((progress.iteration, progress.condensed.targets.unique().tolist()))
                if len(seen) == stop_at:
                    raise Killed

            options = {**FAST, **MTT, "iterations": 5, "callbacks": [callback], **options}
            return CondensedBuffer(method, images_per_class=1, **options), seen

        experience, strategy = make_stream(5).train_stream[0], naive()
        whole, all_seen = policy()
        whole.post_adapt(strategy, experience)
        options = {"save_to": tmp_path, "checkpoint_every": 2}
        killed, _ = policy(len(all_seen) - 1, **options)
        with pytest.raises(Killed):
            killed.post_adapt(strategy, experience)
        assert len(killed) == 0
        resumed, seen = policy(**options)
        resumed.post_adapt(strategy, experience)
        assert seen == all_seen[-len(seen) :]
        assert len(seen) == 3
        assert torch.equal(resumed.memory.images(), whole.memory.images())
        assert {path.name for path in tmp_path.iterdir()} == {"experience_000.safetensors", "experience_000.png"}
        policy(seed=1, **options)[0].post_adapt(strategy, experience)  # other settings may follow

    def test_an_interrupted_condensation_of_another_network(self, make_stream, tmp_path):
        def stop(progress):
            if progress.iteration == 2:
                raise Killed

        experience, strategy = make_stream(5).train_stream[0], naive()
        options = {**FAST, "iterations": 3, "save_to": tmp_path, "checkpoint_every": 1}
        with pytest.raises(Killed):
            CondensedBuffer(**options, callbacks=[stop]).post_adapt(strategy, experience)
        with pytest.raises(ValueError, match="is of another run"):
            CondensedBuffer(**{**options, "network": lambda: convnet(pooling="max")}).post_adapt(strategy, experience)

    @pytest.mark.parametrize(("method", "parts"), [("dm", 2), ("mtt", 1)])
    def test_training_on_the_memory_alone_is_not_preceded_by_condensation_again(
        self, make_stream, tmp_path, monkeypatch, method, parts
    ):
        class Stop(SupervisedPlugin):
            def before_training_iteration(self, strategy, **kwargs):
                raise Killed

        seen, experience = [], make_stream(5).train_stream[0]

        def watch(progress):
            seen.append(progress)
            assert len(list(tmp_path.glob("experts_*/*"))) == (2 if method == "mtt" else 0)

        def no_experts(*args, **options):
            raise AssertionError("experts are trained again")

        options = {"method": method, "memory_only": True, "save_to": tmp_path, "callbacks": [watch]}
        with pytest.raises(Killed):
            naive(plugin(**options), Stop()).train(experience)
        assert len(seen) == parts * FAST["iterations"]
        assert len(list(tmp_path.glob("condensation_*"))) == parts
        assert not list(tmp_path.glob("experts_*"))
        monkeypatch.setattr("clpack.condensation.trajectories.train_experts", no_experts)
        if method == "mtt":
            for other in ({"num_experts": 3}, {"expert_lr": 0.02}, {"expert_batch_size": 16}):
                with pytest.raises(ValueError, match="is of another run"):
                    naive(plugin(**options, **other)).train(experience)
        naive(plugin(**options)).train(experience)
        assert len(seen) == parts * FAST["iterations"]
        assert not list(tmp_path.glob("condensation_*"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_experts": 0}, ValueError, "num_experts must be at least 1, got 0"),
        ({"expert_lr": 0.0}, ValueError, "expert_lr must be positive, got 0.0"),
        ({"method": "dcc"}, ValueError, "unknown method 'dcc': did you mean 'dc'"),
        ({"memory_bytes": 10, "images_per_class": 1}, ValueError, "got both: 10 and 1"),
        ({"memory_bytes": 0}, ValueError, "memory_bytes must be a positive integer, got 0"),
        ({"images_per_class": 1.5}, ValueError, "images_per_class must be a positive integer, got 1.5"),
        ({"precision": "int8"}, ValueError, "precision must be 'float32' or 'float16', got 'int8'"),
        ({"iteration": 3}, TypeError, "unknown option 'iteration': did you mean 'iterations'"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1, got 0"),
        ({"init": "real"}, ValueError, "init must be 'noise' or 'svd' for factors of rank 2, got 'real'"),
        ({"network": "ConvNett"}, ValueError, "unknown network 'ConvNett': did you mean 'ConvNet'"),
        ({"matching_augmentation": "spin"}, ValueError, "spin"),
        ({"augmentation": "spin", "memory_only": True}, ValueError, "spin"),
        ({"augmentation": "crop"}, ValueError, "augmentation is for memory_only=True, got 'crop'"),
        ({"batch_size_mem": 3, "memory_only": True}, ValueError, "got 3 with memory_only=True; set train_mb_size"),
        ({"augmentation_family": "mtt", "memory_only": True}, ValueError, "must be 'dsa' or 'dc', got 'mtt'"),
        ({"condensed": "set.safetensors"}, TypeError, "must be a clpack.condensation.CondensedSet, got str"),
        ({"method": "random", "iteration": 3}, TypeError, "unknown option 'iteration': did you mean 'iterations'"),
        ({"batch_size_mem": 0}, ValueError, "batch_size_mem must be at least 1, got 0"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, got 0"),
        ({"checkpoint_every": 1.5}, TypeError, "checkpoint_every must be an integer, got 1.5"),
        ({"batch_size_mem": 1.5}, TypeError, "batch_size_mem must be an integer, got 1.5"),
        ({"rank": 2.5}, TypeError, "rank must be an integer, got 2.5"),
        ({"metric": "x"}, ValueError, "metric must be one of 'ours', 'mse', 'cos', got 'x'"),
        ({"mean": 0.3}, TypeError, "mean must hold a number for each channel, such as .*, got 0.3"),
        ({"network": None}, TypeError, "must be a name or a function that builds a network, got NoneType"),
        ({"network": convnet()}, TypeError, "must be a name or a function that builds a network, got ConvNet"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        CondensedReplayPlugin(**options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 9}, ValueError, "rank must be from 1 to the shorter side of the images, 8, got 9"),
        ({"rank": 5, "images_per_class": 1}, ValueError, "more than the 64 of the budget"),
        ({"init": "svd", "images_per_class": 100}, ValueError, "init='svd' needs 200 samples .* class 0 has 63"),
        ({"mean": [0.1, 0.2]}, ValueError, "mean must hold a number for each of 1 channels, got 2"),
        ({"network": nn.Flatten}, ValueError, "network must have features, .* for method='dm' or 'herding'; Flatten"),
        ({"method": "herding", "network": nn.Flatten}, ValueError, "network must have features"),
        ({"method": "dc", "network": lambda: convnet(9)}, ValueError, "an output for each of 10 classes, .* got .1, 9"),
        ({"network": lambda: convnet(in_channels=3)}, ValueError, r"cannot take images of shape \(1, 8, 8\): .*"),
        ({"network": "VGG11"}, ValueError, "input_size must be at least 28 pixels, got 8"),
        ({"network": dict}, TypeError, "must be a function that builds a torch.nn.Module, it gave a dict"),
    ],
)
def test_errors_come_before_training(make_stream, options, error, message):
    strategy = naive(plugin(**options))
    with pytest.raises(error, match=message):
        strategy.train(make_stream(5).train_stream[0])
    assert strategy.clock.train_iterations == 0


def test_a_network_by_name_needs_square_images(digits):
    data = TensorImages(digits[0].images[..., :6], digits[0].targets)
    strategy = naive(plugin(network="ConvNet"))
    with pytest.raises(ValueError, match="network 'ConvNet' needs square images, got 8x6"):
        strategy.train(nc_benchmark(data, data, 5, False).train_stream[0])
    assert strategy.clock.train_iterations == 0


def test_samples_must_be_images(digits):
    data = TensorImages((digits[0].images * 16).byte(), digits[0].targets)
    with pytest.raises(TypeError, match=r"float32 images of shape .*, got torch.uint8 of shape \(1, 8, 8\); let"):
        naive(plugin()).train(nc_benchmark(data, data, 5, False).train_stream[0])
