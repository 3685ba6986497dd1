"""The exceptions of psfscale, and which to raise when.

Every error says what was expected, what came, and what to do. Each derives from
`PsfscaleError` and from the builtin a Python programmer would catch, and takes one
message, so that it survives pickling between a worker and the driver.

==========================  ==========================================================
raise                       when
==========================  ==========================================================
`ConfigError`               a configuration, survey file or command-line setting is wrong
`InputError`                data given by the user (file, array, column, unit) is wrong
`StoreError`                a store is missing, of another schema, incomplete or misused
`FitError`                  a model cannot be fitted to these stars (too few, no signal)
`PsfCheckError`             a fitted PSF is not fit for release (not finite, size, flux)
`RunError`                  a run cannot start or go on (too many failures, no cluster)
`LostLeaseError`            a unit may not write since another driver has taken its run over
`HeldError`                 a run cannot start since another driver holds it
==========================  ==========================================================

A command that ends by one of them exits with `ExitCode.WRONG`.
"""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command; `EXIT_MEANINGS` says them in words."""

    DONE = 0
    LISTED = 1
    WRONG = 2
    UNMET = 3
    UNFORESEEN = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.LISTED: "finished, with failures, refusals or damage listed",
    ExitCode.WRONG: "the input, the command or the place to write is wrong: a sentence says what "
    "to put right; finished work is kept, the same command resumes",
    ExitCode.UNMET: "finished, but a quality check or a requirement that was asked for fails",
    ExitCode.UNFORESEEN: "unforeseen: a sentence, and a log file with the traceback",
    ExitCode.HUNG_UP: "interrupted as its terminal closed (SIGHUP); the same command resumes",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C (SIGINT); the same command resumes",
    ExitCode.TERMINATED: "interrupted by SIGTERM; the same command resumes",
}
"""Meaning of each exit code, as the help and the docs print it."""

HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of errors of the system that come again until somebody mends their cause."""


class PsfscaleError(Exception):
    """Root of all errors that psfscale raises on purpose."""


class ConfigError(PsfscaleError, ValueError):
    """A configuration, survey file or command-line setting is wrong."""


class InputError(PsfscaleError, ValueError):
    """Data given by the user (file, array, column, unit) is wrong."""


class StoreError(PsfscaleError, OSError):
    """A store is missing, of another schema, incomplete, or written where it must not be."""


class FitError(PsfscaleError, ArithmeticError):
    """A model cannot be fitted to these stars."""


class PsfCheckError(PsfscaleError, ArithmeticError):
    """A fitted PSF is not fit for release: not finite, flux not positive, size out of range."""


class RunError(PsfscaleError, RuntimeError):
    """A run cannot start or go on."""


class LostLeaseError(RunError):
    """Another driver has taken the run over; what was computed is dropped."""


class HeldError(RunError):
    """Another driver holds the run."""
