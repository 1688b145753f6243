"""The command `convaudit`: words in, exit code out.

Exit codes: 0 the verdict is PASS or WARN, 1 a gate failed, 2 it could not be judged or the command was wrong,
130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig

from ..stages.errors import AuditError, ConfigError, StoreError, did_you_mean
from .compose import composed, config_groups, parser_errors

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
    # Leave through the contexts that stop the cluster, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_INTERRUPTED))
    try:
        sys.exit(_dispatch(given))
    except KeyboardInterrupt:
        _say("interrupted; finished shards are kept, run the same command again to go on")
        sys.exit(_INTERRUPTED)
    except AuditError as error:
        _say(f"error: {' '.join(str(error).split())}")
    except BrokenPipeError:
        sys.exit(_INTERRUPTED)
    except OSError as error:
        _say(f"error: {_disk(error)}")
    except Exception:
        # Python would leave with 1, which says that a gate failed.
        traceback.print_exc()
        _say("error: this is a defect of convaudit; please report it with the lines above")
    sys.exit(2)


def _disk(error: OSError) -> str:
    """Say what the operating system refused, where, and what to do."""
    advice = {
        errno.ENOSPC: "free some space and run the same command again; finished shards are kept",
        errno.EDQUOT: "free some space and run the same command again; finished shards are kept",
        errno.EACCES: "choose other folders with run=... and work=..., or change the permissions",
        errno.EPERM: "choose other folders with run=... and work=..., or change the permissions",
        errno.EROFS: "choose other folders with run=... and work=...",
        errno.ENOTDIR: "a part of this path is a file; choose another",
    }
    where = f"{error.filename}: " if error.filename else ""
    text = " ".join((error.strerror or str(error) or type(error).__name__).split())
    return f"{where}{text}; {advice.get(error.errno or 0, 'check the path and run the same command again')}"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _dispatch(given: list[str]) -> int:
    command = given[0] if given else ""
    if command == "help" or (command not in _COMMANDS and {"--help", "-h"} & set(given)):
        rows = (
            textwrap.fill(", ".join(options), 116, initial_indent=f"  {group:<14} ", subsequent_indent=" " * 17)
            for group, options in config_groups().items()
        )
        sys.stdout.write(_USAGE.replace("$GROUPS", "\n".join(rows)))
        return 0
    if command == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"convaudit {version('convaudit')}\n")
        return 0
    if command in _COMMANDS:
        return _COMMANDS[command](given[1:])
    if command.isidentifier():
        known = did_you_mean(command, _COMMANDS)
        raise ConfigError(f"no command is called {command!r}{known} (`convaudit` alone runs the audit)")
    return composed(given, _audit)


def _audit(tree: DictConfig) -> int:
    from .config import check, resolve
    from .run import audit

    config = check(resolve(tree))
    _refuse_unwritable(config)
    notes = audit(config)
    published = _publish_softly(config)
    return _close(config, notes, published)


def _refuse_unwritable(config: Any) -> None:
    """Look at the folders before hours are spent on what could not be written."""
    for key, folder in (("run", config.run), ("work", config.work)):
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise ConfigError(f"{key}: {existing} is a file; expected a folder, or a path where one can be made")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise ConfigError(f"{key}: {existing} cannot be written to; choose another folder with {key}=...")


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


def _reasons(notes: Mapping[str, Any], limit: int = 3) -> list[str]:
    """Say why leaves failed by themselves; those that only needed them are in the report."""
    reasons = [" ".join(row["reason"].split()) for row in notes["failures"]]
    own = [reason for reason in reasons if not reason.endswith("which failed")]
    return own[:limit] + ([f"... and {len(own) - limit} more in the report"] if len(own) > limit else [])


def _close(config: Any, notes: Mapping[str, Any], published: str) -> int:
    from ..stages.verdicts.stage import headline

    predictions = config.run / "store" / "predictions.zarr"
    rows = [
        headline(notes),
        *(f"failed  {reason}" for reason in _reasons(notes)),
        f"report  {config.run / 'report.html'}",
        f"store   {config.run / 'store'}  (xarray.open_zarr('{predictions}', consolidated=False))",
        f"mlflow  {published}",
    ]
    sys.stdout.write("\n".join(rows) + "\n")
    return EXIT[notes["verdict"]]


def _parse(
    command: str, given: Sequence[str], *options: tuple[str, dict[str, Any]]
) -> tuple[argparse.Namespace, list[str]]:
    """Read a command's own options; what is left over are overrides, where the command takes any."""
    parser = argparse.ArgumentParser(prog=f"convaudit {command}", allow_abbrev=False)
    for name, settings in options:
        parser.add_argument(name, **settings)
    with parser_errors():
        if command in _TAKE_OVERRIDES:
            parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} [OVERRIDE ...]"
            return parser.parse_known_args(given)
        return parser.parse_args(given), []


