#!/usr/bin/python3
"""Makes the captures of the netns lane with scapy: `make.py DIRECTORY`.

Nothing here knows devrx. Frames come from scapy's own packet classes (and, where a header must lie, from bytes cut or
overwritten after scapy built them), so that the tests compare devrx with somebody else's idea of a packet. `rules.json`
says which frames of `rules.pcap` each flow rule matches, decided here from how each frame was made.
"""

import json
import random
import sys

from scapy.all import (
    ARP, GRE, ICMP, IP, LLC, SNAP, TCP, UDP, AH, DNS, DNSQR, Dot1AD, Dot1Q, Dot3, Ether, ICMPv6EchoRequest, IPOption,
    IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, ICMPv6ND_NS, PadN, Raw, STP,
    SCTP, VXLAN, RawPcapWriter, fragment, fragment6,
)

random.seed(20260101)
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
BROADCAST = "ff:ff:ff:ff:ff:ff"
ETHER = Ether(src=A, dst=B)


def noise(count):
    return Raw(bytes(random.getrandbits(8) for _ in range(count)))


def ip4(**fields):
    return IP(src="10.77.1.2", dst="10.77.1.1", **fields)


def ip6(**fields):
    return IPv6(src="fd77:1::2", dst="fd77:1::1", **fields)


def udp(sport=4000, dport=5000):
    return UDP(sport=sport, dport=dport)


def vlan():
    bodies = [ip4() / udp() / noise(100), ip6() / udp() / noise(200), ip4() / TCP(sport=1, dport=2) / noise(30), ARP()]
    frames = []
    for body in bodies:
        frames += [
            ETHER / Dot1Q(vlan=100) / body,
            ETHER / Dot1Q(vlan=0, prio=7) / body,
            ETHER / Dot1Q(vlan=4095, prio=3, id=1) / body,
            ETHER / Dot1AD(vlan=200) / Dot1Q(vlan=100) / body,
            ETHER / Dot1Q(vlan=200) / Dot1Q(vlan=100) / body,
            ETHER / Dot1AD(vlan=7) / body,
            ETHER / Dot1AD(vlan=1) / Dot1Q(vlan=2) / Dot1Q(vlan=3) / body,
        ]
    return frames


def extensions6():
    hop = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
    routing = IPv6ExtHdrRouting(addresses=["fd77:1::9", "fd77:1::8"])
    long_options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 250), PadN(optdata=b"\0" * 200)])
    return [
        ETHER / ip6() / udp() / noise(64),
        ETHER / ip6() / hop / udp() / noise(64),
        ETHER / ip6() / hop / options / udp() / noise(300),
        ETHER / ip6() / hop / options / routing / TCP(sport=9, dport=80, flags="PA") / noise(64),
        ETHER / ip6() / hop / options / routing / IPv6ExtHdrFragment(offset=0, m=0, id=7) / udp() / noise(40),
        ETHER / ip6() / long_options / udp() / noise(40),
        ETHER / ip6() / hop / long_options / long_options / udp() / noise(40),
        ETHER / ip6() / AH(nh=17, payloadlen=4, spi=1, seq=1, icv=b"\1" * 12) / udp() / noise(40),
        ETHER / ip6(nh=59) / noise(33),
        ETHER / ip6(nh=50) / noise(80),
        ETHER / ip6() / hop / ICMPv6EchoRequest(data=b"x" * 56),
        ETHER / ip6() / ICMPv6ND_NS(tgt="fd77:1::1"),
        ETHER / ip6() / (options / options / options / options / options / options / options / options) / udp() / noise(9),
        ETHER / ip6() / IPv6(src="::1", dst="::2") / udp() / noise(20),
        ETHER / ip6() / SCTP(sport=5, dport=6) / noise(20),
    ]


