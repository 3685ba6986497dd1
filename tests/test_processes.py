"""Signals to a command."""

from __future__ import annotations

import os
import signal
import time

import pytest

from psfscale.processes import Interrupt, Interrupted, Stoppable, kept_handlers


class Interrupts:
    """An object that a signal reaches as it is deleted."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.001)


def delete_and_go_on() -> None:
    Interrupts()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)


def test_signal__that_comes_while_an_object_is_deleted_is_not_lost() -> None:
    with Stoppable() as stopped, pytest.raises(Interrupted, match="SIGTERM"):
        delete_and_go_on()
    assert stopped.signal == signal.SIGTERM


def test_first_signal__is_a_wish_and_repeats_are_the_same_one() -> None:
    with Stoppable(), Interrupt() as asked:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert asked.signal == signal.SIGTERM
        asked._since -= 10
        with pytest.raises(Interrupted, match="SIGHUP"):
            signal.raise_signal(signal.SIGHUP)


def test_ignored_signals__stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stoppable(), Interrupt() as asked:
            signal.raise_signal(signal.SIGHUP)
            assert not asked.caught()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers__of_a_library_are_replaced_by_those_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with kept_handlers():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before
