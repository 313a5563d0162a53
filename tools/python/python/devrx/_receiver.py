"""Receiving: in a loop, in an event loop, as frames."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from . import _devrx
from ._devrx import Batch, Frame
from ._errors import Closed, Error

_T = TypeVar("_T")

_SLICE = 1.0
"""Seconds after which a task that waits looks whether this program holds everything."""


class Receiver:
    """An attachment that this program consumes: made by `devrx.attach` and `devrx.open`.

    Any thread may receive, and any may drop what was received. A child of ``fork`` may do neither.
    """

    def __init__(self, core: _devrx.Attachment, socket: str | os.PathLike[str] | None) -> None:
        self._core = core
        self._socket = socket
        self._waiting = False

    @property
    def name(self) -> str:
        """The attachment's name."""
        return self._core.name

    @property
    def nic(self) -> str:
        """The NIC."""
        return self._core.nic

    @property
    def queues(self) -> list[int]:
        """The queues' numbers on the NIC."""
        return self._core.queues

    @property
    def memory(self) -> str:
        """The kind of memory."""
        return self._core.memory

    @property
    def size(self) -> int:
        """Bytes of the region."""
        return self._core.size

    @property
    def chunks(self) -> int:
        """How many chunks there are to receive into."""
        return self._core.chunks

    @property
    def chunk_size(self) -> int:
        """Bytes of a chunk."""
        return self._core.chunk_size

    @property
    def zero_copy(self) -> bool:
        """Whether payload arrives without a copy."""
        return self._core.zero_copy

    @property
    def warnings(self) -> list[str]:
        """What will not be as one might expect."""
        return self._core.warnings

    @property
    def held(self) -> int:
        """How many chunks this program has: those of packets, arrays, batches and frames that are still referred to. No packet can be
        received into them: a number that only grows is a leak."""
        return self._core.held()

    def stats(self) -> dict[str, Any]:
        """The attachment's numbers, as the daemon counts them (``devrx stats --json``: ``delivered``, ``returned``, ``with_client``, ``drops``, ...);
        ``held`` as this program does; ``placement`` where it is received as frames."""
        numbers = json.loads(_devrx.stats(self._socket, self.name))
        # One that ended before had the same name.
        mine: dict[str, Any] = [entry for entry in numbers["attachments"] if entry["name"] == self.name][-1]
        mine["held"] = self.held
        placed = self._core.placed()
        if placed is not None:
            mine["placement"] = placed
        return mine

    def recv(self, timeout: float | None = None) -> Batch | None:
        """The next batch; None after ``timeout`` seconds (0: what is there now). Ctrl-C interrupts it.

        The batch gives its packets back when it is gone, at the end of a ``with``, or by `Batch.release`.

        :raises Ended: the attachment has ended, and everything that came before was received
        :raises Exhausted: this program has held all chunks of a queue for a second of waiting: no packet could ever come on it
        """
        return self._core.recv(timeout)

    async def recv_async(self, timeout: float | None = None) -> Batch | None:
        """As `recv`, in an event loop."""
        return await self._wait(lambda: self._core.recv(0), timeout)

    def batches(self, timeout: float | None = None) -> Iterator[Batch]:
        """Batches until none came for ``timeout`` seconds, or the receiver is closed. Asking for the next one gives the one before back, but for
        packets that something else refers to."""
        return _loop(self._core.recv, timeout)

    def __iter__(self) -> Iterator[Batch]:
        """`batches`, without a timeout."""
        return self.batches()

    def batches_async(self, timeout: float | None = None) -> AsyncIterator[Batch]:
        """As `batches`, in an event loop."""
        return _loop_async(self.recv_async, timeout)

    def __aiter__(self) -> AsyncIterator[Batch]:
        """`batches_async`, without a timeout."""
        return self.batches_async()

    async def _wait(self, look: Callable[[], _T | None], timeout: float | None) -> _T | None:
        """Looks until there is something, and sleeps in between."""
        if self._waiting:
            raise RuntimeError("another task waits for this receiver: only one can")
        core, loop = self._core, asyncio.get_running_loop()
        end = None if timeout is None else time.monotonic() + timeout
        self._waiting = True
        try:
            while True:
                found = look()
                if found is not None:
                    return found
                left = _SLICE if end is None else min(end - time.monotonic(), _SLICE)
                if left <= 0:
                    return None
                if not core.arm():
                    # The other tasks have their turn all the same.
                    await asyncio.sleep(0)
                    continue
                deadline = core.deadline()
                if deadline is not None:
                    left = min(left, deadline)
                await _readable(loop, core, left)
        finally:
            self._waiting = False

    def frames(
        self,
        *,
        packets: int,
        bytes: int,
        sequence: tuple[int, int] | tuple[int, int, Literal["big", "little"]] = (0, 8, "big"),
        window: int = 4,
        deadline: float | None = None,
        data_offset: int | None = None,
        stride: int = 1,
        first: int = 0,
        reach: tuple[int, int] | None = None,
        restart_after: int = 2,
        fill: int = 0,
        timeout: float | None = None,
    ) -> Frames:
        """From here on receives frames of numbered packets instead of batches.

        :param packets: packets of a frame
        :param bytes: bytes of data of a packet, at most
        :param sequence: the sequence number: how many bytes behind the UDP header it begins, how many it has (1 to 8), their order
        :param window: frames open at once
        :param deadline: seconds that a frame waits, from its first packet on
        :param data_offset: how many bytes behind the UDP header the data begins; None: behind the number
        :param stride: from one packet's number to the next one's
        :param first: the number of the first packet of a frame, of any
        :param reach: how many packets a packet may be ahead of the oldest open frame, and behind it; None: what suits the window
        :param restart_after: after how many packets in a row that are out of reach the stream has started again
        :param fill: the byte where a packet is missing
        :param timeout: iterating stops when no frame came for so many seconds
        """
        offset, width, order = (*sequence, "big")[:3]
        self._core.place(
            packets=packets,
            bytes=bytes,
            sequence=(offset, width, order),
            window=window,
            deadline=deadline,
            data_offset=data_offset,
            stride=stride,
            first=first,
            reach=reach,
            restart_after=restart_after,
        )
        return Frames(self, fill, timeout)

    def cuda(self, device: int = 0) -> None:
        """Gives the region to a CUDA device, so that packets and payloads are arrays of that device for ``torch.from_dlpack`` and ``cupy.asarray``: VRAM
        (``memory="cuda:0"``) is imported, host memory registered, which the device reads over PCIe. Not run on a GPU.

        :raises Error: ``code`` is ``gpu``: there is no driver, no such device, or it cannot have this memory
        """
        self._core.cuda(device)

    def device_memory(
        self,
        pointer: int | None,
        *,
        kind: Literal["cuda", "cuda_host", "cuda_managed", "rocm", "rocm_host"] = "cuda",
        device: int = 0,
        keep: object = None,
    ) -> None:
        """Tells where a device has the region, so that ``__dlpack__`` and ``__cuda_array_interface__`` of packets and payloads answer that device's memory.

        :param pointer: the device's address of the region's first byte; None: take it back
        :param kind: what memory it is to the device
        :param device: the device's number
        :param keep: what owns that address; it is kept as long as anything that was exported

        Nothing can be checked here: an address that is not the region's is a fault on the device.
        """
        self._core.set_device(pointer, kind, device, keep)

    def region_fd(self, *, export: bool = False) -> int | None:
        """A new descriptor of the region, for the caller to close: to map it or, with ``export``, of what it was exported as: what CUDA imports (kind
        ``cuda``), a dma-buf (kind ``udmabuf``). None: there is none."""
        return self._core.region_fd(export)

    def close(self) -> None:
        """Ends the consumption, and what was made by `devrx.attach` without ``keep``. Who waits is woken. Arrays stay readable, but their memory is
        not this program's any more: other packets may come into it."""
        self._core.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._core.closed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.held} of {self.chunks} chunks held"
        return f"<devrx.Receiver {self.name} on {self.nic}: {state}>"


