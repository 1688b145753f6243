"""Everything convaudit raises on purpose, in one tree.

::

    AuditError                      one line for the user; exit code 2
    ├── ConfigError     (ValueError)    a setting, a name or a combination of settings is wrong
    ├── ModelError      (ValueError)    the model cannot be built, loaded or looked into
    ├── DataError       (ValueError)    the data set cannot be read or does not fit the model
    │   └── ImageError                  one image cannot be used; recorded, never fatal by itself
    ├── StoreError      (RuntimeError)  stored results are missing, incomplete or in use
    ├── StageError      (RuntimeError)  a stage could not do its work
    ├── ClusterError    (RuntimeError)  workers cannot be had, or died
    └── TrackingError   (ConnectionError)   MLflow cannot be reached or does not take what it is given
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class AuditError(Exception):
    """Anything a user can cause; its text is a single line that says where, what and what next."""


class ConfigError(AuditError, ValueError):
    """A setting, a name or a combination of settings is wrong."""


class ModelError(AuditError, ValueError):
    """The model cannot be built, loaded or looked into."""


class DataError(AuditError, ValueError):
    """The data set cannot be read or does not fit the model."""


class ImageError(DataError):
    """One image cannot be used; the sweep records the reason and goes on.

    Parameters
    ----------
    code
        One of `convaudit.stages.specs.STATUS`, without ``"ok"``.
    reason
        What is wrong with the image, in words.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.code, self.reason)


class StoreError(AuditError, RuntimeError):
    """Stored results are missing, incomplete or in use."""


class StageError(AuditError, RuntimeError):
    """A stage could not do its work."""


class ClusterError(AuditError, RuntimeError):
    """Workers cannot be had, or died."""


class TrackingError(AuditError, ConnectionError):
    """MLflow cannot be reached or does not take what it is given."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Name what was probably meant, for the end of an error message.

    Parameters
    ----------
    wrong
        The name nobody knows.
    known
        The names there are.

    Returns
    -------
    str
        ``"; did you mean 'a' or 'b'?"`` where something is close, else ``"; there are: a, b, ..."``.
    """
    names = [str(name) for name in known]
    close = difflib.get_close_matches(wrong, names, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(name) for name in close) + "?"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"; there are: {shown}" if names else ""


def in_words(error: BaseException) -> str:
    """Say what somebody else's exception says, on one line, for the middle of an error message.

    Returns
    -------
    str
        ``"TypeError: first line of its text"``; at most 200 characters, without addresses of objects in memory.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r" at 0x[0-9a-f]+", "", lines[0]) if lines else ""
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:200]
