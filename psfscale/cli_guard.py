"""Guard of all commands: every end is a sentence and one of `psfscale.errors.ExitCode`."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGINT, Signals
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from psfscale.errors import EXIT_MEANINGS, ConfigError, ExitCode, PsfscaleError
from psfscale.processes import Stoppable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EPILOG", "Verb", "Verbs"]

EPILOG = "Exit codes: " + "; ".join(f"{int(c)} {text}" for c, text in EXIT_MEANINGS.items()) + "."
"""Exit codes, for the help."""

WRITTEN = ("output", "table", "tables", "path", "config")
"""Arguments that name what a command writes to, the most telling first."""


class Verb(TyperCommand):
    """A command whose errors of the operating system name a path, and that takes no empty word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; an empty one, of which paths make the folder here, is refused."""
        if "" in args:
            msg = "an empty argument: is a variable of the shell not set?"
            raise ConfigError(msg)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error without a name (a full disk) gets that of the output."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno is not None and error.filename is None:
                names = (ctx.params.get(name) for name in WRITTEN)
                error.filename = next((str(name) for name in names if name is not None), None)
            raise


class Verbs(TyperGroup):
    """Verbs in the order of the walk; every error ends in one sentence, not a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names in the order of their definition."""
        return list(self.commands)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line; end the process with an exit code."""
        with _patient_streams():
            try:
                return super().main(*args, **extra)
            except Exception as error:
                raise SystemExit(_ended_by(error)) from error

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with Stoppable() as stopped:
            try:
                return super().invoke(ctx)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt as error:
                raise typer.Exit(_interrupted(stopped.signal or SIGINT)) from error
            except Exception as error:
                if stopped.signal is not None:  # of what was closed on the way out
                    raise typer.Exit(_interrupted(stopped.signal)) from error
                if hasattr(error, "format_message"):  # of the parser: a wrong option, its usage
                    raise
                raise typer.Exit(_ended_by(error)) from error


def say(sentence: str) -> None:
    """Write a sentence to the error stream; where that is gone, the exit code has to do."""
    with suppress(OSError, ValueError):
        typer.secho(f"psfscale: {sentence}", err=True, fg=typer.colors.RED)


def _interrupted(number: int) -> ExitCode:
    """Say which signal ended the command, and return its exit code."""
    say(f"interrupted by {Signals(number).name}; the same command resumes")
    return ExitCode(128 + number)


def _ended_by(error: Exception) -> ExitCode:
    """Say what ended a command, and return its exit code."""
    if isinstance(error, PsfscaleError):
        say(str(error))
        return ExitCode.WRONG
    if isinstance(error, OSError) and error.errno is not None:
        say(_of_system(error))
        return ExitCode.WRONG
    what = f"{type(error).__name__}: {_first_line(error)}"
    if _is_memory(error):
        what = f"out of memory ({_first_line(error)}): take less at a time, or a larger machine"
    log = _write_log(error)
    say(f"{what}; the traceback is in {log}" if log else f"{what}\n{_traceback(error)}")
    return ExitCode.UNFORESEEN


def _of_system(error: OSError) -> str:
    """An error of the operating system, with the path and what to do."""
    reason = error.strerror or os.strerror(error.errno or 0)
    where = ", ".join(str(name) for name in (error.filename, error.filename2) if name)
    advice = {
        errno.ENOSPC: "make room, then run the same command again",
        errno.EDQUOT: "make room, then run the same command again",
        errno.EROFS: "choose a place that may be written",
        errno.EACCES: "change its permissions, or choose another path",
        errno.EPERM: "change its permissions, or choose another path",
    }.get(error.errno or 0, "put that right, then run the same command again")
    return f"{where or 'a file'}: {reason}; {advice}"


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so by other classes than Python."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


def _traceback(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _write_log(error: Exception) -> Path | None:
    """Write the traceback to a file here, or among the temporary ones; returns its path."""
    name = f"psfscale-error-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    from psfscale import __version__

    text = (
        f"psfscale {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{shlex.join(sys.argv)}\n\n{_traceback(error)}"
    )
    for folder in (Path(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            path = folder / name
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return path
    return None


class _Patient:
    """An output stream that goes on without a reader: what is printed then is dropped.

    Parameters
    ----------
    stream : to write to
    name : of the stream in errors; None for one whose errors must not end anything
    """

    def __init__(self, stream: Any, name: str | None) -> None:
        self._stream = stream
        self._name = name
        self._terminal = stream.isatty()  # which gives EIO once it is closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as long as anybody reads."""
        with self._patience():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, as long as anybody reads."""
        with self._patience():
            self._stream.flush()

    @contextmanager
    def _patience(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            closed = error.errno == errno.EPIPE or (error.errno == errno.EIO and self._terminal)
            if self._name is None or closed:
                self.drop()
                return
            error.filename = self._name
            raise

    def drop(self) -> None:
        """Let the null device take the rest: what is buffered must not fail again at the end."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextmanager
def _patient_streams() -> Iterator[None]:
    """Output streams that outlive their reader (`psfscale run ... | head`)."""
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as null:
        # a stream is None where whoever started the command has closed it
        out = _Patient(before[0] or null, "the standard output")
        sys.stdout, sys.stderr = out, _Patient(before[1] or null, None)
        try:
            yield
        finally:
            _flush(out)
            sys.stdout, sys.stderr = before


def _flush(out: _Patient) -> None:
    """Write what is buffered, before Python does it where no error can be caught."""
    try:
        out.flush()
    except OSError as error:
        say(_of_system(error))
        out.drop()
        raise SystemExit(ExitCode.WRONG) from error
