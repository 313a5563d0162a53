"""Packets: where they are, and when they go back."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import Cable, attached, body, readme_example, udp, wait_for

import devrx

COUNT = 1000


def test_the_readme_example_checks_a_stream(cable: Cable, tmp_path, monkeypatch) -> None:
    code = readme_example()
    assert len(code.strip().splitlines()) <= 10
    monkeypatch.setenv("DEVRX_SOCKET", str(cable.socket))
    received: list[np.ndarray] = []
    names: dict[str, object] = {}
    program = threading.Thread(target=lambda: exec(compile(code, "README.md", "exec"), names))
    program.start()
    wait_for("it is attached", lambda: attached(cable, "camera"))
    cable.send_all(udp(body(number)) for number in range(COUNT))
    program.join(10)
    assert not program.is_alive()
    del received
    # What it has printed it has checked; here once more, from outside of it.
    assert names["expected"] == COUNT
    numbers = devrx.stats(socket=cable.socket)["attachments"]
    mine = [entry for entry in numbers if entry["name"] == "camera"][-1]
    assert mine["delivered"] == COUNT and mine["hold"] == mine["release"], mine


def test_every_byte_of_a_stream_is_right_and_nothing_is_copied_here(cable: Cable) -> None:
    with cable.attach() as rx:
        sender = cable.send(udp(body(number)) for number in range(COUNT))
        expected = 0
        for batch in rx.batches(timeout=2):
            headers = batch.headers
            assert headers.dtype == devrx.HEADER and len(headers) == len(batch)
            assert (headers["length"] == 200).all() and (headers["header_length"] == 42).all()
            assert (headers["flags"] & devrx.Flags.SPLIT != 0).all()
            assert (batch.header_bytes == np.frombuffer(udp(body(0))[:42], np.uint8)).all()
            assert batch.gather(200).tobytes() == b"".join(body(expected + at) for at in range(len(batch)))
            for packet, header in zip(batch, headers, strict=True):
                assert packet.payload.tobytes() == body(expected)
                assert packet.header == udp(body(expected))[:42]
                assert packet.segments[0].offset == header["offset"]
                expected += 1
        assert sender.wait(5) == 0
        assert expected == COUNT
        # The last packet is still named.
        assert rx.held == 1
        del packet
        assert rx.held == 0


def test_an_array_is_the_region_itself(cable: Cable) -> None:
    with cable.attach() as rx:
        cable.send_all([udp(body(1)), udp(body(2))])
        with rx.recv(2) as batch:
            payload = batch[0].payload
            again = np.from_dlpack(batch[0].segments[0])
            at = payload.__array_interface__["data"][0]
            assert at == again.__array_interface__["data"][0]
            assert not payload.flags.writeable and not again.flags.writeable
            assert not payload.flags.owndata
            with pytest.raises(ValueError):
                payload[0] = 1
            assert payload.tobytes() == again.tobytes() == body(1)
            assert batch[0].__dlpack_device__() == (1, 0)
            # A library that knows no read-only memory is not lent this.
            with pytest.raises(BufferError, match="read-only"):
                batch[0].__dlpack__()
            assert not hasattr(batch[0], "__cuda_array_interface__")


def test_chunks_go_back_with_the_last_view(cable: Cable) -> None:
    with cable.attach() as rx:
        cable.send_all(udp(body(number)) for number in range(8))
        batch = take(rx, 8)
        assert rx.held == 8
        kept = batch[3].payload[8:20]  # a view of a view
        capsule = batch[4].__dlpack__(max_version=(1, 0))
        packet = batch[5]
        batch.release()
        assert rx.held == 3
        with pytest.raises(devrx.Error, match="given back") as error:
            batch.headers
        assert error.value.code == "released"
        assert kept.tobytes() == body(3)[8:20]
        del kept
        gc.collect()
        assert rx.held == 2
        # A capsule that nobody took.
        del capsule
        assert rx.held == 1
        assert packet.payload.tobytes() == body(5)
        del packet
        assert rx.held == 0
        wait_for("the daemon has all back", lambda: rx.stats()["with_client"] == 0)


def take(rx: devrx.Receiver, count: int) -> devrx.Batch:
    """A batch of so many packets, which were sent already."""
    wait_for("all packets came", lambda: rx.stats()["delivered"] >= count)
    batch = rx.recv(2)
    assert batch is not None and len(batch) == count
    return batch


def test_a_consumed_capsule_keeps_its_packet(cable: Cable) -> None:
    with cable.attach() as rx:
        cable.send_all([udp(body(9))])
        batch = take(rx, 1)
        array = np.from_dlpack(batch[0])
        del batch
        assert rx.held == 1 and array.tobytes() == body(9)
        del array
        assert rx.held == 0


def test_the_last_view_may_die_in_another_thread_while_this_one_waits(cable: Cable) -> None:
    with cable.attach() as rx:
        cable.send_all([udp(body(1))])
        views = take(rx, 1).payloads
        assert rx.held == 1
        timer = threading.Timer(0.2, views.clear)
        timer.start()
        assert rx.recv(0.6) is None
        timer.join()
        assert rx.held == 0


def test_holding_all_of_one_queue_is_an_error(cable: Cable) -> None:
    # Two queues, of which the other end sends to the first alone.
    with cable.attach(queue=(0, 1), size=128 * 4096) as rx:
        cable.send_all((udp(body(number)) for number in range(100)), rate=2000)
        kept = []
        with pytest.raises(devrx.Exhausted, match="holds all 64 chunks of queue 0"):
            while True:
                kept.append(rx.recv(20))
                assert kept[-1] is not None
        assert rx.held == 64 and rx.chunks == 128


def test_holding_everything_is_an_error_and_no_hang(cable: Cable) -> None:
    with cable.attach(size=64 * 4096) as rx:
        # As fast as chunks come back to the NIC; what has none is counted as dropped.
        cable.send_all((udp(body(number)) for number in range(200)), rate=2000)
        kept = []
        with pytest.raises(devrx.Exhausted, match="holds all 64 chunks") as error:
            while True:
                kept.append(rx.recv())
        assert error.value.code == "exhausted"
        with pytest.raises(devrx.Exhausted):
            asyncio.run(rx.recv_async())
        assert rx.held == rx.chunks == 64
        stats = rx.stats()
        assert stats["held"] == 64 and sum(stats["drops"].values()) == 200 - 64
        kept.clear()
        assert rx.held == 0
        cable.send_all([udp(body(7))])
        assert rx.recv(2)[0].payload.tobytes() == body(7)


def test_a_loop_gives_back_by_itself(cable: Cable) -> None:
    with cable.attach(size=64 * 4096) as rx:
        sender = cable.send((udp(body(number)) for number in range(300)), rate=3000)
        kept = None
        total = 0
        for batch in rx.batches(timeout=1.5):
            total += len(batch)
            if kept is None:
                kept = batch[0].payload
        assert sender.wait(5) == 0
        # Far more than there are chunks. On a busy machine some found none free, and were counted.
        assert total > 64 and total + sum(rx.stats()["drops"].values()) == 300
        assert kept.tobytes() == body(0)
        assert rx.held == 1


def test_packets_of_several_chunks(cable: Cable) -> None:
    with cable.attach(chunk=2048) as rx:
        cable.send_all([udp(body(3, 5000))])
        rx_batch = take(rx, 1)
        packet = rx_batch[0]
        pieces = packet.segments
        assert len(pieces) > 1 and len(packet) == 5000
        assert packet.payload.tobytes() == body(3, 5000)
        assert b"".join(bytes(piece) for piece in pieces) == body(3, 5000)
        rows = rx_batch.gather(6000, fill=1)
        assert rows[0, :5000].tobytes() == body(3, 5000) and (rows[0, 5000:] == 1).all()
        assert rx_batch.gather(2500)[0].tobytes() == body(3, 5000)[:2500]
        assert rx_batch.gather(0).shape == (1, 0)
        del rx_batch
        with pytest.raises(devrx.Error, match="several chunks"):
            packet.__dlpack_device__()
        del pieces, packet
        assert rx.held == 0


def test_memory_of_the_programs_own(cable: Cable) -> None:
    import fcntl
    import mmap
    import os

    size = 1 << 20
    fd = os.memfd_create("mine", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    fcntl.fcntl(fd, 1033, 2)  # F_ADD_SEALS, F_SEAL_SHRINK
    mine = mmap.mmap(fd, size)
    with cable.attach(memory="memfd", size=size, fd=fd) as rx:
        os.close(fd)
        cable.send_all([udp(body(4))])
        packet = take(rx, 1)[0]
        at = packet.segments[0].offset
        # The same bytes in the program's own mapping: where a GPU would have registered it.
        assert mine[at : at + 200] == body(4)


def test_a_device_address_is_what_libraries_are_told(cable: Cable) -> None:
    class Owner:
        pass

    with cable.attach() as rx:
        cable.send_all([udp(body(1))])
        packet = take(rx, 1)[0]
        owner = Owner()
        with pytest.raises(devrx.Error, match="no kind of device memory"):
            rx.device_memory(1 << 40, kind="cude")  # type: ignore[arg-type]
        rx.device_memory(1 << 40, kind="cuda", device=1, keep=owner)
        at = (1 << 40) + packet.segments[0].offset
        assert packet.__dlpack_device__() == (2, 1)
        interface = packet.__cuda_array_interface__
        assert interface["data"] == (at, False) and interface["shape"] == (200,) and interface["typestr"] == "|u1"
        for version in (None, (1, 0)):
            assert "dltensor" in repr(packet.__dlpack__(max_version=version))
        # The CPU's view is what it was.
        assert packet.payload.tobytes() == body(1)
        rx.device_memory(None)
        assert packet.__dlpack_device__() == (1, 0)


def test_without_a_gpu_the_refusal_says_what_is_missing(cable: Cable) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with cable.attach() as rx:
        with pytest.raises(devrx.Error, match="libcuda") as error:
            rx.cuda()
        assert error.value.code == "gpu" and error.value.errno > 0
        # It receives on as before.
        cable.send_all([udp(body(1))])
        assert take(rx, 1)[0].__dlpack_device__() == (1, 0)


UNMAPPED = """
import resource, sys
import devrx

