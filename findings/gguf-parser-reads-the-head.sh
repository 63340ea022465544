#!/usr/bin/env bash
# gguf-parser 0.1.1 (PyPI), GGUFParser.load_tensors().
#
# A tensor's offset counts from the start of the data, behind the head; here it is taken from the start of the file, and
# as many bytes are read as the tensor has dimensions. What comes back for weights is one to four bytes of the head or of
# another tensor, and nothing raises. parse() and print() are right.
#
# Seen: three tensors of 4 x 64 F32 (1024 bytes each), full of 1, 2 and 3
#   load_tensors(): b'GG', b'\x00\x00', b'\x00\x00'
# Way out: GGUFReader of gguf. Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check gguf-parser==0.1.1 gguf==0.19.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf_parser import GGUFParser

writer = GGUFWriter("model.gguf", "llama")
for value in (1, 2, 3):
    writer.add_tensor(f"t{value}", np.full((4, 64), value, np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
parser = GGUFParser("model.gguf")
parser.parse()
loaded = parser.load_tensors()
right = [tensor.data.tobytes() for tensor in GGUFReader("model.gguf").tensors]
for info, data, weights in zip(parser.tensors_info, loaded, right):
    print(f"{info['name']} {info['dimensions']}: {len(data)} bytes {data}, the file has {len(weights)} bytes")
sys.exit(0 if loaded[0] == b"GG" and [len(data) for data in loaded] == [2, 2, 2] else "it behaves otherwise now")
PYTHON
