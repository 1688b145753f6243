"""The command `convaudit`: words in, exit code out.

Exit codes: 0 the verdict is PASS or WARN, 1 a gate failed, 2 it could not be judged or the command was wrong,
130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ..stages.errors import AuditError, ConfigError, did_you_mean

EXIT = {"PASS": 0, "WARN": 0, "FAIL": 1, "ERROR": 2}
_INTERRUPTED = 130

_USAGE = """\
convaudit audits what a convolutional network has learnt, over a whole data set.

  convaudit [OVERRIDE ...]                    run the audit: stages, verdict, report, MLflow
  convaudit model=python data=imagefolder ... audit your own model (docs/how-to/audit-your-own-model.md)
  convaudit audit=smoke|standard|nightly|full choose how much
  convaudit stages=[confusion,neighbors]      choose which stages
  convaudit --cfg job                         show the whole config; nothing runs
  convaudit --config-dir DIR ...              add your own config groups
  convaudit --hydra-help                      everything Hydra can do

Parts of the audit, as DVC runs them:
  convaudit config --out FILE [OVERRIDE ...]  write the resolved config
  convaudit reference --weights F --data F    train the default model and export it with its data [--config FILE]
  convaudit sweep --config FILE               all stages that look at the images
  convaudit check STAGE --config FILE         one stage that works on their results
  convaudit report --config FILE              verdict and report
  convaudit publish --config FILE             send the run to MLflow
  convaudit gate --run DIR                    exit with the verdict: 0 pass or warn, 1 fail, 2 could not judge

Other:
  convaudit init DIR                          write dvc.yaml, params.yaml and a conf to start from
  convaudit clean --work DIR                  remove unfinished work

Config groups (an OVERRIDE is group=option or key=value):
$GROUPS
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Workers and their nannies get SIGINT from the terminal too; the driver alone decides what it means.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_INTERRUPTED))
    try:
        sys.exit(_dispatch(given))
    except KeyboardInterrupt:
        _say("interrupted; finished shards are kept, run the same command again to go on")
        sys.exit(_INTERRUPTED)
    except AuditError as error:
        _say(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(_INTERRUPTED)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _dispatch(given: list[str]) -> int:
    if given and given[0] in ("--help", "-h", "help"):
        sys.stdout.write(_USAGE.replace("$GROUPS", _groups()))
        return 0
    if given and given[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"convaudit {version('convaudit')}\n")
        return 0
    if given and given[0] in _COMMANDS:
        return _COMMANDS[given[0]](given[1:])
    if given and given[0].isidentifier():
        raise ConfigError(f"no command is called {given[0]!r}{did_you_mean(given[0], _COMMANDS)}")
    return _composed(given, _audit)


def _groups() -> str:
    """List every config group with its options."""
    from importlib.resources import files

    folders = [item for item in files("convaudit.conf").iterdir() if item.is_dir() and item.name != "__pycache__"]
    rows = []
    for folder in sorted(folders, key=lambda item: item.name):
        options = sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))
        rows.append(f"  {folder.name:<14} {', '.join(options)}")
    return "\n".join(rows)


def _audit(composed: DictConfig) -> int:
    from .config import check, resolve
    from .run import audit

    config = check(resolve(composed))
    notes = audit(config)
    published = _publish_softly(config)
    return _close(config, notes, published)


def _publish_softly(config: Any) -> str:
    """Publish; where that fails the audit stands, and the text says what to do."""
    from ..stages.errors import TrackingError
    from .publish import publish_run
    from .tracking import open_command

    if not config.tracking.enabled:
        return "off (tracking=none)"
    try:
        publish_run(config.run, config)
    except TrackingError as error:
        if config.tracking.required:
            raise
        return f"not sent: {' '.join(str(error).split())}; send it later with `convaudit publish --run {config.run}`"
    return open_command(config.tracking, config.run)


def _close(config: Any, notes: Mapping[str, Any], published: str) -> int:
    from ..stages.verdicts.stage import headline

    predictions = config.run / "store" / "predictions.zarr"
    rows = [
        headline(notes),
        f"report  {config.run / 'report.html'}",
        f"store   {config.run / 'store'}  (xarray.open_zarr('{predictions}', consolidated=False))",
        f"mlflow  {published}",
    ]
    sys.stdout.write("\n".join(rows) + "\n")
    return EXIT[notes["verdict"]]


def _composed(overrides: list[str], task: Callable[[DictConfig], int]) -> int:
    """Let Hydra parse its flags and compose the config, and put its complaints into one line."""
    code = 0
    raised: list[BaseException] = []

    def run(composed: DictConfig) -> None:
        nonlocal code
        try:
            code = task(composed)
        except BaseException as error:  # Hydra would announce it in its own words first; raised again below
            raised.append(error)

    before, sys.argv = sys.argv, ["convaudit", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    complaints = io.StringIO()
    try:
        with _parser_errors(complaints):
            hydra.main(version_base="1.3", config_path="pkg://convaudit.conf", config_name="config")(run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error)) from error
    except SystemExit as stop:
        if stop.code == 2 and complaints.getvalue():
            raise ConfigError(
                complaints.getvalue().strip().splitlines()[-1].removeprefix("convaudit: error: ")
            ) from stop
        raise
    finally:
        sys.argv = before
    if raised:
        raise raised[0]
    return code


