"""devrx: network packets straight into memory that your program chose.

A daemon (``devrx run``) owns receive queues of a NIC. A program attaches to one, and receives batches of packets, whose payload lies in
the attachment's memory and is not copied on its way here::

    import devrx

    with devrx.attach("camera", nic="eth0", queue=0, size="64M", flows=["udp,dst-port=5000"]) as rx:
        for batch in rx:
            for packet in batch:
                print(packet.header.hex(), packet.payload[:8])

A chunk of memory goes back when the last object that refers to its packet is gone: the packet, or an array of its payload. A batch of a
``for`` loop lets go of its packets when the next one is asked for; one from `Receiver.recv` when it is gone, or at the end of a ``with``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

from . import _devrx
from ._arrays import HEADER, Flags
from ._devrx import Batch, Frame, Packet, Payload
from ._errors import Closed, Ended, Error, Exhausted, NotReadable, Refused, Unreachable
from ._receiver import Frames, Receiver

__all__ = [
    "HEADER",
    "Batch",
    "Closed",
    "Ended",
    "Error",
    "Exhausted",
    "Flags",
    "Frame",
    "Frames",
    "NotReadable",
    "Packet",
    "Payload",
    "Receiver",
    "Refused",
    "Unreachable",
    "attach",
    "detach",
    "open",
    "stats",
]

_UNITS = {"": 0, "B": 0, "K": 10, "KIB": 10, "M": 20, "MIB": 20, "G": 30, "GIB": 30, "T": 40, "TIB": 40}

Path = str | os.PathLike[str]


def _bytes(size: SupportsIndex | str) -> int:
    """``4096``, ``"64M"``, ``"1GiB"``: powers of 1024, as the command line takes them."""
    if not isinstance(size, str):
        return size.__index__()
    digits = size.rstrip("BbKkMmGgTtIi").strip()
    unit = size.strip()[len(digits) :].strip().upper()
    if not digits.isdecimal() or unit not in _UNITS:
        raise ValueError(f"{size!r} is no size; write for example 4096, '64M' or '1G'")
    return int(digits) << _UNITS[unit]


def attach(
    name: str,
    *,
    nic: str,
    queue: int | tuple[int, int] = 0,
    memory: str = "memfd",
    size: int | str = "64M",
    flows: Sequence[str] = (),
    fd: int | None = None,
    chunk: int | str = 0,
    split: bool = True,
    split_extra: int = 0,
    unsplit: Literal["deliver", "drop", "header"] | None = None,
    timestamps: Literal["software", "nic"] | None = None,
    zero_copy: Literal["auto", "copy", "zero_copy"] = "auto",
    header_slot: int = 0,
    ring: int = 0,
    wake: tuple[int, float] | None = None,
    keep: bool = False,
    busy_poll: bool = False,
    cpu: int | None = None,
    socket: Path | None = None,
) -> Receiver:
    """Makes an attachment, and receives from it.

    :param name: its name: letters, digits, ``-``, ``_``, ``.``
    :param nic: the NIC, as it was given to ``devrx run``: ``eth0``, ``0000:03:00.0``
    :param queue: the queue, or the first and the last of several
    :param memory: the kind of memory: ``memfd``, ``hugetlb``, ``udmabuf``, ``pci:BDF/BAR``, ``dmabuf``, ...
    :param size: bytes of the region: a number, or as ``"64M"``
    :param flows: flow rules: ``any``, ``udp,dst-port=5000``, ...
    :param fd: the program's own memory: a descriptor of a dma-buf, or of a memfd sealed against shrinking. It is duplicated.
    :param chunk: bytes of a chunk; 0: what suits the NIC
    :param split: whether headers are split off
    :param split_extra: bytes behind the headers that go to the header slot as well (software split only)
    :param unsplit: what becomes of packets that cannot be split; None: the daemon's default
    :param timestamps: whose clock says when packets came; None: the daemon's default
    :param zero_copy: whether AF_XDP must, may or must not receive without a copy
    :param header_slot: bytes of a header slot; 0: 256
    :param ring: entries of the NIC's receive ring; 0: what suits the NIC
    :param wake: wake this program after so many completions, or so many seconds after the first; None: the daemon's default
    :param keep: whether the attachment stays when this program has gone, as those of ``devrx attach`` do
    :param busy_poll: poll in the kernel's busy-polling mode
    :param cpu: the CPU that the (first) poll thread is pinned to
    :param socket: the daemon's socket; None: ``DEVRX_SOCKET``, or ``/run/devrx/devrx.sock``
    :raises Refused: the daemon refuses; the message is its
    :raises Unreachable: there is no daemon
    """
    first, last = (queue, queue) if isinstance(queue, int) else queue
    request: dict[str, Any] = {
        "name": name,
        "nic": nic,
        "queue_first": first,
        "queue_last": last,
        "memory": memory,
        "memory_fd": fd is not None,
        "size": _bytes(size),
        "chunk": _bytes(chunk),
        "flows": list(flows),
        "header_slot": header_slot,
        "ring": ring,
        "lifetime": "daemon" if keep else "session",
        "split": split,
        "split_extra": split_extra,
        "unsplit": unsplit,
        "timestamps": timestamps,
        "zero_copy": zero_copy,
        "busy_poll": busy_poll,
        "cpu": cpu,
    }
    if wake is not None:
        request["wake_batch"] = wake[0]
        request["wake_timeout_us"] = round(wake[1] * 1e6)
    return Receiver(_devrx.attach(socket, json.dumps(request), fd), socket)


def open(name: str, *, socket: Path | None = None) -> Receiver:
    """Receives from an attachment that exists: one of ``devrx attach``, or of `attach` with ``keep``.

    :raises Refused: there is none of that name, it has a consumer, or this user may not
    """
    return Receiver(_devrx.open(socket, name), socket)


def detach(name: str, *, socket: Path | None = None) -> list[str]:
    """Ends an attachment. Answers the daemon's warnings."""
    return _devrx.detach(socket, name)


def stats(name: str | None = None, *, socket: Path | None = None) -> dict[str, Any]:
    """The daemon's numbers, of everything or of one attachment with its NIC and queues: what ``devrx stats --json`` prints."""
    numbers: dict[str, Any] = json.loads(_devrx.stats(socket, name))
    return numbers
