"""The data sets that a stream of five data sets can have as tasks. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from clpack.names import unknown_name

__all__ = ["MEMBERS", "PAPER", "Member", "check_members"]


class Member(NamedTuple):
    """A data set of ten classes.

    Attributes:
        data_set: its name in ``describe_data_sets()``.
        title: its name for people.
    """

    data_set: str
    title: str


MEMBERS = {
    "cifar10": Member("CIFAR10", "CIFAR-10"),
    "cifar10_jpeg": Member("CIFAR10-JPEG", "CIFAR-10 (JPEG)"),
    "mnist": Member("MNIST", "MNIST"),
    "svhn": Member("SVHN", "SVHN"),
    "notmnist": Member("notMNIST", "notMNIST-small"),
    "fashionmnist": Member("FashionMNIST", "Fashion-MNIST"),
}

PAPER = ("cifar10", "mnist", "svhn", "notmnist", "fashionmnist")
"""The tasks of the published results, in their order."""


def check_members(members: Any) -> Sequence[str]:
    """Returns the given members.

    Raises:
        TypeError: if they are no list of names.
        ValueError: if there are none, one twice, or one that is unknown.
    """
    if isinstance(members, str) or not isinstance(members, Sequence):
        raise TypeError(f"members must be a list of data sets, such as {list(PAPER)}, got {members!r}")
    for member in members:
        if member not in MEMBERS:
            raise ValueError(unknown_name("member", member, MEMBERS))
    if not members or len(set(members)) < len(members):
        raise ValueError(f"members must name at least one data set, and each once, got {list(members)}")
    return members
