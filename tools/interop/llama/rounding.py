#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Are the values of GGUF files the bits that ggml itself makes of the f32 file's?

  rounding.py LIBGGML_BASE.so F32.gguf OTHER.gguf...

Calls ggml's own conversions on each tensor of the first file and compares every byte.
"""
import ctypes
import struct
import sys

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
LAYOUTS = {0: (1, 4, None), 1: (1, 2, "ggml_fp32_to_fp16_row"), 8: (32, 34, "quantize_row_q8_0_ref"),
           30: (1, 2, "ggml_fp32_to_bf16_row_ref")}


class Header:
    def __init__(self, data: bytes):
        self.data, self.place = data, 4

    def take(self, form: str):
        values = struct.unpack_from("<" + form, self.data, self.place)
        self.place += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text(self) -> str:
        size = self.take("Q")
        self.place += size
        return self.data[self.place - size:self.place].decode()

    def skip_value(self, kind: int):
        if kind == 8:
            self.text()
        elif kind == 9:
            kind, count = self.take("IQ")
            for _ in range(count):
                self.skip_value(kind)
        else:
            self.place += SIZES[kind]


def read_tensors(path: str) -> dict:
    """Type, number of values and bytes by name."""
    header = Header(open(path, "rb").read())
    _, tensors, entries = header.take("IQQ")
    for _ in range(entries):
        header.text()
        header.skip_value(header.take("I"))
    found = []
    for _ in range(tensors):
        name, count = header.text(), 1
        for _ in range(header.take("I")):
            count *= header.take("Q")
        kind, offset = header.take("IQ")
        found.append((name, kind, count, offset))
    start = (header.place + 31) // 32 * 32
    result = {}
    for name, kind, count, offset in found:
        elements, size, _ = LAYOUTS[kind]
        begin = start + offset
        result[name] = kind, count, header.data[begin:begin + count // elements * size]
    return result


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    exact = read_tensors(sys.argv[2])
    wrong = 0
    for path in sys.argv[3:]:
        tensors = read_tensors(path)
        if tensors.keys() != exact.keys():
            sys.exit(f"{path} has other tensors than {sys.argv[2]}")
        for name, (kind, count, data) in tensors.items():
            wanted = exact[name][2]
            if LAYOUTS[kind][2]:
                buffer = ctypes.create_string_buffer(len(data))
                getattr(ggml, LAYOUTS[kind][2])(ctypes.c_char_p(wanted), buffer, ctypes.c_int64(count))
                wanted = buffer.raw
            if data != wanted:
                print(f"WRONG {path}: {name} is not as ggml rounds it", file=sys.stderr)
                wrong += 1
        print(f"{path}: {len(tensors)} tensors, as ggml rounds them" if not wrong else path)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