used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (96 << 20),) * 2)
rx = devrx.attach("py", nic="eth0", size="256M", flows=["udp,dst-port=5000"], socket=sys.argv[1])
print("ready", flush=True)
batch = rx.recv(5)
packet = batch[0]
assert any("cannot be mapped" in warning for warning in rx.warnings), rx.warnings
assert len(packet) == 200 and packet.header[12:14] == b"\\x08\\x00" and packet.segments[0].offset >= 0
for look in (lambda: packet.payload, lambda: batch.gather(8), lambda: bytes(packet.segments[0]), packet.__dlpack_device__):
    try:
        look()
    except devrx.NotReadable as error:
        assert error.code == "not_readable" and "offsets" in str(error), error
    else:
        raise AssertionError("payload was read that is not mapped")
# A device that has the region has the packet all the same.
rx.device_memory(1 << 40)
assert packet.__cuda_array_interface__["data"] == ((1 << 40) + packet.segments[0].offset, False)
rx.close()
"""


def test_memory_that_is_not_mapped_has_offsets_and_a_clear_error(cable: Cable) -> None:
    command = [sys.executable, "-c", UNMAPPED, str(cable.socket)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    cable.send_all([udp(body(1))])
    _, complained = program.communicate(timeout=10)
    assert program.returncode == 0, complained


def test_threads_share_a_receiver(cable: Cable) -> None:
    with cable.attach() as rx:
        seen: list[int] = []
        kept: queue.SimpleQueue[devrx.Packet | None] = queue.SimpleQueue()

        def receive() -> None:
            for batch in rx.batches(timeout=1):
                for packet in batch:
                    kept.put(packet)

        def look() -> None:
            while (packet := kept.get()) is not None:
                number = int.from_bytes(packet.payload[:8].tobytes(), "big")
                assert packet.payload.tobytes() == body(number)
                seen.append(number)
                del packet

        receivers = [threading.Thread(target=receive) for _ in range(3)]
        lookers = [threading.Thread(target=look) for _ in range(2)]
        for thread in receivers + lookers:
            thread.start()
        cable.send_all((udp(body(number)) for number in range(900)), rate=5000)
        for thread in receivers:
            thread.join(10)
        for _ in lookers:
            kept.put(None)
        for thread in lookers:
            thread.join(10)
        # Each exactly once, whoever received it.
        assert sorted(seen) == list(range(900))
        gc.collect()
        assert rx.held == 0


def test_a_packet_without_payload_is_a_packet(cable: Cable) -> None:
    with cable.attach() as rx:
        cable.send_all([udp(b""), udp(body(1))])
        empty, full = take(rx, 2)
        assert len(empty) == 0 and bool(empty) and empty.header == udp(b"")
        assert empty.payload.shape == np.from_dlpack(empty).shape == (0,)
        assert full.payload.tobytes() == body(1)


def test_packets_say_which_rule_they_came_by(cable: Cable) -> None:
    with cable.attach(flows=["udp,dst-port=5000", "udp,dst-port=5001"]) as rx:
        cable.send_all(udp(body(at), port=5000 + at % 2) for at in range(8))
        batch = take(rx, 8)
        flows = [packet.flow for packet in batch]
        assert flows[0] != flows[1] and flows == flows[:2] * 4
        assert (batch.headers["flow"] == flows).all()
        assert (batch.headers["queue"] == 0).all() and batch[0].queue == 0
        # What a veth does not know is not there.
        assert batch[0].vlan is None and batch[0].hash is None
        with pytest.raises(IndexError):
            batch[8]
        assert batch[-1].payload.tobytes() == body(7)


def left() -> tuple[int, int]:
    """Descriptors and shared mappings of this process."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        shared = sum("memfd:devrx" in line or "/memfd:" in line for line in maps)
    return len(os.listdir("/proc/self/fd")), shared


def test_nothing_is_left_of_a_receiver(cable: Cable) -> None:
    cable.attach().close()
    before = left()
    with cable.attach() as rx:
        assert left()[0] > before[0] and left()[1] > before[1]
        cable.send_all([udp(body(1))])
        view = take(rx, 1)[0].payload
    # The view has the memory, and nothing else.
    assert left()[0] <= before[0] + 3 and left()[1] > before[1]
    assert view.nbytes == 200
    del view, rx
    assert left() == before
    # One that was never closed ends with its last object.
    rx = cable.attach()
    del rx
    assert left() == before
    wait_for("the daemon knows", lambda: not attached(cable, "py"))
