"""Loading mini-batches: whole batches gathered from memory, and a random stream of its own for each purpose.

Avalanche reads a mini-batch sample by sample, through several nested wrappers. For data held in memory as tensors
:class:`ExperienceLoader` takes the same samples in the same order with one indexed read per column and applies the
transforms to the whole batch; the batches are equal bit for bit. Any other data goes through Avalanche's loader.

:class:`InMemoryLoaderPlugin` puts it into any strategy; :class:`RandomStreamsPlugin` makes runs independent of what
else draws random numbers. Each works alone, and in either order with the other.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader, MultiDatasetSampler
from avalanche.core import SupervisedPlugin
from avalanche.training.determinism.rng_manager import RNGManager
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, WeightedRandomSampler, default_collate

from clpack.randomness import derive_seed, generator_for

from ._gather import GatheredData, NotGatherableError
from .checkpoint import ResumableLoader

__all__ = [
    "ExperienceLoader",
    "InMemoryLoaderPlugin",
    "RandomStreamsPlugin",
    "inner_loader",
    "loader_generators",
    "narrowed_loader",
    "replace_inner_loader",
]

_TORCH_OPTIONS = (
    *("batch_size", "num_workers", "collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn"),
    *("multiprocessing_context", "generator", "prefetch_factor", "persistent_workers"),
)


class ExperienceLoader:
    """Serves the mini-batches of another loader: the same, in the same order, with the same global random draws.

    It gathers them (see the module's first lines) if all of this holds; otherwise it serves the loader's own:

    * the loader is a torch ``DataLoader`` or one of Avalanche's (task-balanced, group-balanced, replay, ...), with the
      default collate function;
    * the samples lie in memory: :class:`clpack.data.TensorImages`, a ``TensorDataset`` of images and labels, or
      torchvision's MNIST, FashionMNIST, KMNIST, CIFAR-10 and CIFAR-100 or Avalanche's MNIST;
    * the transforms are deterministic and known: ``ToTensor``, ``Normalize``, ``ConvertImageDtype``, ``Compose`` of
      them, Avalanche's ``PixelsPermutation`` and subclasses of :class:`clpack.data.BatchTransform`; labels may be
      renumbered as ``nc_benchmark`` does.

    A few samples of each source are compared with the loader's own first, once; a difference is warned about, and the
    loader's own batches are served. Gathering uses no worker processes, whatever the loader asks for: an oversampling
    loader with workers draws ahead, so there only a seed given through :attr:`generators` gives the same order.

    Args:
        loader: the loader to stand in for. Any other iterable is passed through.
        gather: whether to gather batches. Default: True.

    Attributes:
        generators: one for each of :attr:`datasets`, from which its order is drawn; empty (the default) for the
            global generator, as without this class. Assign before iterating; each epoch goes on where it stopped.
    """

    def __init__(self, loader: Any, *, gather: bool = True) -> None:
        self.loader = loader
        self.gather = gather
        self.generators: list[torch.Generator] = []

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def datasets(self) -> list[Any]:
        """The datasets that a mini-batch is put together from; in replay the current data, then the memory."""
        if isinstance(self.loader, MultiDatasetDataLoader):
            return list(self.loader.datasets)
        return [self.loader.dataset] if _is_torch_loader(self.loader) else []

    @property
    def leading(self) -> int:
        """Index in :attr:`datasets` of the one whose end ends the epoch; in replay the current data."""
        return self.loader.termination_dataset if isinstance(self.loader, MultiDatasetDataLoader) else 0

    @property
    def gathers(self) -> bool:
        """Whether the batches are gathered."""
        return self.gather and self._gathered is not None

    @functools.cached_property
    def _gathered(self) -> GatheredData | None:
        multiple = isinstance(self.loader, MultiDatasetDataLoader)
        collate = self.loader.loader_kwargs["collate_fn"] if multiple else getattr(self.loader, "collate_fn", None)
        if not self.datasets or collate is not default_collate:
            return None
        try:
            return GatheredData(self.datasets)
        except NotGatherableError as error:
            if error.args:
                warnings.warn(f"batches are read sample by sample: {error}", stacklevel=2)
            return None

    def __iter__(self) -> Iterator[Any]:
        loader, gathered = self.loader, self._gathered if self.gather else None
        if not self.datasets or not (gathered or self.generators):
            return iter(loader)
        if isinstance(loader, MultiDatasetDataLoader):
            # As MultiDatasetDataLoader._get_loader does, but for its walk over all samples in search of FFCV data.
            options = loader.loader_kwargs
            samplers = loader._create_samplers(
                loader.datasets, loader.batch_sizes, loader.distributed_sampling, options
            )
            batch_sampler = MultiDatasetSampler(
                loader.datasets,
                samplers,
                termination_dataset_idx=loader.termination_dataset,
                oversample_small_datasets=loader.oversample_small_datasets,
                never_ending=loader.never_ending,
            )
        else:
            options = {"pin_memory": loader.pin_memory, "generator": loader.generator}
            batch_sampler = loader.batch_sampler
            samplers = [batch_sampler]
        for sampler, generator in zip(samplers, self.generators, strict=False):
            if isinstance(getattr(sampler, "sampler", None), RandomSampler | WeightedRandomSampler):
                sampler.sampler.generator = generator
        if gathered:
            # Through torch's loader, so that what it draws from the global generator is drawn here too.
            options = {key: options[key] for key in ("pin_memory", "generator") if key in options}
            return iter(DataLoader(gathered, batch_sampler=batch_sampler, collate_fn=_already_a_batch, **options))
        if isinstance(loader, MultiDatasetDataLoader):
            loader = loader._make_pytorch_loader(loader.datasets, batch_sampler)
        return iter(loader)


class InMemoryLoaderPlugin(SupervisedPlugin):
    """Reads in-memory data batch by batch, in training and evaluation; the results are those without it.

    It wraps ``strategy.dataloader`` (see :class:`ExperienceLoader`) after every ``before_training_exp``, where replay
    and the like have put their own loader, so it works at any position in the plugin list. Only a plugin that puts a
    new loader in ``before_training_epoch`` must come before it.
    """

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Wraps the loader of the training data."""
        _experience_loader(strategy).gather = True

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Wraps the loader of the evaluation data."""
        _experience_loader(strategy).gather = True


class RandomStreamsPlugin(SupervisedPlugin):
    """Draws data order, augmentation, initialization and replay from independent streams of one seed.

    One more draw in one of them then leaves the others as they were, and evaluation leaves all of them as they were:
    two runs that differ in ``eval_every``, in added replay or in an augmentation have the same order of samples.

    ======================  ==========================================================  ==========================
    stream                  what draws from it                                          starts anew
    ======================  ==========================================================  ==========================
    initialization          new heads, and all that plugins draw before training        each experience
    data order              the order of the current data                               each epoch
    replay                  the order of the memory; the storage policies' choice       each epoch; after training
    augmentation            transforms, dropout, all else that draws during an epoch    each epoch
    ======================  ==========================================================  ==========================

    Put it first in the plugin list: the seeds that it gives to the global generators (Python, NumPy, torch) hold for
    the plugins after it. Evaluation of an experience starts from that experience's initialization stream, so a head
    gets the same weights whether it first grows in evaluation or in training, and ends by restoring the generators.
    (Evaluating classes not trained yet still changes a model with a growing head itself: it gets outputs for them.)

    Args:
        seed: the seed of the run.

    Raises:
        TypeError: if ``seed`` is not an integer.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        derive_seed(seed)
        self.seed = seed
        self._before_eval: dict[str, Any] = {}

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the initialization stream."""
        self._seed_global_generators("initialization", strategy.experience.current_experience)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the streams of data order, replay and augmentation."""
        period = (strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs)
        loader = _experience_loader(strategy)
        loader.generators = [
            generator_for(self.seed, *(("data order",) if part == loader.leading else ("replay", part)), *period)
            for part in range(len(loader.datasets))
        ]
        self._seed_global_generators("augmentation", *period)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the replay stream, for the storage policies that choose now."""
        self._seed_global_generators("replay", strategy.clock.train_exp_counter)

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Puts the state of the global generators aside."""
        self._before_eval = {name: rng["save_state"]() for name, rng in RNGManager.random_generators.items()}

    def before_eval_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Starts the initialization stream of the evaluated experience."""
        self._seed_global_generators("initialization", strategy.experience.current_experience)

    def after_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Restores the global generators."""
        for name, state in self._before_eval.items():
            RNGManager.random_generators[name]["load_state"](state)
        self._before_eval = {}

    def _seed_global_generators(self, *names: str | int) -> None:
        RNGManager.set_random_seeds(derive_seed(self.seed, *names) % 2**32)  # NumPy takes 32 bits


def inner_loader(strategy: Any) -> Any:
    """Returns the loader of the strategy without the wrappers of this module and of checkpoints."""
    loader = strategy.dataloader
    while (wrapped := _wrapped(loader)) is not None:
        loader = getattr(loader, wrapped)
    return loader


def replace_inner_loader(strategy: Any, loader: Any) -> None:
    """Puts ``loader`` in the place of :func:`inner_loader`; the wrappers stay, with their random generators."""
    holder, name = strategy, "dataloader"
    while (wrapped := _wrapped(getattr(holder, name))) is not None:
        holder, name = getattr(holder, name), wrapped
        vars(holder).pop("_gathered", None)
    setattr(holder, name, loader)


def loader_generators(strategy: Any) -> list[torch.Generator]:
    """Returns the generators that the order of the training data is drawn from; none if it is the global one."""
    loader = strategy.dataloader
    while (wrapped := _wrapped(loader)) is not None:
        if isinstance(loader, ExperienceLoader):
            return loader.generators
        loader = getattr(loader, wrapped)
    return []


def narrowed_loader(loader: Any, num_current: int, narrow: Callable[[Any], Any]) -> Any:
    """Returns a loader like another one that serves a part of the current data.

    The batches are put together as before: so many samples of each dataset, the memory of a replay loader included.

    Args:
        loader: a torch ``DataLoader``, shuffled or in order, or one of Avalanche's.
        num_current: the number of samples of the current data, which a replay loader has in front of its memory.
        narrow: takes each dataset of the current data, of which there is one per task label, and returns what remains
            of it. Something has to.

    Raises:
        TypeError: if the loader is of another kind.
        ValueError: if nothing remains of a dataset.
    """
    if isinstance(loader, MultiDatasetDataLoader):
        ends = list(itertools.accumulate(map(len, loader.datasets)))
        if num_current not in ends:
            raise TypeError(
                f"the training data is served by a {type(loader).__name__} whose first datasets are not the "
                f"{num_current} samples of the current data; put the plugin that made it after the pruning plugin"
            )
        n_parts = ends.index(num_current) + 1
        datasets = [*map(narrow, loader.datasets[:n_parts]), *loader.datasets[n_parts:]]
    elif _is_torch_loader(loader) and loader.batch_size and type(loader.sampler) in (RandomSampler, SequentialSampler):
        datasets = [narrow(loader.dataset)]
    else:
        raise TypeError(
            f"the training data is served by a {type(loader).__name__}, or has a sampler, that cannot be narrowed to "
            "some of the samples; put the plugin that made it aside, or use a loader of torch or of Avalanche"
        )
    if empty := [position for position, dataset in enumerate(datasets) if len(dataset) == 0]:
        raise ValueError(f"nothing remains of dataset {empty[0]} of the loader; keep at least one sample of it")
    if not isinstance(loader, MultiDatasetDataLoader):
        options = {name: getattr(loader, name) for name in _TORCH_OPTIONS}
        shuffle = isinstance(loader.sampler, RandomSampler)
        return DataLoader(datasets[0], shuffle=shuffle, **options)
    # The epoch ends with the part of the current data that is the longest now, not with a memory.
    steps = [-(-len(dataset) // size) for dataset, size in zip(datasets[:n_parts], loader.batch_sizes, strict=False)]
    return MultiDatasetDataLoader(
        datasets,
        loader.batch_sizes,
        termination_dataset=steps.index(max(steps)),
        oversample_small_datasets=loader.oversample_small_datasets,
        distributed_sampling=loader.distributed_sampling,
        never_ending=loader.never_ending,
        **loader.loader_kwargs,
    )


def _wrapped(loader: Any) -> str | None:
    """Returns the name of the attribute in which a wrapper holds its loader; None if it is no wrapper."""
    if isinstance(loader, ResumableLoader):
        return "inner"
    return "loader" if isinstance(loader, ExperienceLoader) else None


def _experience_loader(strategy: Any) -> ExperienceLoader:
    """Returns the strategy's loader as an :class:`ExperienceLoader`, which it becomes if it is not one."""
    resumable = isinstance(strategy.dataloader, ResumableLoader)
    holder, name = (strategy.dataloader, "inner") if resumable else (strategy, "dataloader")
    loader = getattr(holder, name)
    if not isinstance(loader, ExperienceLoader):
        loader = ExperienceLoader(loader, gather=False)
        setattr(holder, name, loader)
    return loader


def _is_torch_loader(loader: Any) -> bool:
    return type(loader) is DataLoader and loader.batch_sampler is not None


def _already_a_batch(batch: list[Tensor]) -> list[Tensor]:
    return batch