def fragments():
    frames = [ETHER / part for part in fragment(ip4(id=77) / udp() / noise(4000), fragsize=1480)]
    frames += [ETHER / part for part in fragment(ip4(id=78) / TCP(sport=3, dport=5000) / noise(300), fragsize=8)]
    frames += [ETHER / part for part in fragment(ip4(id=79) / ICMP() / noise(8000), fragsize=2000)]
    frames += [ETHER / part for part in reversed(fragment(ip4(id=80) / udp() / noise(3000), fragsize=1400))]
    big = ip6() / IPv6ExtHdrFragment(id=99) / udp() / noise(6000)
    frames += [ETHER / part for part in fragment6(big, 1280)]
    with_options = ip6() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / IPv6ExtHdrFragment(id=98)
    frames += [ETHER / part for part in fragment6(with_options / udp() / noise(3000), 1400)]
    return frames


def arp():
    ask = ARP(op=1, hwsrc=A, psrc="10.77.1.2", pdst="10.77.1.1")
    padded = bytes(Ether(src=A, dst=BROADCAST) / ask)
    return [
        Ether(src=A, dst=BROADCAST) / ask,
        Raw(padded + b"\0" * (60 - len(padded))),
        ETHER / ARP(op=2, hwsrc=A, psrc="10.77.1.2", hwdst=B, pdst="10.77.1.1"),
        Ether(src=A, dst=BROADCAST) / ARP(op=1, psrc="10.77.1.2", pdst="10.77.1.2"),
        Ether(src=A, dst=BROADCAST) / Dot1Q(vlan=5) / ask,
        Raw(padded[:30]),
        Raw(padded[:14]),
    ]


def tcp():
    option_sets = [
        [],
        [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (123, 0)), ("NOP", None), ("WScale", 7)],
        [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))],
        [("NOP", None), ("NOP", None), ("SAck", (1, 2, 3, 4, 5, 6))],
        [("NOP", None)] * 40,
        [("MSS", 9000), ("EOL", None)],
    ]
    frames = []
    for options in option_sets:
        for payload in (0, 1, 777, 1400):
            frames.append(ETHER / ip4() / TCP(sport=33000, dport=80, flags="PA", options=options) / noise(payload))
            frames.append(ETHER / ip6() / TCP(sport=33000, dport=80, flags="S", options=options) / noise(payload))
    route = IPOption(b"\x07\x27\x04" + b"\0" * 36)
    for layer in (TCP(sport=1, dport=2, options=option_sets[1]), udp(), ICMP()):
        frames.append(ETHER / ip4(options=[route]) / layer / noise(90))
        frames.append(ETHER / ip4(options=[IPOption(b"\x94\x04\0\0")]) / layer / noise(90))
    return frames


def others():
    return [
        Dot3(src=A, dst="01:80:c2:00:00:00") / LLC() / STP(),
        Dot3(src=A, dst=B) / LLC() / SNAP() / noise(60),
        Ether(src=A, dst=B, type=0x88F7) / noise(44),
        Ether(src=A, dst="01:00:5e:00:00:fb") / ip4() / UDP(sport=5353, dport=5353) / DNS(qd=DNSQR(qname="a.example")),
        Ether(src=A, dst="33:33:00:00:00:01") / ip6() / udp() / noise(10),
        Ether(src=A, dst=BROADCAST) / ip4() / UDP(sport=68, dport=67) / noise(300),
        ETHER / ip4() / UDP(sport=9, dport=4789) / VXLAN(vni=3) / ETHER / ip4() / udp() / noise(80),
        ETHER / ip4() / GRE() / ip4() / udp() / noise(80),
        ETHER / ip4(proto=132) / SCTP(sport=1, dport=2) / noise(12),
        ETHER / ip4(proto=47) / noise(50),
        Ether(src=A, dst=B, type=0x0800) / noise(1),
        Ether(src=A, dst=B, type=0xFFFF) / noise(1500),
        ETHER / ip4() / ICMP() / noise(56),
    ]


