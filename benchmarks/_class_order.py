"""The arguments that streams share, and the order of classes they lead to: checked before any data is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch

__all__ = [
    "FixedOrder",
    "check_arguments",
    "check_n_experiences",
    "check_seed",
    "class_order",
    "generator_for_seed",
    "stream_order",
]

FixedOrder = Sequence[int] | Literal["numpy"]
"""An order of classes: their list, or the order that NumPy's legacy generator gives for the seed of the stream."""

_HALF_FIRST = ("first_exp_with_half_classes", "first_batch_with_half_classes")  # Avalanche has two names for it


def check_arguments(
    arguments: Mapping[str, Any], *, n_classes: int, largest_seed: int, evenly: bool = True
) -> list[int] | None:
    """Checks the arguments of any stream.

    Args:
        arguments: all arguments of the stream by name, also those that have their defaults.
        n_classes: number of classes in the data set.
        largest_seed: the largest seed that the stream takes.
        evenly: whether the experiences must share the classes evenly.

    Returns:
        The order in which the stream shows the classes; None if it shows all of them in each experience.

    Raises:
        TypeError, ValueError: as :func:`class_order`; also for a seed that is too large, or if the classes are to be
            numbered in two ways at once.
    """
    if "n_experiences" in arguments:
        check_n_experiences(arguments["n_experiences"])
    if arguments["seed"] is not None:
        check_seed(arguments["seed"], largest_seed)
    if "fixed_class_order" not in arguments:
        return None
    return stream_order(arguments, n_classes=n_classes, evenly=evenly)


def stream_order(arguments: Mapping[str, Any], *, n_classes: int, evenly: bool = True) -> list[int]:
    """Returns the order in which a stream that shares the classes out shows them.

    Args:
        arguments: those of the stream by name.
        n_classes: number of classes in the data set.
        evenly: whether the experiences must share the classes evenly.

    Raises:
        TypeError, ValueError: as :func:`class_order`, or if the classes are to be numbered in two ways at once.
    """
    if arguments["class_ids_from_zero_in_each_exp"] and arguments.get("class_ids_from_zero_from_first_exp"):
        raise ValueError(
            "class_ids_from_zero_in_each_exp and class_ids_from_zero_from_first_exp are mutually exclusive, "
            "got True for both; drop one"
        )
    return class_order(
        n_classes,
        arguments["n_experiences"],
        seed=arguments["seed"],
        shuffle=arguments["shuffle"],
        fixed_class_order=arguments["fixed_class_order"],
        n_first=n_classes // 2 if any(arguments.get(name) for name in _HALF_FIRST) else 0,
        evenly=evenly,
    )


def check_n_experiences(n_experiences: int) -> None:
    """Raises unless ``n_experiences`` is a positive integer."""
    if isinstance(n_experiences, bool) or not isinstance(n_experiences, Integral):
        raise TypeError(
            f"n_experiences must be an integer, got {n_experiences!r} of type {type(n_experiences).__name__}"
        )
    if n_experiences < 1:
        raise ValueError(f"n_experiences must be at least 1, got {n_experiences}")


def check_seed(seed: int, largest: int = 2**64 - 1) -> None:
    """Raises unless ``seed`` is an integer from 0 to ``largest``, by default the largest that torch takes."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r} of type {type(seed).__name__}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if seed > largest:
        raise ValueError(f"seed must be at most {largest} for this stream, got {seed}")


def generator_for_seed(seed: int | None) -> torch.Generator:
    """Returns a generator seeded with ``seed``; None copies torch's global generator, which stays where it is."""
    generator = torch.Generator()
    if seed is None:
        generator.set_state(torch.get_rng_state())
    else:
        generator.manual_seed(int(seed))
    return generator


def class_order(
    n_classes: int,
    n_experiences: int,
    *,
    seed: int | None,
    shuffle: bool,
    fixed_class_order: FixedOrder | None,
    n_first: int = 0,
    evenly: bool = True,
) -> list[int]:
    """Returns the classes in the order of the stream: the order Avalanche itself takes for the same arguments.

    Avalanche reseeds the global generators to shuffle. Given this list as ``fixed_class_order`` it draws nothing,
    so that building a benchmark leaves every global generator as it was.

    Args:
        n_classes: the classes of the data set are ``0..n_classes - 1``.
        n_experiences: number of experiences.
        seed: seed of the shuffled order; None takes the order that the present state of torch's global
            generator gives.
        shuffle: False keeps the ascending order.
        fixed_class_order: the order to use instead, possibly of a part of the classes; ``"numpy"`` stands for the
            permutation of NumPy's legacy generator, as much code for class-incremental learning draws it.
        n_first: number of classes in the first experience, if it differs from the others; 0 if it does not.
        evenly: whether the experiences must share the classes evenly; else it is enough that each can have one.

    Raises:
        TypeError: if ``n_experiences``, ``seed`` or a class is not an integer.
        ValueError: if the experiences cannot share the classes, or the fixed order is empty, names a class
            twice or one that does not exist, or is ``"numpy"`` without a seed.
    """
    check_n_experiences(n_experiences)
    if seed is not None:
        check_seed(seed)
    if isinstance(fixed_class_order, str):
        order = _numpy_order(n_classes, fixed_class_order, seed)
    elif fixed_class_order is not None:
        order = _checked_order(fixed_class_order, n_classes)
    elif shuffle:
        order = torch.randperm(n_classes, generator=generator_for_seed(seed)).tolist()
    else:
        order = list(range(n_classes))

    if not evenly:
        if n_experiences > len(order):
            raise ValueError(f"n_experiences must be at most {len(order)}, the number of classes, got {n_experiences}")
        return order
    n_shared = len(order) - n_first
    allowed = [d + bool(n_first) for d in range(1, n_shared + 1) if n_shared % d == 0]
    if n_experiences not in allowed:
        after = f" after a first experience of {n_first}" if n_first else ""
        raise ValueError(
            f"n_experiences must divide the {len(order)} classes evenly{after}: "
            f"got {n_experiences}, expected one of {allowed}"
        )
    return order


def _numpy_order(n_classes: int, name: str, seed: int | None) -> list[int]:
    if name != "numpy":
        raise ValueError(f"fixed_class_order must be a list of classes, 'numpy' or None, got {name!r}")
    if seed is None:
        raise ValueError("fixed_class_order='numpy' needs a seed, got None; give one, such as seed=0")
    check_seed(seed, 2**32 - 1)
    order: list[int] = np.random.RandomState(seed).permutation(n_classes).tolist()
    return order


def _checked_order(fixed_class_order: Sequence[int], n_classes: int) -> list[int]:
    for label in fixed_class_order:
        if isinstance(label, bool) or not isinstance(label, Integral):
            raise TypeError(
                f"fixed_class_order must hold integer classes, got {label!r} of type {type(label).__name__}"
            )
    order = [int(label) for label in fixed_class_order]
    if not order:
        raise ValueError("fixed_class_order must name at least one class, got none; None takes all classes")
    unknown = sorted({label for label in order if not 0 <= label < n_classes})
    if unknown:
        raise ValueError(f"fixed_class_order must name classes 0..{n_classes - 1}, got the unknown {unknown}")
    repeated = sorted({label for label in order if order.count(label) > 1})
    if repeated:
        raise ValueError(f"fixed_class_order must name each class once, got {repeated} more than once")
    return order
