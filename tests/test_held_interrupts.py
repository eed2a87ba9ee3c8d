"""Ctrl-C around executors: it waits for a safe moment, and then does what it always does."""

from __future__ import annotations

import signal
import threading
import time

from concurrent.futures import ThreadPoolExecutor

import pytest

from pymc_sph.interrupts import held_interrupts, run_all


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_comes_at_the_end_or_where_it_is_let_through():
    done = []
    with pytest.raises(KeyboardInterrupt):
        with held_interrupts():
            interrupt()
            done.append("held")
    with pytest.raises(KeyboardInterrupt):
        with held_interrupts() as let_through:
            let_through()  # there is none yet
            interrupt()
            done.append("held")
            let_through()
            done.append("not here")
    with held_interrupts():
        pass
    assert done == ["held", "held"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_users_is_called_once_and_work_goes_on():
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        with held_interrupts() as let_through:
            interrupt()
            assert calls == []
            let_through()
            assert calls == [signal.SIGINT]
        assert calls == [signal.SIGINT]
        with ThreadPoolExecutor(2) as pool:
            results = run_all(
                pool, lambda i: i if i else interrupt_later(), [(0,), (1,), (2,)], True
            )
        assert results == [None, 1, 2] and len(calls) == 2
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_later():
    """In a worker: Ctrl-C reaches the main thread, which waits for the results."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(0.3)


def test_an_interrupt_ends_the_wait_and_cancels_what_has_not_begun():
    started = []

    def work(i):
        started.append(i)
        if i == 0:
            interrupt_later()
        time.sleep(0.2)

    pool = ThreadPoolExecutor(1)
    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run_all(pool, work, [(i,) for i in range(50)], True)
    pool.shutdown(wait=True)
    assert len(started) <= 3 and time.perf_counter() - began < 5  # of ten seconds of work


def test_other_threads_are_never_interrupted_and_change_no_handler():
    seen = []

    def other():
        with held_interrupts() as let_through:
            seen.append(signal.getsignal(signal.SIGINT))
            let_through()

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


def test_errors_pass_on_in_order():
    with ThreadPoolExecutor(2) as pool:
        assert run_all(pool, divmod, [(7, 2), (9, 4)], True) == [(3, 1), (2, 1)]
        with pytest.raises(ZeroDivisionError):
            run_all(pool, divmod, [(7, 2), (9, 0)], True)
        assert run_all(pool, divmod, [], True) == []
