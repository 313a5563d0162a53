"""Frames from numbered packets, against what was done to the stream."""

from __future__ import annotations

import asyncio
import random
import struct
import threading

import numpy as np
import pytest
from conftest import Cable, udp

import devrx
from devrx import _arrays

PACKETS, BYTES = 16, 64


def packet(number: int, order: str = "!") -> bytes:
    data = bytes((number * 5 + at) & 0xFF for at in range(BYTES))
    return udp(b"head" + struct.pack(f"{order}I", number & 0xFFFFFFFF) + data)


def reference(frame: int, lost: set[int], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """What a frame must be."""
    numbers = np.arange(frame * PACKETS, (frame + 1) * PACKETS)
    present = np.array([number not in lost for number in numbers])
    array = ((numbers[:, None] * 5 + np.arange(BYTES)[None, :]) & 0xFF).astype(np.uint8)
    array[~present] = fill
    return array, present


@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("split_extra", [0, 8])
def test_frames_are_what_was_sent(cable: Cable, order: str, split_extra: int) -> None:
    random.seed(5)
    count = 40 * PACKETS
    numbers = list(range(count))
    lost = {number for number in numbers if random.random() < 0.05}
    stream = []
    duplicates = 0
    for number in numbers:
        if number not in lost:
            stream.append(number)
            if random.random() < 0.05:
                stream.append(number)
                duplicates += 1
    # Neighbours overtake each other.
    for at in range(len(stream) - 3):
        if random.random() < 0.3:
            to = at + random.randrange(3)
            stream[at], stream[to] = stream[to], stream[at]
    with cable.attach(split_extra=split_extra) as rx:
        frames = rx.frames(
            packets=PACKETS, bytes=BYTES, sequence=(4, 4, order), window=4, deadline=0.3, fill=0xEE, timeout=1
        )
        sender = cable.send((packet(number, "!" if order == "big" else "<") for number in stream), rate=5000)
        seen = []
        for frame in frames:
            array, present = reference(frame.number, lost, 0xEE)
            assert (frame.present == present).all() and frame.present.dtype == np.bool_
            assert frame.missing == (~present).sum() and frame.complete == present.all()
            assert (frame.lengths == np.where(present, BYTES, 0)).all()
            assert ((frame.offsets >= 0) == present).all()
            assert frame.array.shape == (PACKETS, BYTES) and frame.array.flags.c_contiguous
            assert (frame.array == array).all()
            assert frame.array is frame.array
            with pytest.raises(devrx.Error, match="given back"):
                frame.offsets
            seen.append(frame.number)
        assert sender.wait(5) == 0
        assert seen == list(range(40))
        stats = frames.stats
        assert stats["packets"] == len(stream) and stats["duplicate"] == duplicates
        assert stats["placed"] == count - len(lost) and stats["missing"] == len(lost)
        assert stats["late"] == stats["unreadable"] == stats["out_of_range"] == 0
        assert rx.stats()["placement"] == stats
        assert rx.held == 0


def test_a_frame_goes_into_memory_of_the_callers(cable: Cable) -> None:
    with cable.attach() as rx:
        frames = rx.frames(packets=PACKETS, bytes=BYTES, sequence=(4, 4), window=2)
        with pytest.raises(devrx.Error, match="as frames"):
            rx.recv(0)
        with pytest.raises(devrx.Error, match="as frames already"):
            rx.frames(packets=PACKETS, bytes=BYTES)
        cable.send_all(packet(number) for number in range(PACKETS) if number != 3)
        assert frames.recv(0.3) is None
        frames.flush()
        frame = frames.recv(1)
        assert frame is not None and frame.end == "flushed"
        out = np.zeros((PACKETS, BYTES), np.uint8)
        assert frame.copy_into(out, fill=9) == 1
        assert (out == reference(0, {3}, 9)[0]).all()
        assert rx.held == PACKETS - 1
        with pytest.raises(devrx.Error, match="takes 1024 bytes, and the buffer has 64"):
            frame.copy_into(out[0])
        for wrong in (bytes(PACKETS * BYTES), out[::2]):
            with pytest.raises(BufferError):
                frame.copy_into(wrong)
        del frame
        assert rx.held == 0


def test_two_threads_that_ask_for_the_array_get_the_same(cable: Cable, monkeypatch: pytest.MonkeyPatch) -> None:
    with cable.attach() as rx:
        frames = rx.frames(packets=PACKETS, bytes=BYTES, sequence=(4, 4), window=2)
        cable.send_all(packet(number) for number in range(PACKETS))
        frame = frames.recv(2)
        assert frame is not None
        make, others = _arrays.empty, []
        other = threading.Thread(target=lambda: others.append(frame.array))

        def empty(packets: int, length: int) -> np.ndarray:
            # The other thread comes while this one is about to gather, and waits for it.
            other.start()
            other.join(0.1)
            return make(packets, length)

        monkeypatch.setattr(_arrays, "empty", empty)
        array = frame.array
        other.join(10)
        assert len(others) == 1 and others[0] is array
        assert (array == reference(0, set(), 0)[0]).all()
        assert rx.held == 0


def test_frames_in_an_event_loop_are_closed_by_their_deadline(cable: Cable) -> None:
    async def main() -> None:
        with cable.attach() as rx:
            frames = rx.frames(packets=PACKETS, bytes=BYTES, sequence=(4, 4), deadline=0.2, timeout=1)
            cable.send_all(packet(number) for number in range(PACKETS + 5))
            seen = [(frame.number, frame.missing, frame.end) async for frame in frames]
            assert seen == [(0, 0, "complete"), (1, PACKETS - 5, "expired")]

    asyncio.run(main())


def test_options_that_cannot_be_are_refused(cable: Cable) -> None:
    with cable.attach() as rx:
        for wrong, words in (
            ({"packets": 0, "bytes": 1}, "a frame has"),
            ({"packets": 4, "bytes": 4, "sequence": (0, 9)}, "1 to 8 bytes"),
            ({"packets": 4, "bytes": 4, "sequence": (0, 8, "middle")}, "order"),
            ({"packets": 1 << 20, "bytes": 4}, "can hold"),
        ):
            with pytest.raises(devrx.Error, match=words) as error:
                rx.frames(**wrong)  # type: ignore[arg-type]
            assert error.value.code == "invalid"


def test_the_end_hands_out_what_is_open(cable: Cable) -> None:
    with cable.attach() as rx:
        frames = rx.frames(packets=PACKETS, bytes=BYTES, sequence=(4, 4), window=2)
        cable.send_all(packet(number) for number in range(PACKETS + 5))
        devrx.detach("py", socket=cable.socket)
        seen = [frames.recv(2), frames.recv(2)]
        assert [frame and (frame.number, frame.end, frame.missing) for frame in seen] == [
            (0, "complete", 0),
            (1, "flushed", PACKETS - 5),
        ]
        with pytest.raises(devrx.Ended):
            frames.recv(2)