@contextlib.contextmanager
def _parser_errors(complaints: io.StringIO) -> Any:
    """Catch what argparse prints, whose usage text would bury the one line that matters."""
    original = argparse.ArgumentParser._print_message

    def catch(self: argparse.ArgumentParser, message: str, file: Any = None) -> None:
        original(self, message, complaints if file is sys.stderr else file)

    argparse.ArgumentParser._print_message = catch  # type: ignore[method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser._print_message = original  # type: ignore[method-assign]


def _explain(error: BaseException) -> str:
    """Say in one line which override is wrong."""
    from .config import one_line

    cause = error.__cause__ or error.__context__
    if isinstance(cause, ConfigKeyError) and cause.full_key:
        parent = cause.parent_node
        known = [str(key) for key in parent] if isinstance(parent, Mapping) else []
        return f"{cause.full_key}: no such setting{did_you_mean(str(cause.key), known)}"
    text = one_line(error).partition("Config search path:")[0].strip()
    return f"{text} {one_line(cause)}" if isinstance(cause, OmegaConfBaseException) else text


def _parse(command: str, given: Sequence[str], *options: tuple[str, dict[str, Any]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"convaudit {command}")
    for name, settings in options:
        parser.add_argument(name, **settings)
    complaints = io.StringIO()
    try:
        with _parser_errors(complaints):
            return parser.parse_args(given)
    except SystemExit as stop:
        if stop.code:
            raise ConfigError(complaints.getvalue().strip().splitlines()[-1]) from stop
        raise


_CONFIG = ("--config", {"type": Path, "required": True})


def _config_command(given: list[str]) -> int:
    if "--out" not in given[:-1]:
        raise ConfigError("convaudit config: expected --out FILE; use `convaudit --cfg job` to only look")
    at = given.index("--out")
    out, overrides = Path(given[at + 1]), given[:at] + given[at + 2 :]

    def write(composed: DictConfig) -> int:
        from .config import as_yaml, check, resolve

        tree = resolve(composed)
        check(tree)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_yaml(tree))
        return 0

    return _composed(overrides, write)


def _reference_command(given: list[str]) -> int:
    path = {"type": Path, "required": True}
    files = ("--weights", path), ("--data", path), ("--config", {"type": Path})
    options = _parse("reference", given, *files, ("overrides", {"nargs": "*"}))
    if options.config is not None and options.overrides:
        raise ConfigError("convaudit reference: expected --config or overrides, got both")

    def export(config: Any) -> int:
        import shutil

        from .reference import export_digits, trained_checkpoint
        from .workspace import Workspace

        workspace = Workspace(config.work)
        with workspace.locked():
            trained = trained_checkpoint(config, workspace)
        options.weights.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained, options.weights)
        export_digits(options.data)
        return 0

    from .config import check, load, resolve

    if options.config is not None:
        return export(load(options.config))
    return _composed(options.overrides, lambda composed: export(check(resolve(composed))))


def _sweep_command(given: list[str]) -> int:
    from .config import load
    from .run import sweep

    sweep(load(_parse("sweep", given, _CONFIG).config))
    return 0


def _check_command(given: list[str]) -> int:
    from .config import load
    from .run import check

    options = _parse("check", given, ("stage", {}), _CONFIG)
    check(load(options.config), options.stage)
    return 0


def _report_command(given: list[str]) -> int:
    from ..stages.verdicts.stage import headline
    from .config import load
    from .run import check, report

    config = load(_parse("report", given, _CONFIG).config)
    check(config, "verdicts")
    sys.stdout.write(headline(report(config)) + "\n")
    return 0


def _publish_command(given: list[str]) -> int:
    from .config import load
    from .publish import publish_run
    from .tracking import open_command

    options = _parse("publish", given, ("--config", {"type": Path}), ("--run", {"type": Path}))
    path = options.config or (options.run or Path("run")) / "config.yaml"
    config = load(path)
    run = options.run or config.run
    if not config.tracking.enabled:
        raise ConfigError("publish: tracking is off in this config; set tracking=sqlite or tracking=server")
    publish_run(run, config)
    sys.stdout.write(f"published; open it with: {open_command(config.tracking, run)}\n")
    return 0


def _gate_command(given: list[str]) -> int:
    from ..stages.errors import StoreError
    from ..stages.verdicts.stage import headline

    run = _parse("gate", given, ("--run", {"type": Path, "default": Path("run")})).run
    path = run / "verdict.json"
    if not path.is_file():
        raise StoreError(f"gate: {path} is missing, so there is no verdict; run `convaudit` or `convaudit report`")
    notes = json.loads(path.read_text())
    sys.stdout.write(headline(notes) + "\n")
    return EXIT[notes["verdict"]]


def _init_command(given: list[str]) -> int:
    from .scaffolding import init

    directory = _parse("init", given, ("directory", {"type": Path})).directory
    for path in init(directory):
        sys.stdout.write(f"wrote {path}\n")
    return 0


def _clean_command(given: list[str]) -> int:
    from .workspace import Workspace

    work = _parse("clean", given, ("--work", {"type": Path, "default": Path(".work")})).work
    workspace = Workspace(work)
    with workspace.locked():
        sys.stdout.write(f"removed {workspace.clean()} unfinished pieces of work below {work}\n")
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "config": _config_command,
    "reference": _reference_command,
    "sweep": _sweep_command,
    "check": _check_command,
    "report": _report_command,
    "publish": _publish_command,
    "gate": _gate_command,
    "init": _init_command,
    "clean": _clean_command,
}

if __name__ == "__main__":
    main()
