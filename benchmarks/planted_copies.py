"""How many planted copies and leaks the kNN check finds, and how many of what it finds were planted.

Every scan of the digits, or every image of a folder of class folders, becomes a PNG file; of each kind 50 are planted
again in the other split: the same pixels, noise of up to 6 of 255 levels, a tenth darker, JPEG of quality 75, one pixel
to the right, scaled to 24 pixels and back, mirrored. Then the audit runs as anyone would run it; what stands behind
`--` goes to it as it is, and has to name the model.

    python benchmarks/planted_copies.py -- model.checkpoint=digits.safetensors data.preprocessing.mode=L
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from alternating import table

PLANTED = 50
SHARES = (0.2, 0.3, 0.4, 0.5)


def changes(rng: np.random.Generator) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What is done to an image ``(y, x)`` or ``(y, x, channel)`` of 8 bits before it is planted, by name."""
    from PIL import Image

    def jpeg(pixels: np.ndarray) -> np.ndarray:
        held = io.BytesIO()
        Image.fromarray(pixels).save(held, "JPEG", quality=75)
        return np.asarray(Image.open(held))

    def scaled(pixels: np.ndarray) -> np.ndarray:
        small = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BILINEAR)
        return np.asarray(small.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))

    def noisy(pixels: np.ndarray) -> np.ndarray:
        return np.clip(pixels.astype(int) + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)

    return {
        "same pixels": lambda pixels: pixels,
        "noise": noisy,
        "darker": lambda pixels: (pixels * 0.9).round().astype(np.uint8),
        "JPEG": jpeg,
        "shifted": lambda pixels: np.roll(pixels, 1, axis=1),
        "scaled": scaled,
        "mirrored": lambda pixels: pixels[:, ::-1].copy(),
    }


def originals(folder: Path | None) -> tuple[list[np.ndarray], list[str]]:
    """Images and class names: those of a folder, or the digits."""
    from PIL import Image

    if folder is not None:
        files = sorted(path for path in folder.glob("*/*") if path.is_file())
        return [np.asarray(Image.open(path).convert("RGB")) for path in files], [path.parent.name for path in files]
    from convaudit.stages.reference.digits import load_digits_split

    images, labels, _ = load_digits_split()
    return [*(images[:, 0] * 255).round().astype(np.uint8)], [f"digit {label}" for label in labels]


def plant(folder: Path, images: list[np.ndarray], names: list[str]) -> None:
    """Write the files and the table that names label, split, kind and source of each."""
    import pandas as pd
    from PIL import Image

    rng = np.random.default_rng(0)
    split = np.where(rng.random(len(images)) < 0.7, "train", "test")
    source = rng.permutation(len(images))
    rows = []

    def put(pixels: np.ndarray, at: int, where: str, kind: str) -> None:
        name = f"{kind.replace(' ', '_')}-{at:05d}"
        Image.fromarray(pixels).save(folder / f"{name}.png")
        rows.append({"path": f"{name}.png", "id": name, "label": names[at], "split": where, "kind": kind, "source": at})

    for at, pixels in enumerate(images):
        put(pixels, at, split[at], "original")
    for number, (kind, change) in enumerate(changes(rng).items()):
        for at in source[number * PLANTED : (number + 1) * PLANTED]:
            put(change(images[at]), int(at), "test" if split[at] == "train" else "train", kind)
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)


def audit(folder: Path, overrides: list[str]) -> None:
    fixed = [f"data.path={folder / 'images.csv'}", f"run={folder / 'run'}", f"work={folder / 'work'}", "data=manifest",
             "tracking=none", "cluster=inprocess", "stages=[neighbors]"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "convaudit.pipelines.cli", *fixed, *overrides], check=False)
    if done.returncode > 1:
        sys.exit(f"the audit ended with {done.returncode}")


def judge(folder: Path) -> list[list[object]]:
    """Recall by kind and precision of near-duplicates, at several shares; the audit's own is among them."""
    import pandas as pd

    from convaudit.pipelines.store import RunStore
    from convaudit.stages.neighbors.duplicates import near_duplicates
    from convaudit.stages.numerics.distances import length_of

    run = RunStore(folder / "run")
    told = run.summary("neighbors").notes
    rows = pd.read_csv(folder / "images.csv").set_index("id").loc[list(run.images()["id"])]
    kind, source = rows["kind"].to_numpy(), rows["source"].to_numpy()
    index, copy = run["neighbors/index"][:], run["neighbors/copy"][:]
    length = length_of(run["neighbors/distance"][:].astype(np.float64), told["metric"])
    same = kind == "same pixels"
    exact = np.array([copy[i] >= 0 and source[copy[i]] == source[i] for i in np.flatnonzero(same)])
    print(f"Same pixels: {exact.sum()} of {same.sum()} found by content.\n")
    kinds = [name for name in changes(np.random.default_rng(0)) if name != "same pixels"]
    found: list[list[object]] = [["neighbors.near", *kinds, "precision (pairs)"]]
    for share in SHARES:
        near = near_duplicates(index, length, share, copy)
        hit = (near >= 0) & (source[near] == source)
        known = hit | ((copy >= 0) & ~same)
        pairs = {(min(i, int(near[i])), max(i, int(near[i]))) for i in np.flatnonzero(near >= 0)}
        good = sum(source[a] == source[b] for a, b in pairs)
        shares = [f"{known[kind == name].mean():.2f}" for name in kinds]
        found.append([share, *shares, f"{good / len(pairs):.3f} ({len(pairs)})" if pairs else "(0)"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of class folders; the digits where there is none")
    parser.add_argument("overrides", nargs="*", help="model and preprocessing, as the audit takes them")
    options = parser.parse_args()
    images, names = originals(options.images)
    with tempfile.TemporaryDirectory() as folder:
        plant(Path(folder), images, names)
        audit(Path(folder), options.overrides)
        table(judge(Path(folder)))


if __name__ == "__main__":
    main()
