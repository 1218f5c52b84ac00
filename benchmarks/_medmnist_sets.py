"""The sets of MedMNIST v2 that have images and one label for each, and two sets of the same form.

Names and checksums are those of the package medmnist 3.0.2. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clpack.names import unknown_name

__all__ = ["MEDMNIST_URL", "SETS", "MedicalSet", "find_set"]

MEDMNIST_URL = "https://zenodo.org/records/10519652"


@dataclass(frozen=True)
class MedicalSet:
    """One set of images.

    Attributes:
        name: the name that the stream takes, in lower case.
        n_classes: number of classes.
        channels: 1 for grey images, 3 for color.
        md5: the checksum of its file for each width of the images in pixels.
        description: which data this is.
        path: its file below the dataset root, if there is but one; None for a set of MedMNIST.
        url: where the file can be had.
    """

    name: str
    n_classes: int
    channels: int
    md5: dict[int, str]
    description: str
    path: str | None = None
    url: str = MEDMNIST_URL

    def data_set(self, size: int) -> str:
        """Returns the name of the data set with the images of a width in ``describe_data_sets()``."""
        return self.name if size == 28 else f"{self.name}_{size}"

    def file(self, size: int) -> str:
        """Returns the file with the images of a width, relative to the dataset root."""
        return self.path or f"MedMNIST/{self.data_set(size)}.npz"


def _official(title: str, n_classes: int, channels: int, *md5: str) -> MedicalSet:
    sizes = (28, 64, 128, 224)
    return MedicalSet(title.lower(), n_classes, channels, dict(zip(sizes, md5, strict=True)), f"{title} of MedMNIST v2")


SETS = {
    each.name: each
    for each in (
        _official(
            "BloodMNIST",
            8,
            3,
            "7053d0359d879ad8a5505303e11de1dc",
            "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c",
            "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
        _official(
            "PathMNIST",
            9,
            3,
            "a8b06965200029087d5bd730944a56c1",
            "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9",
            "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
        _official(
            "OrganAMNIST",
            11,
            1,
            "68e3f8846a6bd62f0c9bf841c0d9eacc",
            "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60",
            "50747347e05c87dd3aaf92c49f9f3170",
        ),
        _official(
            "TissueMNIST",
            8,
            1,
            "ebe78ee8b05294063de985d821c1c34b",
            "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2",
            "b077128c4a949f0a4eb01517f9037b9c",
        ),
        _official(
            "OrganCMNIST",
            11,
            1,
            "b9ceb9546e10131b32923c5bbeaea2b1",
            "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94",
            "050f5e875dc056f6768abf94ec9995d1",
        ),
        _official(
            "OrganSMNIST",
            11,
            1,
            "9ab87b696fb54e2a387ebe992d6ed5f1",
            "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e",
            "b354719e553fbbb2513d5533f52a4cb1",
        ),
        _official(
            "DermaMNIST",
            7,
            3,
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
        _official(
            "OCTMNIST",
            4,
            1,
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
        _official(
            "RetinaMNIST",
            5,
            3,
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
        _official(
            "PneumoniaMNIST",
            2,
            1,
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
        _official(
            "BreastMNIST",
            2,
            1,
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
        MedicalSet(
            "wbc4",
            4,
            3,
            {28: "debe0891bc92c2b0d0659258644e2df0"},
            "four kinds of white blood cells, cut out of BCCD photographs (not MedMNIST); training, validation and "
            "test images can show the same cell",
            "wbc4-28/wbc4_28.npz",
            "https://github.com/dhruvp/wbc-classification",
        ),
        MedicalSet(
            "pneumoniamnist_partial",
            2,
            1,
            {28: "f5b994ec7c2fe8bc81ae15cbab7c3df8"},
            "PneumoniaMNIST of MedMNIST v2 with 3882 of its 4708 training images",
            "pneumoniamnist-partial/pneumoniamnist.npz",
            "https://github.com/varun19424/pneumonia_mnist",
        ),
    )
}


def find_set(name: Any, size: Any) -> MedicalSet:
    """Returns the set of a name, in upper or lower case, after a check that it has images of the width ``size``.

    Raises:
        TypeError: if the name is no text.
        ValueError: if there is no such set, its samples have several labels each, or it has no images of that width.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be the name of a set, such as 'bloodmnist', got {name!r}")
    if name.lower() == "chestmnist":
        raise ValueError(
            "name must be that of a set with one label for each image, got 'chestmnist', whose X-rays show several "
            "diseases at once: classes cannot be shared out among experiences without repeating images"
        )
    if name.lower() not in SETS:
        raise ValueError(unknown_name("MedMNIST set", name, SETS))
    found = SETS[name.lower()]
    if size not in found.md5:
        raise ValueError(f"size must be one of {', '.join(map(str, found.md5))} for {found.name}, got {size!r}")
    return found