def sizes():
    """Every frame of a length that is the edge of something: minimum, cache lines, standard MTU, chunk payloads, jumbo."""
    lengths = list(range(14, 80)) + [127, 128, 129, 255, 256, 511, 512, 1023, 1024, 1513, 1514, 1518]
    for room in (1792, 2048, 3584, 3840, 4096, 5376, 7168, 7680, 8192, 8960):
        lengths += [room - 1, room, room + 1]
    lengths += [9000, 9001, 9013, 9014]
    frames = []
    for length in lengths:
        whole = bytes(ETHER / ip4() / udp() / noise(max(0, length - 42)))
        frames.append(Raw(whole[:length]))
        if length > 200:
            frames.append(Raw(bytes(ETHER / ip6() / TCP(sport=7, dport=8) / noise(length - 74))))
            frames.append(Raw(bytes(Ether(src=A, dst=B, type=0x88B5) / noise(length - 14))))
    for length in (60, 1518, 4097, 9017, 9018):
        frames.append(Raw(bytes(ETHER / Dot1Q(vlan=9) / ip4() / udp() / noise(length - 46))))
    return frames


def malformed():
    good4 = bytes(ETHER / ip4() / udp() / noise(60))
    good_tcp = bytes(ETHER / ip4() / TCP(sport=3, dport=4, options=[("Timestamp", (1, 2))]) / noise(60))
    good6 = bytes(ETHER / ip6() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]) / udp() / noise(60))
    tagged = bytes(ETHER / Dot1AD(vlan=1) / Dot1Q(vlan=2) / ip4() / udp() / noise(60))
    frames = []
    # Cut off everywhere a header could end, and between.
    for whole in (good4, good_tcp, good6, tagged):
        frames += [Raw(whole[:length]) for length in range(14, min(len(whole), 100), 3)]

    def lie(whole, offset, *values):
        changed = bytearray(whole)
        changed[offset:offset + len(values)] = values
        frames.append(Raw(bytes(changed)))

    for ihl in (0, 1, 4, 6, 15):
        lie(good4, 14, 0x40 | ihl)
    for version in (0, 5, 6, 15):
        lie(good4, 14, version << 4 | 5)
    for version in (0, 4, 7):
        lie(good6, 14, version << 4)
    for total in (0, 1, 19, 20, 27, 28, 1500, 65535):
        lie(good4, 16, total >> 8, total & 255)
    for length in (0, 1, 7, 8, 65535):
        lie(good4, 38, length >> 8, length & 255)
    for offset in (0, 1, 4, 6, 15):
        lie(good_tcp, 46, offset << 4)
    for payload in (0, 1, 7, 65535):
        lie(good6, 18, payload >> 8, payload & 255)
    lie(good6, 55, 255)  # an extension header longer than the frame
    for next_header in (0, 43, 44, 51, 60, 135, 255):
        lie(good6, 54, next_header)
    for protocol in (0, 1, 6, 58, 255):
        lie(good4, 23, protocol)
    for flags in (0x20, 0x1F, 0x3F, 0xFF):
        lie(good4, 20, flags, 0xFF)
    frames.append(ETHER / ip4(ihl=3) / udp() / noise(20))
    frames.append(ETHER / ip4(len=10) / udp() / noise(20))
    frames.append(ETHER / ip4() / TCP(dataofs=2) / noise(20))
    frames.append(ETHER / ip4() / TCP(dataofs=15) / noise(4))
    for length in range(1, 400, 13):
        frames.append(Raw(bytes(ETHER)[:12] + bytes(random.getrandbits(8) for _ in range(length + 2))))
    return frames


