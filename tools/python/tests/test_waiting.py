"""Waiting: timeouts, Ctrl-C, event loops, ends."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import NEAR, Cable, attached, body, udp, wait_for

import devrx


def test_a_timeout_is_none(cable: Cable) -> None:
    with cable.attach() as rx:
        start = time.monotonic()
        assert rx.recv(0) is None
        assert time.monotonic() - start < 0.1
        assert rx.recv(0.5) is None
        assert 0.45 < time.monotonic() - start < 1.5
        with pytest.raises(devrx.Error, match="no number of seconds"):
            rx.recv(float("nan"))


def test_ctrl_c_interrupts_a_wait_that_burns_no_cpu(cable: Cable) -> None:
    with cable.attach() as rx:
        timer = threading.Timer(0.6, lambda: os.kill(os.getpid(), signal.SIGINT))
        start, burnt = time.monotonic(), time.process_time()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            rx.recv()
        assert 0.5 < time.monotonic() - start < 1.5
        assert time.process_time() - burnt < 0.05
        cable.send_all([udp(body(1))])
        assert rx.recv(2)[0].payload.tobytes() == body(1)


def test_other_threads_run_while_one_waits(cable: Cable) -> None:
    with cable.attach() as rx:
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(rx.recv(5)))
        thread.start()
        time.sleep(0.1)
        cable.send_all([udp(body(1))])
        thread.join(3)
        assert len(found) == 1 and len(found[0]) == 1  # type: ignore[arg-type]


def test_close_wakes_who_waits(cable: Cable) -> None:
    rx = cable.attach()
    timer = threading.Timer(0.3, rx.close)
    timer.start()
    start = time.monotonic()
    assert list(rx) == []
    assert time.monotonic() - start < 1
    assert rx.closed
    with pytest.raises(devrx.Closed):
        rx.recv(0)


def test_an_event_loop_receives_and_does_other_things(cable: Cable) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        with cable.attach() as rx:
            other = asyncio.create_task(tick())
            await asyncio.sleep(0.05)
            sender = cable.send((udp(body(number)) for number in range(500)), rate=2000)
            expected = 0
            async for batch in rx.batches_async(timeout=1):
                for packet in batch:
                    assert packet.payload.tobytes() == body(expected)
                    expected += 1
            del packet
            assert sender.wait(5) == 0
            assert expected == 500 and rx.held == 0
            assert ticks > 20
            # One that is cancelled leaves nothing behind.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(rx.recv_async(), 0.1)
            first = asyncio.create_task(rx.recv_async())
            await asyncio.sleep(0.02)
            with pytest.raises(RuntimeError, match="another task"):
                await rx.recv_async(0)
            first.cancel()
            other.cancel()
            await asyncio.gather(first, other, return_exceptions=True)
            asyncio.get_running_loop().call_later(0.1, rx.close)
            start = time.monotonic()
            assert [batch async for batch in rx] == []
            # By the close itself: a task looks by itself once a second.
            assert time.monotonic() - start < 0.8

    asyncio.run(main())


def test_a_detach_is_an_end_with_its_reason(cable: Cable) -> None:
    with cable.attach() as rx:
        cable.send_all([udp(body(1))])
        timer = threading.Timer(0.3, lambda: devrx.detach("py", socket=cable.socket))
        timer.start()
        assert len(rx.recv(2)) == 1
        with pytest.raises(devrx.Ended, match="py has ended") as error:
            rx.recv(5)
        assert error.value.code == "ended" and error.value.errno > 0


def test_refusals_have_the_daemons_words(cable: Cable) -> None:
    with cable.attach() as rx:
        for wrong, code, words in (
            ({"nic": NEAR, "queue": 0}, "busy", "py"),
            ({"nic": "eth9"}, "not_found", "eth9"),
            ({"nic": NEAR, "queue": 7}, "", "queue"),
            ({"nic": NEAR, "queue": 0, "flows": ["moon"]}, "invalid", "moon"),
        ):
            with pytest.raises(devrx.Refused, match=words) as error:
                devrx.attach("py2", size="1M", socket=cable.socket, **wrong)  # type: ignore[arg-type]
            assert error.value.code == code or not code, error.value.code
        assert isinstance(error.value, devrx.Error)
        again = pickle.loads(pickle.dumps(error.value))
        assert str(again) == str(error.value) and again.errno == error.value.errno
        with pytest.raises(devrx.Refused):
            devrx.open("nobody", socket=cable.socket)
        assert not rx.closed
    with pytest.raises(devrx.Unreachable, match="DEVRX_SOCKET"):
        devrx.stats(socket="/nonexistent/devrx.sock")


def test_an_attachment_that_stays_is_opened_again(cable: Cable) -> None:
    cable.attach(keep=True).close()
    try:
        with devrx.open("py", socket=cable.socket) as rx:
            cable.send_all([udp(body(2))])
            assert rx.recv(2)[0].payload.tobytes() == body(2)
    finally:
        devrx.detach("py", socket=cable.socket)


def in_the_child(rx: devrx.Receiver, views: list[object], answer: object) -> None:
    views.clear()
    try:
        rx.recv(0)
    except devrx.Error as error:
        answer.put(error.code)  # type: ignore[attr-defined]


# Python warns of forking with threads: the case that is tested here.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_of_fork_cannot_harm_its_parent(cable: Cable) -> None:
    context = multiprocessing.get_context("fork")
    with cable.attach() as rx:
        cable.send_all([udp(body(1))])
        views = rx.recv(2).payloads
        answer = context.Queue()
        child = context.Process(target=in_the_child, args=(rx, views, answer))
        child.start()
        assert answer.get(timeout=5) == "forked"
        child.join(5)
        # What the child dropped is still the parent's.
        time.sleep(0.05)
        assert rx.held == rx.stats()["with_client"] == 1
        assert views[0].tobytes() == body(1)
        views.clear()
        wait_for("it is back", lambda: rx.stats()["with_client"] == 0)
        cable.send_all([udp(body(2))])
        assert rx.recv(2)[0].payload.tobytes() == body(2)


def sleep_in_the_child(started: object, done: object) -> None:
    started.set()  # type: ignore[attr-defined]
    done.wait(20)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_closing_ends_the_attachment_while_a_child_of_fork_lives(cable: Cable) -> None:
    context = multiprocessing.get_context("fork")
    started, done = context.Event(), context.Event()
    child = context.Process(target=sleep_in_the_child, args=(started, done))
    try:
        with cable.attach():
            child.start()
            assert started.wait(5)
        wait_for("it is gone", lambda: not attached(cable, "py"))
        assert child.is_alive()
    finally:
        done.set()
        child.join(5)


def test_an_interpreter_ends_with_everything_held(cable: Cable) -> None:
    cable_code = f"""
import devrx, threading
rx = devrx.attach("py", nic={NEAR!r}, size="1M", flows=["any"], socket={str(cable.socket)!r})
print("ready", flush=True)
batch = rx.recv(5)
keep = batch.payloads, [p for p in batch], rx
threading.Thread(target=rx.recv, daemon=True).start()
"""
    program = subprocess.Popen([sys.executable, "-c", cable_code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    cable.send_all([udp(body(1))])
    said = program.communicate(timeout=10)
    assert program.returncode == 0, said
