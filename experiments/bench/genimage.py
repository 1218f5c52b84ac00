"""Measures ``clpack data prepare genimage`` against bare decoding and resizing, in one run.

``python -m clpack.experiments.bench.genimage [FOLDER] [--jobs N]`` prints images per second. FOLDER holds JPEG images,
in folders of any depth; without one, 20 photograph-like images of 256x320 are made. They are copied, as often as it
takes, to a temporary folder that looks like a download of 10,000 images. The bare loop opens, decodes, resizes and
crops the same images in as many processes and throws them away. Both take turns, and the median of seven rounds counts
for each.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

__all__ = ["main", "measure"]


def measure(
    folder: str | os.PathLike[str] | None = None, *, jobs: int = 1, rounds: int = 7, num_images: int = 400
) -> dict[str, float]:
    """Returns images per second: ``ours``, ``bare`` and their ``ratio``.

    Args:
        folder: where JPEG images are; None makes some.
        jobs: number of processes for each of the two.
        rounds: turns, at least 1.
        num_images: how many images each of them converts; those of the folder are repeated as often as necessary.
    """
    from clpack.benchmarks import prepare_genimage

    with tempfile.TemporaryDirectory() as place:
        raw = Path(place) / "raw"
        paths = _download(raw, _samples(Path(place) / "samples") if folder is None else Path(folder), num_images)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            prepare_genimage(raw, Path(place) / "out", jobs=jobs)
            middle = time.perf_counter()
            _bare(paths, jobs)
            seconds.append((middle - start, time.perf_counter() - middle))
            shutil.rmtree(Path(place) / "out")
    ours, bare = (len(paths) / statistics.median(times) for times in zip(*seconds, strict=True))
    return {"ours": ours, "bare": bare, "ratio": ours / bare}


def _samples(folder: Path) -> Path:
    """Makes a few images with the structure of photographs: noise, the smoother the larger."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(20):
        pixels = np.zeros((256, 320, 3))
        for side in (4, 16, 64, 256):
            coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize((320, 256))) * (4 / side) ** 0.5
        Image.fromarray((pixels / pixels.max() * 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=85)
    return folder


def _download(raw: Path, samples: Path, num_images: int) -> list[Path]:
    """Lays images out as GenImage does, as natural training images of the first task, and returns them."""
    from clpack.benchmarks._genimage_classes import GENERATORS, class_set

    images = sorted(path for path in samples.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not images:
        raise ValueError(f"there are no JPEG images in {samples}")
    root = raw / GENERATORS["ADM"].archive
    for part in ("train/nature", "train/ai", "val/nature", "val/ai"):
        (root / part).mkdir(parents=True)
    classes = class_set(0)
    paths = [root / "train/nature" / f"{classes[n % len(classes)].wnid}_{n}.JPEG" for n in range(num_images)]
    for path, source in zip(paths, itertools.cycle(images), strict=False):
        shutil.copyfile(source, path)
    return paths


def _bare(paths: Sequence[Path], jobs: int) -> None:
    if jobs == 1:
        _decode(paths)
        return
    shares = [paths[start :: 4 * jobs] for start in range(4 * jobs)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        list(pool.map(_decode, shares))


def _decode(paths: Sequence[Path]) -> None:
    import numpy as np
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            width, height = (64 * side // min(image.size) for side in image.size)
            small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - 64) // 2, (height - 64) // 2
        np.asarray(small.crop((left, top, left + 64, top + 64)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the images per second of one process and of all cores."""
    parser = argparse.ArgumentParser(description="Speed of preparing GenImage against bare decoding and resizing.")
    parser.add_argument("folder", nargs="?", help="folder with JPEG images; made if none is named")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--images", type=int, default=10_000, help="images per round (default: 10000)")
    options = parser.parse_args(arguments)
    for jobs in sorted({1, options.jobs}):
        figures = measure(options.folder, jobs=jobs, num_images=options.images)
        print(
            f"{jobs} process{'es' if jobs > 1 else ''}: clpack {figures['ours']:.0f} images/s, "
            f"bare {figures['bare']:.0f} images/s, ratio {figures['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
