"""Peak memory of a sweep worker for few and for ten times as many images.

One Dask worker process sweeps PNG files of 32x32 through a small ResNet-18 with every leaf that looks at images. What
is compared is the largest resident set of any child of the driver, which is the worker's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from alternating import ask, hand_over, in_turn, machine, median, table, timed

STAGES = "predictions,features,activations,attributions,thumbnails"
CLASSES = 10


def make_pictures(folder: Path, n: int) -> None:
    """Small pictures in class folders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for position in range(n):
        place = folder / f"class{position % CLASSES}" / f"{position:06d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place)


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    from hydra import compose, initialize_config_module

    from convaudit.pipelines.config import check, resolve
    from convaudit.pipelines.run import sweep as run_sweep

    with tempfile.TemporaryDirectory() as place:
        overrides = [
            "model=torchvision", "model.name=resnet18", "model.arguments={num_classes: 10}",
            "model.random_weights=true", "data=imagefolder", f"data.path={options.folder}", "cluster=local",
            "cluster.workers=1", "tracking=none", f"stages=[{STAGES}]", f"run={place}/run", f"work={place}/work",
        ]  # fmt: skip
        with initialize_config_module("convaudit.conf", version_base="1.3"):
            config = check(resolve(compose("config", overrides=overrides)))
        found: dict[str, Any] = {}
        with timed(found):
            run_sweep(config)
    kinds = {"worker": resource.RUSAGE_CHILDREN, "driver": resource.RUSAGE_SELF}
    return found | {name: resource.getrusage(kind).ru_maxrss / 1024 for name, kind in kinds.items()}


def compare(options: argparse.Namespace) -> None:
    where = machine("torch", "dask", "zarr")
    with tempfile.TemporaryDirectory() as place:
        contestants = {}
        for n in options.images:
            make_pictures(Path(place) / str(n), n)
            contestants[f"{n:,}"] = lambda n=n: ask(__file__, ["--child", "--folder", f"{place}/{n}"])
        found = in_turn(contestants, options.repeats)
    few = median([one["worker"] for one in next(iter(found.values()))])
    rows: list[list[object]] = [["images", "worker, MiB (range)", "over the first", "driver, MiB", "seconds"]]
    for name, rounds in found.items():
        worker, driver, wall = ([one[key] for one in rounds] for key in ("worker", "driver", "wall"))
        spread = f"{median(worker):.0f} ({min(worker):.0f}-{max(worker):.0f})"
        rows.append([name, spread, f"{median(worker) / few:.2f}", f"{median(driver):.0f}", f"{median(wall):.0f}"])
    print(f"{where}. Median of {options.repeats} rounds.\n")
    table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        hand_over(sweep(options))
    else:
        compare(options)


if __name__ == "__main__":
    main()
