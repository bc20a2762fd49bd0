"""Files as a later version may write them: intact, with the right checksums, and of a format this one does not know.

Journals (tick log, catalog) are frames `"PFJR", u32 length, u64 sequence, u32 CRC32C of the two and the payload`; a log
segment begins with 60 bytes and their CRC32C, the format number at byte 8.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

JOURNAL_HEADER = 20
SEGMENT_HEADER = 60
NEWER = 99


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ 0x82F63B78 if value & 1 else value >> 1
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _change_last(journal: Path, change: Callable[[bytes], bytes]) -> None:
    """Replaces the payload of a journal's last frame."""
    content = journal.read_bytes()
    position = last = 0
    while position < len(content):
        length = struct.unpack_from("<I", content, position + 4)[0]
        last, position = position, position + JOURNAL_HEADER + length
    payload = change(content[last + JOURNAL_HEADER :])
    head = struct.pack("<I", len(payload)) + content[last + 8 : last + 16]
    frame = b"PFJR" + head + struct.pack("<I", crc32c(head + payload)) + payload
    journal.write_bytes(content[:last] + frame)


def tick_record(journal: Path) -> None:
    def newer(payload: bytes) -> bytes:
        return json.dumps(json.loads(payload) | {"v": NEWER}).encode()

    _change_last(journal, newer)


def catalog_entry(journal: Path) -> None:
    _change_last(journal, lambda payload: bytes([NEWER]) + payload[1:])


def segment(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 8, NEWER)
    struct.pack_into("<I", content, SEGMENT_HEADER, crc32c(bytes(content[:SEGMENT_HEADER])))
    path.write_bytes(content)


def layout(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": NEWER}))
