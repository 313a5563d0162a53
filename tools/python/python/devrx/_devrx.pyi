"""The compiled half (src/)."""

import os
from collections.abc import Iterator
from typing import Any, Literal, Self, final

import numpy as np
from numpy.typing import NDArray

from ._arrays import Flags

__all__ = ["Attachment", "Batch", "Frame", "Packet", "Payload", "attach", "detach", "open", "stats"]

@final
class Attachment:
    """An attachment that this process consumes."""

    @property
    def name(self) -> str: ...
    @property
    def nic(self) -> str: ...
    @property
    def memory(self) -> str: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def chunks(self) -> int: ...
    @property
    def chunk_size(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def zero_copy(self) -> bool: ...
    @property
    def queues(self) -> list[int]: ...
    def recv(self, timeout: float | None = None) -> Batch | None: ...
    def recv_frame(self, timeout: float | None, fill: int) -> Frame | None: ...
    def arm(self) -> bool: ...
    def disarm(self) -> None: ...
    def fileno(self) -> int: ...
    def deadline(self) -> float | None: ...
    def held(self) -> int: ...
    def place(
        self,
        packets: int,
        bytes: int,
        sequence: tuple[int, int, str],
        window: int,
        deadline: float | None,
        data_offset: int | None,
        stride: int,
        first: int,
        reach: tuple[int, int] | None,
        restart_after: int,
    ) -> None: ...
    def flush(self) -> None: ...
    def placed(self) -> dict[str, int] | None: ...
    def region_fd(self, export: bool = False) -> int | None: ...
    def set_device(self, pointer: int | None, kind: str, device_id: int, keep: object) -> None: ...
    def cuda(self, device: int) -> None: ...
    def close(self) -> None: ...
    def closed(self) -> bool: ...

@final
class Batch:
    """Packets that came together, from one queue."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Packet: ...
    def __iter__(self) -> Iterator[Packet]: ...
    @property
    def headers(self) -> NDArray[np.void]:
        """The packets' metadata: a structured array with a row a packet (dtype `devrx.HEADER`). A copy."""

    @property
    def header_bytes(self) -> NDArray[np.uint8]:
        """The bytes of the headers: a row a packet, as wide as the longest, 0 behind the shorter ones. A copy: headers are small."""

    @property
    def payloads(self) -> list[NDArray[np.uint8]]:
        """The payload of each packet, as `Packet.payload`."""

    def gather(self, bytes: int, fill: int = 0) -> NDArray[np.uint8]:
        """The payloads in one piece, a row a packet, ``bytes`` of each at most, ``fill`` behind the shorter ones. A copy."""

    def release(self) -> None:
        """Gives the batch's packets back, but for those that a packet object or an array still refers to."""

    @property
    def released(self) -> bool:
        """Whether it was given back."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Packet:
    """A packet. As long as it, or an array of its payload, is referred to, its chunks are this program's."""

    @property
    def payload(self) -> NDArray[np.uint8]:
        """The payload: a read-only array, the region's own memory where the packet lies in one chunk; of several chunks a copy."""

    @property
    def segments(self) -> list[Payload]:
        """The payload's pieces, one a chunk."""

    @property
    def header(self) -> bytes:
        """The header that was split off. Empty: everything is payload."""

    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    @property
    def flow(self) -> int:
        """The number of the flow rule that matched."""

    @property
    def queue(self) -> int:
        """The queue, counted from 0 within the attachment."""

    @property
    def vlan(self) -> int | None:
        """The VLAN tag (TCI) that the NIC took off the frame."""

    @property
    def hash(self) -> int | None:
        """The RSS hash."""

    @property
    def timestamp(self) -> int | None:
        """When it came, in nanoseconds; the flags say on which clock."""

    @property
    def flags(self) -> Flags:
        """What else is known of it."""

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

@final
class Payload:
    """One piece of a packet's payload, in one chunk: for ``numpy.asarray``, DLPack, CUDA libraries, or as an offset."""

    @property
    def offset(self) -> int:
        """Where it begins in the region, in bytes."""

    @property
    def chunk(self) -> int:
        """The chunk's index in the region."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...

@final
class Frame:
    """A frame of a numbered stream: packets by their places."""

    @property
    def number(self) -> int:
        """The frame's number. It goes on where the sequence numbers wrap."""

    @property
    def restarts(self) -> int:
        """How often the stream had started again before."""

    @property
    def packets(self) -> int:
        """How many packets it is to have."""

    @property
    def missing(self) -> int:
        """How many of them are missing."""

    @property
    def complete(self) -> bool:
        """Whether none is missing."""

    @property
    def end(self) -> Literal["complete", "expired", "pushed", "restarted", "flushed", "other"]:
        """Why it was closed."""

    @property
    def array(self) -> NDArray[np.uint8]:
        """The frame in one piece, a row a packet. Gathered at the first look, which is a copy; the packets' chunks are given back then."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which packets are there."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each packet's data begins in the region; -1: missing, not in the region, or in several chunks."""

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Bytes of data of each packet; 0: it is missing."""

    def copy_into(self, out: Any, fill: int = 0) -> int:
        """Gathers the frame into the caller's memory, which nobody else may use meanwhile. Answers how many packets are missing."""

    def release(self) -> None:
        """Gives the frame's chunks back."""

def attach(socket: str | os.PathLike[str] | None, request: str, memory: int | None) -> Attachment: ...
def open(socket: str | os.PathLike[str] | None, name: str) -> Attachment: ...
def stats(socket: str | os.PathLike[str] | None, name: str | None) -> str: ...
def detach(socket: str | os.PathLike[str] | None, name: str) -> list[str]: ...
