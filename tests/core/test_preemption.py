"""Signals, sent to this very process."""

import signal

import pytest

from jaxkd.core import preemption


def send(number):
    # To this thread, which has handled it when the call returns; ``os.kill`` may choose
    # another.
    signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_told_from_then_on(number, capsys):
    with preemption.catch_signals() as stop_requested:
        assert stop_requested() is None
        send(number)
        assert stop_requested() == stop_requested() == signal.Signals(number).name
    assert "saving at the next step" in capsys.readouterr().err


@pytest.fixture
def keyboard():
    """Interrupts as in a terminal: processes in the background ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_a_second_ends_at_once():
    with pytest.raises(KeyboardInterrupt), preemption.catch_signals() as stop_requested:
        send(signal.SIGTERM)
        assert stop_requested() == "SIGTERM"
        send(signal.SIGINT)


def test_afterwards_signals_do_what_they_did_before():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("before"))
    try:
        with preemption.catch_signals():
            pass
        send(signal.SIGTERM)
        assert seen == ["before"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_nobody_asks():
    assert preemption.never_stop() is None
