"""The little of SPIR-V that registering a module needs (Khronos, SPIR-V specification, 2.3 and 3.3)."""

import struct

MAGIC = 0x07230203
HEADER_WORDS = 5
OP_ENTRY_POINT = 15
OP_FUNCTION = 54


def entry_points(module: bytes) -> list[str]:
    """Return the names of the kernels in a module, in its order.

    An instruction is a word with its length in words (high half) and opcode (low half), and its operands. OpEntryPoint
    has the execution model, the function's id and then the name: UTF-8, ended by a zero byte. All stand before the
    first OpFunction.

    Raises
    ------
    ValueError
        if the bytes are no little-endian SPIR-V module.
    """
    if len(module) % 4 or len(module) < 4 * HEADER_WORDS:
        raise ValueError(f"{len(module)} bytes are no SPIR-V module")
    words = struct.unpack(f"<{len(module) // 4}I", module)
    if words[0] != MAGIC:
        raise ValueError(f"a SPIR-V module starts with {MAGIC:#010x}, not {words[0]:#010x}")
    names = []
    position = HEADER_WORDS
    while position < len(words):
        length, opcode = words[position] >> 16, words[position] & 0xFFFF
        if length == 0 or position + length > len(words):
            raise ValueError(f"the instruction at word {position} has an impossible length of {length}")
        if opcode == OP_FUNCTION:
            break
        if opcode == OP_ENTRY_POINT:
            name = module[4 * (position + 3) : 4 * (position + length)]
            names.append(name.partition(b"\0")[0].decode())
        position += length
    return names