class Frames:
    """The frames of a numbered stream, in order: made by `Receiver.frames`."""

    def __init__(self, receiver: Receiver, fill: int, timeout: float | None) -> None:
        self._receiver = receiver
        self._core = receiver._core
        self._fill = fill
        self._timeout = timeout

    def recv(self, timeout: float | None = None) -> Frame | None:
        """The next frame; None after ``timeout`` seconds. Ctrl-C interrupts it.

        :raises Ended: the attachment has ended, and all frames were received, the open ones too
        """
        return self._core.recv_frame(timeout, self._fill)

    async def recv_async(self, timeout: float | None = None) -> Frame | None:
        """As `recv`, in an event loop."""
        return await self._receiver._wait(lambda: self._core.recv_frame(0, self._fill), timeout)

    def __iter__(self) -> Iterator[Frame]:
        return _loop(self.recv, self._timeout)

    def __aiter__(self) -> AsyncIterator[Frame]:
        return _loop_async(self.recv_async, self._timeout)

    def flush(self) -> None:
        """Closes all open frames; they are received next."""
        self._core.flush()

    @property
    def stats(self) -> dict[str, int]:
        """What was done to the stream: ``packets`` is the sum of ``placed``, ``late``, ``duplicate``, ``out_of_range``, ``oversize`` and
        ``unreadable``; ``missing`` counts empty places of frames that were closed or passed."""
        return self._core.placed() or {}


_Released = TypeVar("_Released", Batch, Frame)


def _loop(recv: Callable[[float | None], _Released | None], timeout: float | None) -> Iterator[_Released]:
    last: _Released | None = None
    while True:
        if last is not None:
            last.release()
        try:
            last = recv(timeout)
        except Closed:
            return
        if last is None:
            return
        yield last


async def _loop_async(recv: Any, timeout: float | None) -> AsyncIterator[Any]:
    last = None
    while True:
        if last is not None:
            last.release()
        try:
            last = await recv(timeout)
        except Closed:
            return
        if last is None:
            return
        yield last


async def _readable(loop: asyncio.AbstractEventLoop, core: _devrx.Attachment, limit: float) -> None:
    """Waits for an armed attachment, and disarms it."""
    ready = loop.create_future()
    timer = loop.call_later(limit, _done, ready)
    loop.add_reader(core.fileno(), _done, ready)
    try:
        await ready
    finally:
        loop.remove_reader(core.fileno())
        timer.cancel()
        try:
            core.disarm()
        except Error:
            # Closed meanwhile: the next look says so.
            pass


def _done(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