def rules():
    """Frames with the flow rules that must match them; a rule matches no other frame of the capture."""
    frames, matched = [], {}

    def add(frame, *names):
        for name in names:
            matched.setdefault(name, []).append(len(frames))
        frames.append(frame)

    port, tcp_port = "udp,dst-port=5000", "tcp,dst-port=5000"
    source4, source6 = "ip,src=10.77.0.0/16", "ip6,src=fd77:1::/48"
    tag, tag_port = "vlan=100", "vlan=100,udp,dst-port=5000"
    ether = "ether-type=0x88f7"
    inner, source_port, ports = "inner-vlan=100", "udp,src-port=5000", "tcp,dst-port=5000-5010"
    target6, host4 = "ip6,dst=fd77:9::1/128", "ip,dst=10.77.1.1,proto=1"

    add(ETHER / ip4() / udp() / noise(10), port, source4)
    add(ETHER / ip4() / udp(dport=5001) / noise(10), source4)
    add(ETHER / ip4() / udp(sport=5000, dport=4000) / noise(10), source4, source_port)
    add(ETHER / ip4() / TCP(sport=1, dport=5000) / noise(10), tcp_port, ports, source4)
    add(ETHER / ip4() / TCP(sport=1, dport=5010) / noise(10), ports, source4)
    add(ETHER / ip4() / TCP(sport=1, dport=5011) / noise(10), source4)
    add(ETHER / IP(src="10.78.0.1", dst="10.77.0.1") / udp() / noise(10), port)
    add(ETHER / ip4(options=[IPOption(b"\x94\x04\0\0")]) / udp() / noise(10), port, source4)
    for index, part in enumerate(fragment(ip4(id=3) / udp() / noise(3000), fragsize=1400)):
        add(ETHER / part, *([port, source4] if index == 0 else [source4]))
    # A non-first fragment whose bytes look like a UDP header to port 5000.
    add(ETHER / ip4(id=4, frag=10, proto=17) / Raw(bytes(udp() / noise(10))), source4)
    add(ETHER / ip6() / udp() / noise(10), port, source6)
    add(ETHER / ip6() / TCP(sport=1, dport=5000) / noise(10), tcp_port, ports, source6)
    add(ETHER / IPv6(src="fd77:2::2", dst="fd77:1::1") / udp() / noise(10), port)
    add(ETHER / IPv6(src="fd77:1:0:1::2", dst="fd77:9::1") / udp(dport=9) / noise(10), source6, target6)
    hop = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)])
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)])
    add(ETHER / ip6() / hop / options / udp() / noise(10), port, source6)
    for index, part in enumerate(fragment6(ip6() / IPv6ExtHdrFragment(id=9) / udp() / noise(3000), 1400)):
        add(ETHER / part, *([port, source6] if index == 0 else [source6]))
    add(ETHER / Dot1Q(vlan=100) / ip4() / udp() / noise(10), port, source4, tag, tag_port)
    add(ETHER / Dot1Q(vlan=100) / ip4() / udp(dport=1) / noise(10), source4, tag)
    add(ETHER / Dot1Q(vlan=101) / ip4() / udp() / noise(10), port, source4)
    add(ETHER / Dot1Q(vlan=100, prio=5) / ip6() / udp() / noise(10), port, source6, tag, tag_port)
    add(ETHER / Dot1AD(vlan=200) / Dot1Q(vlan=100) / ip4() / udp() / noise(10), port, source4, inner)
    add(ETHER / Dot1Q(vlan=100) / Dot1Q(vlan=200) / ip4() / udp(dport=3) / noise(10), source4, tag)
    add(ETHER / Dot1Q(vlan=100) / ARP(), tag, "arp")
    add(ETHER / ARP(), "arp")
    add(Ether(src=A, dst=B, type=0x88F7) / noise(44), ether)
    add(Ether(src=A, dst=B, type=0x88F8) / noise(44))
    add(ETHER / ip4() / ICMP() / noise(10), source4, host4)
    # Headers cut off: an address is there, the ports are not.
    cut = bytes(ETHER / ip4() / udp())
    add(Raw(cut[:36]), source4)
    return frames, {name: matched[name] for name in sorted(matched)}


def write(path, frames):
    with RawPcapWriter(path, linktype=1) as writer:
        writer.write_header(None)
        for frame in frames:
            writer.write(bytes(frame))


def main(directory):
    makers = [vlan, extensions6, fragments, arp, tcp, others, sizes, malformed]
    for maker in makers:
        write(f"{directory}/{maker.__name__}.pcap", maker())
    frames, matched = rules()
    write(f"{directory}/rules.pcap", frames)
    with open(f"{directory}/rules.json", "w", encoding="ascii") as out:
        json.dump({"frames": len(frames), "rules": matched}, out, indent=1)


main(sys.argv[1])
