#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Prints what a folder of TensorBoard event files says, one JSON object a line.

Needs nothing but Python: it takes records and protobuf messages apart by itself, by their
specifications, and checks every checksum, so that it is also a test of what writes them. As
TensorBoard does, it takes the files in the order of their names, and a START event voids what came
before it of its step and later ones.

Usage: tools/read_events.py FOLDER
"""
import json
import math
import signal
import struct
import sys
from pathlib import Path


def crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def masked_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data: bytes, where: str):
    """The messages of a file; a record that a crash cut short at its end is left out."""
    place = 0
    while place + 12 <= len(data):
        header = data[place:place + 8]
        length, length_crc = struct.unpack("<QI", data[place:place + 12])
        if length_crc != masked_crc32c(header):
            sys.exit(f"{where}: byte {place}: the checksum of a length is wrong")
        end = place + 12 + length
        if end + 4 > len(data):
            break
        message = data[place + 12:end]
        if struct.unpack("<I", data[end:end + 4])[0] != masked_crc32c(message):
            sys.exit(f"{where}: byte {place}: the checksum of a record is wrong")
        yield message
        place = end + 4


def varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


def fields(data: bytes) -> dict[int, list]:
    """A message's fields by number: integers, or bytes of what has a length or is of fixed size."""
    found: dict[int, list] = {}
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = varint(data, place)
        else:
            if kind == 2:
                size, place = varint(data, place)
            else:
                size = {1: 8, 5: 4}[kind]
            value = data[place:place + size]
            if len(value) != size:
                sys.exit("a field is longer than its message")
            place += size
        found.setdefault(key >> 3, []).append(value)
    return found


def value_of(value: dict[int, list]) -> dict:
    row = {"tag": value[1][0].decode()}
    if 2 in value:
        number = struct.unpack("<f", value[2][0])[0]
        row["value"] = number if math.isfinite(number) else str(number)  # JSON has no other
    if 9 in value:
        metadata = fields(value[9][0])
        row["plugin"] = fields(metadata[1][0])[1][0].decode()
        row["data_class"] = metadata[4][0]
    if 8 in value:
        tensor = fields(value[8][0])
        row["dtype"] = tensor[1][0]
        row["shape"] = [fields(extent)[1][0] for extent in fields(tensor[2][0]).get(2, [])]
        row["text"] = [text.decode() for text in tensor[8]]
    return row


def read_folder(folder: Path) -> list[dict]:
    rows: list[dict] = []
    files = sorted(path for path in folder.iterdir() if "tfevents" in path.name)
    for path in files:
        for index, message in enumerate(records(path.read_bytes(), str(path))):
            event = fields(message)
            if index == 0 and event.get(3) != [b"brain.Event:2"]:
                sys.exit(f"{path}: does not begin with the version of its format")
            step = event.get(2, [0])[0]
            step -= (step >> 63) << 64  # an int64
            if 7 in event and fields(event[7][0]).get(1) == [1]:
                rows = [row for row in rows if row["step"] < step]
            for summary in event.get(5, []):
                for value in fields(summary).get(1, []):
                    time = struct.unpack("<d", event[1][0])[0]
                    rows.append({"step": step, "wall_time": time, **value_of(fields(value))})
    return rows


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # of `| head`
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if not Path(sys.argv[1]).is_dir():
        sys.exit(f"{sys.argv[1]} is not a folder")
    for line in read_folder(Path(sys.argv[1])):
        print(json.dumps(line))
