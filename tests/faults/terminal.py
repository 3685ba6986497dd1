"""Commands in a terminal of their own, whose keys a test presses and which it closes."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
import time

import pytest

_TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios;"
    "[signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)];"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Make the terminal on standard input that of this session, as a login shell finds it."""


class Terminal:
    """A process of Python as the foreground of a pseudo-terminal.

    Attributes
    ----------
    process : the command, leader of its session and of its process group
    """

    def __init__(self, *arguments: str, cwd=None) -> None:
        self._master, slave = pty.openpty()
        command = [sys.executable, "-c", _TAKE_TERMINAL, *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=cwd
        )
        os.close(slave)
        self._said, self._closing = bytearray(), threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            if select.select([self._master], [], [], 0.05)[0]:
                try:
                    content = os.read(self._master, 65536)
                except OSError:  # nobody has the other end open any more
                    break
                self._said += content
        os.close(self._master)

    @property
    def said(self) -> str:
        """What the screen has shown."""
        return self._said.decode(errors="replace")

    def press_ctrl_c(self) -> None:
        """Have the terminal send SIGINT to its foreground."""
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """Close the window: the kernel sends SIGHUP."""
        self._closing.set()
        self._reader.join()

    def end(self, *, seconds: float = 120.0) -> int:
        """Return the exit code once the command has ended by itself."""
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"still runs after {seconds} s; it said: {self.said}")
        else:
            self._reader.join(timeout=seconds)  # all that it said
            return code
        finally:
            self._closing.set()


def wait_for(what, *, seconds: float = 120.0):
    """Return the first true answer of `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = what()
        if answer:
            return answer
        time.sleep(0.02)
    pytest.fail(f"nothing came within {seconds} s")