_TAKE_OVERRIDES = ("config", "reference")
_CONFIG = ("--config", {"type": Path, "required": True})


def _config_command(given: list[str]) -> int:
    options, overrides = _parse("config", given, ("--out", {"type": Path, "required": True}))

    def write(tree: DictConfig) -> int:
        from .config import as_yaml, check, resolve

        plain = resolve(tree)
        check(plain)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.unlink(missing_ok=True)  # DVC may have linked it into its cache
        options.out.write_text(as_yaml(plain))
        return 0

    return composed(overrides, write)


def _reference_command(given: list[str]) -> int:
    path = {"type": Path, "required": True}
    options, overrides = _parse("reference", given, ("--weights", path), ("--data", path), ("--config", {"type": Path}))
    if options.config is not None and overrides:
        raise ConfigError("convaudit reference: expected --config or overrides, got both")

    def export(config: Any) -> int:
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
    return composed(overrides, lambda tree: export(check(resolve(tree))))


def _sweep_command(given: list[str]) -> int:
    from .config import load
    from .run import sweep

    config = load(_parse("sweep", given, _CONFIG)[0].config)
    _refuse_unwritable(config)
    sweep(config)
    return 0


def _check_command(given: list[str]) -> int:
    from .config import load
    from .run import check

    options, _ = _parse("check", given, ("stage", {}), _CONFIG)
    check(load(options.config), options.stage)
    return 0


def _report_command(given: list[str]) -> int:
    from ..stages.verdicts.stage import headline
    from .config import load
    from .run import check, report

    config = load(_parse("report", given, _CONFIG)[0].config)
    check(config, "verdicts")
    sys.stdout.write(headline(report(config)) + "\n")
    return 0


def _publish_command(given: list[str]) -> int:
    from .config import load
    from .publish import publish_run
    from .tracking import open_command

    options, _ = _parse("publish", given, ("--config", {"type": Path}), ("--run", {"type": Path}))
    path = options.config or (options.run or Path("run")) / "config.yaml"
    if options.config is None and not path.is_file():
        raise StoreError(f"publish: {path} is missing, so there is no run to send; run `convaudit`, or give --config")
    config = load(path)
    run = options.run or config.run
    if not config.tracking.enabled:
        raise ConfigError("publish: tracking is off in this config; set tracking=sqlite or tracking=server")
    publish_run(run, config)
    sys.stdout.write(f"published; open it with: {open_command(config.tracking, run)}\n")
    return 0


def _gate_command(given: list[str]) -> int:
    from ..stages.verdicts.stage import headline

    run = _parse("gate", given, ("--run", {"type": Path, "default": Path("run")}))[0].run
    path = run / "verdict.json"
    if not path.is_file():
        raise StoreError(f"gate: {path} is missing, so there is no verdict; run `convaudit` or `convaudit report`")
    try:
        notes = json.loads(path.read_text())
        code, line = EXIT[notes["verdict"]], headline(notes)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"gate: {path} holds no verdict; write it again with `convaudit report`") from error
    sys.stdout.write(line + "\n")
    return code


def _init_command(given: list[str]) -> int:
    from .scaffolding import init

    directory = _parse("init", given, ("directory", {"type": Path}))[0].directory
    for path in init(directory):
        sys.stdout.write(f"wrote {path}\n")
    return 0


def _clean_command(given: list[str]) -> int:
    from .workspace import Workspace

    work = _parse("clean", given, ("--work", {"type": Path, "default": Path(".work")}))[0].work
    if not (work / "sealed").is_dir():
        raise ConfigError(f"clean: {work} is no work folder of convaudit; give the audit's own with --work DIR")
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
