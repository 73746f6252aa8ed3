#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: the captured messages of proto/vectors, connection replies of
every generation, and sequences of operations. Run it before fuzzing."""
import pathlib
import struct

here = pathlib.Path(__file__).resolve().parent
# In the order of src/wire/inspect.rs and of src/fuzzing/messages.rs.
services = ["cmap", "quorum", "votequorum", "cfg", "evs", "cpg"]
kinds = ["request", "response", "event"]


def seed(target, name, data):
    corpus = here / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / name).write_bytes(data)


def counted(data):
    return struct.pack("<H", min(len(data), 0xFFFF)) + data[:0xFFFF]


def vectors():
    """Yields service, kind, number and bytes of each captured message."""
    for path in sorted((here.parent / "proto" / "vectors").glob("*.txt")):
        for number, block in enumerate(path.read_text().split("\n@ ")[1:]):
            title, _, lines = block.partition("\n")
            data = bytearray()
            for line in lines.splitlines():
                for token in line.split("#")[0].split():
                    byte, _, count = token.partition("*")
                    data += bytes([int(byte, 16)]) * int(count or 1)
            yield path.stem, title.split()[0], number, bytes(data)


def reply(old, names, transport=1, size=1 << 20):
    """A connection reply in the layout of libqb 0.10 to 0.12, or of later ones."""
    layout = "<i4xi4xi4xi4xI4xQ" if old else "<i4xi4xi4xiIQ"
    whole = 12336 if old else 12328
    head = struct.pack(layout, -1, whole, 0, transport, size, 0x1234)
    return head + b"".join(name.encode().ljust(4096, b"\0") for name in names)


rings = ["request", "response", "event"]
for name, data in {
    "0.10": reply(True, [f"cpg-{ring}-7-20" for ring in rings]),
    "0.13": reply(False, [f"cpg-{ring}-5-7-20" for ring in rings]),
    "0.14": reply(False, [f"5-7-20-{ring}-cpg" for ring in rings]),
    "2.0": reply(False, [f"/dev/shm/qb-5-7-20-AbCdEf/qb-{ring}-cpg" for ring in rings]),
    "2.0-socket": reply(False, ["/dev/shm/qb-5-7-20-AbCdEf/qb-control-cpg", "/dev/shm/qb-5-7-20-AbCdEf/qb-cpg", ""], 0),
    "refused": reply(False, ["", "", ""], 0, 0).replace(b"\0" * 8, struct.pack("<q", -13), 1),
}.items():
    seed("handshake", name, bytes([255]) + data)

request = struct.pack("<i4xi4xI4x", -1, 24, 1 << 20)
seed("accept", "whole", bytes([31]) + request)
seed("accept", "pieces", b"".join(bytes([7]) + request[at:at + 8] for at in range(0, 24, 8)))

for number, name in enumerate([
    "/dev/shm/qb-1-2-3-abcdef/qb-request-cmap",
    "cmap-request-1-2-3",
    "/dev/shm/qb-1-2-3-abcdef/qb-control-cmap\0/dev/shm/qb-1-2-3-abcdef/qb-cmap",
    "/dev/shm/qb-cmap-control-1-2-3\0qb-cmap-1-2-3",
]):
    seed("names", str(number), name.encode())

said = {service: [] for service in services}
asked = {service: [] for service in services}
for service, kind, number, data in vectors():
    choice = services.index(service) * 3 + kinds.index(kind)
    seed("message", f"{service}-{number}", bytes([choice]) + data)
    if kind == "event":
        seed("message_events", f"{service}-{number}", data)
    if kind == "request":
        asked[service].append(data)
    else:
        # Anything at all, as reply or event, in front of a reply.
        said[service].append(bytes([2 + (kind == "event")]) + counted(data))

LONGEST = 4096


def few(messages):
    """Joins messages to inputs that are not too long."""
    while messages:
        taken = [messages.pop(0)]
        while messages and sum(map(len, taken)) + len(messages[0]) < LONGEST:
            taken.append(messages.pop(0))
        yield b"".join(taken)


for number, service in enumerate(services):
    for part, spoken in enumerate(few(said[service])):
        transport = part % 2
        seed("client", f"{service}-{part}", bytes([number << 1 | transport]) + spoken)
        seed("dispatcher", f"{service}-{part}", bytes([transport]) + counted(bytes(range(8)) * 2) + spoken)

# A client of every service at a node, and one at another. What is done between two requests.
between = [b"", bytes([2, 0b000100]), bytes([2, 0]), bytes([0x13]), bytes([0x15]), bytes([8, 100])]
connects = b"".join(bytes([node << 4, number]) for node in range(2) for number in range(6))
for service, requests in asked.items():
    steps = [
        b"".join(bytes([9, client, data[0]]) + counted(data[16:]) for client in range(6)) + between[number % 6]
        for number, data in enumerate(requests) if len(data) < 600
    ]
    for part, script in enumerate(few(steps)):
        seed("cluster", f"{service}-{part}", struct.pack("<I", 1) + connects + script)

fragments = struct.pack("<I", 1 << 19)
for sender in range(3):
    for kind, text in [(1, b"one "), (2, b"two "), (3, b"three")]:
        fragments += bytes([sender << 6 | 4 | kind]) + struct.pack("<I", 13) + counted(text)
seed("reassembly", "three", fragments)


def keys(prefix, *entries):
    return bytes([prefix]) + b"".join(counted(key) + bytes([kind]) + counted(value) for key, kind, value in entries)


number = struct.pack("<I", 7)
seed("read", "nodes", keys(4, *(
    entry for position in (b"0", b"2", b"10") for entry in [
        (position + b".nodeid", 6, number), (position + b".name", 11, b"n7\0"), (position + b".b", 12, b"\0\1")]
)))
seed("read", "types", keys(0, *((b"a." + bytes([97 + kind]), kind, number[:4] * 2) for kind in range(1, 14))))
seed("read", "own", keys(1, (b"", 2, b"\1"), (b"a", 11, b"yes\0"), (b"a.b", 9, number), (b"", 5, number)))
seed("read", "enums", keys(3, (b"0.0", 11, b"a\0"), (b"0.1.c.a", 6, number), (b"0.2.b", 6, number)))
seed("replies", "all", bytes([0, 2, 1, 3, 1, 4, 5, 0, 6, 1, 7]) + bytes(12) * 3)
seed("ring", "empty", bytes(4108))
seed("changing_ring", "quiet", struct.pack("<IB", 0, 15) + b"\1" * 200)
seed("changing_ring", "end", struct.pack("<IB", 1020, 15) + bytes(range(256)))

for number, line in enumerate([
    "status", "--json\0cmap\0get\0totem.cluster_name", "cmap\0set\0a.b\0u32\x007", "cpg\0join\0group\0--count\x003",
    "--timeout\x005s\0quorum\0watch\0--reconnect", "serve\0--nodes\x001,2,3\0--dir\0/tmp/x", "decode\0cpg\0event",
]):
    seed("command", f"line-{number}", b"\0" + line.encode())
for number, text in enumerate([
    "# comment\na.b u32 7\nc.d str some text\n^e.f\n^^g.\n",
    '[{"key":"a.b","type":"u32","value":7},{"key":"c.d","type":"bin","value":"AAE="}]',
    '{"key":"a.b","type":"flt","value":null,"raw":"AAE="}\n',
]):
    seed("command", f"load-{number}", b"\1" + text.encode())
for number, text in enumerate([
    "totem {\n version: 2\n cluster_name: c\n transport: knet\n interface {\n linknumber: 1\n knet_transport: sctp\n"
    " member {\n memberaddr: 10.0.0.1\n }\n }\n}\n",
    "nodelist {\n node {\n ring0_addr: 10.0.0.1\n nodeid: 1\n name: a\n quorum_votes: 2\n }\n"
    " node {\n ring0_addr: fd00::2\n nodeid: 2\n }\n}\nquorum {\n provider: corosync_votequorum\n two_node: 1\n"
    " device {\n model: net\n votes: 1\n }\n}\n",
    "# comment\nlogging {\n logger_subsys {\n subsys: QB\n debug: on\n }\n logging_daemon {\n name: pacemaker\n"
    " subsys: X\n debug: off\n }\n}\nuidgid {\n uid: 90\n}\nsystem {\n qb_ipc_type: socket\n}\n",
]):
    seed("config_file", str(number), text.encode())
seed("command", "hex", b"\2" + b"00 01\n# comment\nff")
