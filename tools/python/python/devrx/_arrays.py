"""What is easier said to numpy in Python than in Rust; the compiled half calls these."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._devrx import Payload

HEADER: np.dtype[np.void] = np.dtype(
    {
        "names": [
            "chunk",
            "generation",
            "segments",
            "offset",
            "timestamp",
            "length",
            "hash",
            "flags",
            "header_length",
            "flow",
            "vlan",
            "queue",
        ],
        "formats": ["=u4", "=u2", "=u2", "=u8", "=u8", "=u4", "=u4", "=u4", "=u2", "=u2", "=u2", "=u2"],
        "offsets": [0, 4, 6, 8, 16, 24, 28, 32, 36, 38, 40, 42],
        "itemsize": 48,
    }
)
"""A row of ``Batch.headers``. ``offset`` counts from the begin of the region; ``length`` is the packet's payload, ``segments`` its chunks;
``hash``, ``vlan`` and ``timestamp`` are valid where ``flags`` (`Flags`) say so."""


class Flags(enum.IntFlag):
    """What is known of a packet."""

    SPLIT = 1 << 0
    """The header was split off."""
    MORE = 1 << 1
    """The packet goes on in another chunk."""
    CSUM_GOOD = 1 << 2
    """The NIC checked the checksums and found them right."""
    CSUM_BAD = 1 << 3
    """The NIC found a checksum wrong."""
    ERROR = 1 << 4
    """The NIC received the packet with an error."""
    VLAN = 1 << 5
    """The NIC took a VLAN tag off."""
    HASH = 1 << 6
    """There is an RSS hash."""
    TIMESTAMP_SW = 1 << 7
    """The timestamp is when the daemon took the packet from its ring."""
    TIMESTAMP_HW = 1 << 8
    """The timestamp is when the packet arrived, by the NIC's clock, converted to CLOCK_REALTIME."""


def view(payload: Payload) -> NDArray[np.uint8]:
    """The payload where it is. The array's base keeps its chunk."""
    return np.asarray(memoryview(payload))


def joined(payloads: Sequence[Payload]) -> NDArray[np.uint8]:
    """A payload of several chunks in one piece, which is a copy."""
    whole = np.concatenate([view(payload) for payload in payloads])
    whole.flags.writeable = False
    return whole


def headers(rows: bytes) -> NDArray[np.void]:
    return np.frombuffer(rows, HEADER)


def rows(data: bytes, count: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8).reshape(count, width)


def column(data: bytes, kind: str) -> NDArray[Any]:
    return np.frombuffer(data, kind)


def empty(packets: int, width: int) -> NDArray[np.uint8]:
    return np.empty((packets, width), np.uint8)
