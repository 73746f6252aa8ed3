#!/usr/bin/env python3
"""Writes the vectors of proto/ as seeds of the fuzz target `messages`, and names of files and sockets as
those of `handshake`. Run it before fuzzing."""
import pathlib

here = pathlib.Path(__file__).resolve().parent
corpus = here / "corpus" / "messages"
corpus.mkdir(parents=True, exist_ok=True)
# In the order of src/fuzzing.rs: three kinds for each service.
services = ["cmap", "quorum", "votequorum", "cfg", "evs", "cpg"]
kinds = ["request", "response", "event"]
for path in sorted((here.parent / "proto" / "vectors").glob("*.txt")):
    if path.stem not in services:
        continue
    for number, block in enumerate(path.read_text().split("\n@ ")[1:]):
        title, _, lines = block.partition("\n")
        data = bytearray([services.index(path.stem) * 3 + kinds.index(title.split()[0])])
        for line in lines.splitlines():
            for token in line.split("#")[0].split():
                byte, _, count = token.partition("*")
                data += bytes([int(byte, 16)]) * int(count or 1)
        (corpus / f"{path.stem}-{number}").write_bytes(data)

names = here / "corpus" / "handshake"
names.mkdir(parents=True, exist_ok=True)
for number, seed in enumerate([
    "/dev/shm/qb-1-2-3-abcdef/qb-request-cmap",
    "cmap-request-1-2-3",
    "/dev/shm/qb-1-2-3-abcdef/qb-control-cmap\0/dev/shm/qb-1-2-3-abcdef/qb-cmap",
    "/dev/shm/qb-cmap-control-1-2-3\0qb-cmap-1-2-3",
]):
    (names / str(number)).write_bytes(seed.encode())
