"""The whole pipeline against a bare PyTorch loop that does the same forwards and backwards.

ResNet-18 with seeded random weights on JPEG files of 224x224. The audit runs as its defaults have it on this machine
(worker processes, memory format, batch); ablation is left out, which would run more forwards than the loops. It also
measures, writes the store, embeds, searches neighbors, judges and reports. The loops decode the same files, run the
same network, derive the predicted logit by the input and by the last map, and throw everything away:

loop
    One process with PyTorch's defaults: as many threads as cores (one where the audit has one), its own memory format,
    glibc's allocator as it is, batches of 64.
tuned
    All that the audit knows: its memory format, allocator, batch size, and as many processes of one thread.

Times count from a fresh interpreter to its end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from alternating import ask, hand_over, in_turn, machine, median, ratio, table, timed

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLASSES = 10
BATCH = {"loop": 64, "tuned": 16}
STAGES = "predictions,features,activations,attributions,thumbnails,embeddings,neighbors,confusion,filters"
CLUSTERS = {"inprocess": 1, "local": 2}
CHILDREN = ("audit", "loop", "tuned")


def make_material(folder: Path, n: int) -> None:
    """Pictures in class folders, and the weights."""
    import torch
    from PIL import Image
    from torchvision.models import resnet18

    rng = np.random.default_rng(0)
    for position in range(n):
        coarse = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)).astype(np.int16)
        picture = (picture + rng.integers(-12, 13, picture.shape)).clip(0, 255).astype(np.uint8)
        place = folder / "all" / f"class{position % CLASSES}" / f"{position:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place, quality=90)
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=CLASSES).state_dict(), folder / "resnet18.pth")


def files(folder: Path, n: int) -> list[Path]:
    """The first `n` pictures; every class as often."""
    return sorted((folder / "all").rglob("*.jpg"), key=lambda path: path.stem)[:n]


def loop(options: argparse.Namespace) -> dict[str, Any]:
    """Forwards and backwards and nothing else; the tuned one in as many processes as the audit."""
    found: dict[str, Any] = {}
    workers = CLUSTERS[options.cluster] if options.child == "tuned" else 1
    with timed(found):
        paths = files(options.folder, options.images)
        if workers == 1:
            _forwards_and_backwards(options, paths)
        else:
            context = multiprocessing.get_context("spawn")
            parts = [
                paths[part * len(paths) // workers : (part + 1) * len(paths) // workers] for part in range(workers)
            ]
            processes = [context.Process(target=_forwards_and_backwards, args=(options, part)) for part in parts]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            assert not any(process.exitcode for process in processes)
    return found


def _forwards_and_backwards(options: argparse.Namespace, paths: list[Path]) -> None:
    import torch
    from PIL import Image
    from torchvision.models import resnet18

    from convaudit.pipelines.allocator import tune_allocator

    folder, batch, memory_format = options.folder, BATCH[options.child], torch.contiguous_format
    if options.cluster == "inprocess" or options.child == "tuned":
        torch.set_num_threads(1)
    if options.child == "tuned":
        memory_format = torch.channels_last
        tune_allocator()
    model = resnet18(num_classes=CLASSES)
    model.load_state_dict(torch.load(folder / "resnet18.pth"))
    model.eval().requires_grad_(False).to(memory_format=memory_format)
    kept = []
    model.layer4.register_forward_hook(lambda _module, _args, output: kept.append(output))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for start in range(0, len(paths), batch):
        decoded = [torch.from_numpy(np.array(Image.open(path))) for path in paths[start : start + batch]]
        images = torch.stack([(image.permute(2, 0, 1) / 255 - mean) / std for image in decoded])
        images = images.contiguous(memory_format=memory_format).requires_grad_()
        logits = model(images)
        torch.autograd.grad(logits.amax(1).sum(), [images, kept.pop()])


def audit(options: argparse.Namespace) -> dict[str, Any]:
    """The command, as a user runs it, into an empty folder."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as place, timed(found):
        from hydra import compose, initialize_config_module

        from convaudit.pipelines.config import check, resolve
        from convaudit.pipelines.run import audit as run_audit

        chosen = Path(place) / "images"
        # A limit would still list and hash every file.
        for path in files(options.folder, options.images):
            (chosen / path.parent.name).mkdir(parents=True, exist_ok=True)
            os.link(path, chosen / path.parent.name / path.name)
        with initialize_config_module("convaudit.conf", version_base="1.3"):
            config = check(resolve(compose("config", overrides=_overrides(options, Path(place)))))
        run_audit(config)
        timings = (config.run / "timings.json").read_text()
    import json

    sweep = json.loads(timings)["predictions"]
    return found | {"sweep": options.images / sweep["images_per_second"]}


def _overrides(options: argparse.Namespace, place: Path) -> list[str]:
    processes = ["cluster.workers=2", "cluster.minimum_images=0"] if options.cluster == "local" else []
    return [
        *processes,
        "model=torchvision", "model.name=resnet18", "model.arguments={num_classes: 10}",
        f"model.checkpoint={options.folder / 'resnet18.pth'}", "data=imagefolder", f"data.path={place / 'images'}",
        f"data.preprocessing.mean={MEAN}", f"data.preprocessing.std={STD}", f"cluster={options.cluster}",
        "tracking=none", f"stages=[{options.stages}]", f"numerics.shard={options.shard}",
        f"run={place / 'run'}", f"work={place / 'work'}",
    ]  # fmt: skip


def compare(options: argparse.Namespace) -> None:
    where = machine("torch", "torchvision", "dask", "zarr")
    heading = ["cluster", "audit, s", "loop, s", "tuned, s", "sweep, s", "over loop (range)", "over tuned (range)"]
    rows: list[list[object]] = [heading]
    with tempfile.TemporaryDirectory() as folder:
        make_material(Path(folder), options.images)
        rows += [_row(options, Path(folder), cluster) for cluster in options.clusters]
    print(f"{where}. {options.images:,} images, median of {options.repeats} rounds.\n")
    table(rows)


def _row(options: argparse.Namespace, folder: Path, cluster: str) -> list[object]:
    contestants = {
        child: lambda child=child: ask(
            __file__, ["--child", child, "--folder", folder, "--images", options.images, "--cluster", cluster,
                       "--shard", options.shard, "--stages", options.stages]
        )
        for child in CHILDREN
    }  # fmt: skip
    found = in_turn(contestants, options.repeats)
    seconds = [f"{median([one['wall'] for one in found[child]]):.1f}" for child in CHILDREN]
    ours = found["audit"]
    sweep = f"{median([one['sweep'] for one in ours]):.1f}"
    return [cluster, *seconds, sweep, *(ratio(ours, found[child], "wall") for child in CHILDREN[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clusters", nargs="+", default=list(CLUSTERS), choices=list(CLUSTERS))
    parser.add_argument("--stages", default=STAGES)
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cluster", default="inprocess", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is None:
        compare(options)
    else:
        hand_over({"audit": audit, "loop": loop, "tuned": loop}[options.child](options))


if __name__ == "__main__":
    main()
