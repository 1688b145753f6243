"""Memory and time of the stages that look for evidence in the data, at many images and classes.

The pipeline itself fills the store: it sweeps small seeded images, of as many classes, through a network of one
convolution (512 features) and one linear layer, whose weights are the classes' mean features. Some classes look nearly
alike, some images carry another class's label, and some are there twice. Then each stage runs as `convaudit check`
runs it, in a fresh driver with two worker processes.

Memory is the largest sum, over the driver and everything it started, of proportional set sizes: pages that processes
share count once. It is looked up twice a second.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from alternating import machine, table

#: Stages of which those are run that the configuration knows.
GROUP = ("embeddings", "neighbors", "confusion", "mixing", "suspects")
FILLS = ("predictions", "features", "thumbnails")
SIDE, SCALE = 8, 0.02
#: Distance of twins among the classes, noise of images, and shares of wrong labels and of copies.
APART, NOISE, MISLABELLED, COPIED = 10, 36, 0.02, 0.005
NETWORK = """
from torch import nn

def net(features, classes):
    convolution = nn.Conv2d(1, features, {side}, bias=False)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(features, classes))
"""
_EVERY = 0.5
MIB = 2**20


def make_images(folder: Path, n: int, classes: int) -> np.ndarray:
    """Images in one file; returns the look of each class, one row a class."""
    rng = np.random.default_rng(0)
    look = rng.uniform(60, 196, (classes, SIDE * SIDE))
    twins = classes // 5
    look[1 : 2 * twins : 2] = look[: 2 * twins : 2] + rng.normal(0, APART, (twins, SIDE * SIDE))
    label = np.arange(n) % classes
    image = (look[label] + rng.normal(0, NOISE, (n, SIDE * SIDE))).round().clip(0, 255).astype(np.uint8)
    copies, originals = rng.permutation(n)[: 2 * int(COPIED * n)].reshape(2, -1)
    image[copies], label[copies] = image[originals], label[originals]
    wrong = rng.permutation(n)[: int(MISLABELLED * n)]
    label[wrong] = rng.integers(0, classes, len(wrong))
    names = np.array([f"class {position}" for position in range(classes)])
    np.savez(folder / "images.npz", images=image.reshape(n, 1, SIDE, SIDE), labels=label, class_names=names)
    return look


def make_network(folder: Path, look: np.ndarray, features: int) -> None:
    """A network whose logits fall with the distance of an image's features from those of a class's look."""
    import torch

    torch.manual_seed(0)
    (folder / "net.py").write_text(NETWORK.format(side=SIDE))
    convolution, linear = torch.nn.Conv2d(1, features, SIDE, bias=False), torch.nn.Linear(features, len(look))
    with torch.no_grad():
        convolution.weight.normal_()
        shown = torch.from_numpy(look / 255).float().reshape(-1, 1, SIDE, SIDE)
        centre = convolution(shown).relu().flatten(1)
        linear.weight.copy_(SCALE * centre)
        linear.bias.copy_(-SCALE / 2 * centre.square().sum(dim=1))
    held = {"0": convolution, "3": linear}
    weights = {f"{at}.{key}": value for at, module in held.items() for key, value in module.state_dict().items()}
    torch.save(weights, folder / "net.pt")


def configured() -> list[str]:
    """Those of the group that an audit knows, in its order."""
    from omegaconf import OmegaConf

    import convaudit.conf

    defaults = OmegaConf.load(Path(convaudit.conf.__path__[0]) / "config.yaml").defaults
    known = {group for entry in defaults if entry != "_self_" for group in entry}
    return [stage for stage in GROUP if stage in known]


def overrides(options: argparse.Namespace, folder: Path, stages: list[str]) -> list[str]:
    return [
        "model=python", f"model.file={folder}/net.py", "model.factory=net", f"model.checkpoint={folder}/net.pt",
        f"model.arguments={{features: {options.width}, classes: {options.classes}}}",
        "data=arrays", f"data.path={folder}/images.npz", "embeddings=[pca,tsne]",
        f"stages=[{','.join([*FILLS, *stages])}]", "cluster=local", f"cluster.workers={options.workers}",
        "tracking=none", f"run={folder}/run", f"work={folder}/work",
    ]  # fmt: skip


def watched(*arguments: str) -> dict[str, float]:
    """Run a command of ours to its end; its wall and CPU seconds and its largest memory."""
    command = [sys.executable, "-c", "import sys; from convaudit.pipelines.cli import main; sys.exit(main())"]
    began, most = time.perf_counter(), 0
    spent: dict[int, float] = {}
    with tempfile.TemporaryFile("w+") as said:
        started = subprocess.Popen([*command, *arguments], stdout=said, stderr=subprocess.STDOUT)
        while started.poll() is None:
            held, seconds = looked_up(started.pid)
            most, spent = max(most, held), spent | seconds
            time.sleep(_EVERY)
        said.seek(0)
        print("".join(f"  {line}" for line in said.readlines()[-3:]), file=sys.stderr, flush=True)
    if started.returncode not in (0, 1):  # 1: the verdict is FAIL
        sys.exit(f"{' '.join(arguments)}: exit code {started.returncode}")
    return {"wall": time.perf_counter() - began, "cpu": sum(spent.values()), "most": most}


def looked_up(driver: int) -> tuple[int, dict[int, float]]:
    """Bytes of a process and all that it started, shared pages once; and the CPU seconds of each so far."""
    import psutil

    total, seconds = 0, {}
    try:
        family = [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0, {}
    for process in family:
        try:
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total, seconds


def measure(options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Fill the store, then run one stage after the other on it."""
    make_network(folder, make_images(folder, options.images, options.classes), options.width)
    stages = [stage for stage in configured() if not options.stages or stage in options.stages]
    config = str(folder / "config.yaml")
    steps = {"config": ("config", "--out", config, *overrides(options, folder, stages)),
             "first sweep": ("sweep", "--config", config)}  # fmt: skip
    steps |= {stage: ("check", stage, "--config", config) for stage in stages}
    if options.report:
        steps |= {"verdict": ("check", "verdicts", "--config", config), "report": ("report", "--config", config)}
    found = {}
    for name, arguments in steps.items():
        found[name] = watched(*arguments)
        told = ", ".join(f"{key} {value / (MIB if key == 'most' else 1):.1f}" for key, value in found[name].items())
        print(f"{name}: {told}", file=sys.stderr, flush=True)
    del found["config"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--width", type=int, default=512, help="features of an image")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stages", nargs="+", help="only these of the group")
    parser.add_argument("--report", action="store_true", help="verdict and report too")
    parser.add_argument("--folder", type=Path, help="an empty folder to keep what is made")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    where = machine("numpy", "torch", "dask", "zarr")
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(options, folder.resolve())
    print(f"{where}. {options.images:,} images, {options.classes:,} classes, {options.workers} workers.\n")
    rows: list[list[object]] = [["stage", "memory, MiB", "s", "CPU s"]]
    rows += [
        [name, f"{one['most'] / MIB:,.0f}", f"{one['wall']:.0f}", f"{one['cpu']:.0f}"] for name, one in found.items()
    ]
    table(rows)
    most = max(one["most"] for one in found.values())
    print(f"Largest: {most / MIB:,.0f} MiB.")


if __name__ == "__main__":
    main()
