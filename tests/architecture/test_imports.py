"""The import rules of pyproject.toml, as part of the suite."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_import_rule_is_kept():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def test_stages_and_reports_load_without_what_they_must_not_need():
    """What the rules cannot see: an import by name, or one that a library makes."""
    program = (
        "import sys, convaudit.stages.specs, convaudit.stages.contract, convaudit.reports.build;"
        "heavy = {'torch', 'zarr', 'dask', 'distributed', 'mlflow', 'hydra', 'omegaconf'} & set(sys.modules);"
        "sys.exit(f'loaded: {sorted(heavy)}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
