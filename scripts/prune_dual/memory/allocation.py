"""The engine's graph allocator (ggml-alloc.c), on tensors that are shapes only: how large a buffer becomes."""

from collections.abc import Sequence
from typing import Self

ALIGNMENT = 128  # bytes; of SYCL and CUDA, the CPU has less
F32 = 4  # bytes


class Tensor:
    """A tensor as the allocator sees it."""

    __slots__ = (
        "address",
        "allocated",
        "children",
        "inplace",
        "nbytes",
        "output",
        "shape",
        "sources",
        "views",
        "whole",
    )

    def __init__(self, nbytes: int, shape: tuple, sources: Sequence[Self], inplace: bool, whole: Self | None) -> None:
        self.nbytes, self.shape, self.sources = nbytes, shape, sources
        self.inplace, self.whole = inplace, whole
        self.output = self.allocated = False
        self.children = self.views = self.address = 0


class Graph:
    """Tensors in the order in which the engine computes them."""

    def __init__(self) -> None:
        self.leafs: list[Tensor] = []
        self.nodes: list[Tensor] = []
        self._seen: set[int] = set()

    def input(self, nbytes: int, shape: tuple = ()) -> Tensor:
        """What is set from outside; it has its place from the start."""
        tensor = Tensor(nbytes, shape, (), False, None)
        self.leafs.append(tensor)
        return tensor

    def op(self, shape: tuple, *sources: Tensor, size: int = F32, inplace: bool = False) -> Tensor:
        """An operation's result; `inplace` where ggml_op_can_inplace says so."""
        nbytes = size
        for extent in shape:
            nbytes *= extent
        return Tensor(nbytes, shape, sources, inplace, None)

    def unary(self, source: Tensor, *others: Tensor) -> Tensor:
        """An operation that gives the shape of `source` and may take its place."""
        return Tensor(source.nbytes, source.shape, (source, *others), True, None)

    def view(self, source: Tensor, shape: tuple = (), nbytes: int | None = None) -> Tensor:
        """Other strides or another shape of `source`; without a shape it is never like another's."""
        size = source.nbytes if nbytes is None else nbytes
        return Tensor(size, shape or (id(source), len(self.nodes)), (source,), False, source.whole or source)

    def store(self, *sources: Tensor) -> None:
        """A copy to a buffer outside the graph: it takes no room here and frees its sources."""
        self.expand(Tensor(0, (), sources, False, _OUTSIDE))

    def expand(self, tensor: Tensor) -> None:
        """ggml_build_forward_expand: what the tensor needs, depth first, then the tensor."""
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        for source in tensor.sources:
            self.expand(source)
        if tensor.sources:  # leafs were noted when made
            self.nodes.append(tensor)

    def peak(self) -> int:
        """Bytes that ggml_gallocr_alloc_graph_impl comes to."""
        room = _Room()
        for leaf in self.leafs:
            leaf.address, leaf.allocated = room.take(leaf.nbytes), True
        for node in self.nodes:
            if node.whole is not None:
                node.whole.views += 1
            for source in node.sources:
                source.children += 1
        for node in self.nodes:
            if node.whole is None and not _reuse(node, room):
                node.address, node.allocated = room.take(node.nbytes), True
            for source in node.sources:
                source.children -= 1
                if source.children or source.views:
                    continue
                whole = source
                if source.whole is not None:
                    whole = source.whole
                    whole.views -= 1
                if whole.allocated and not (whole.views or whole.children or whole.output):
                    room.give(whole.address, whole.nbytes)
                    whole.allocated = False
        return room.peak


_OUTSIDE = Tensor(0, (), (), False, None)


def _reuse(node: Tensor, room: "_Room") -> bool:
    """Let the node take the place of a source that nothing else needs; a view never gives its place."""
    for source in node.sources if node.inplace else ():
        usable = source.allocated and not source.output and source.children == 1 and not source.views
        if usable and source.shape == node.shape:
            node.address, node.allocated, source.allocated = source.address, True, False
            return True
    return False


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class _Room:
    """ggml_dyn_tallocr, with its ways: tensors of no bytes leave blocks of no bytes, which keep others from merging."""

    def __init__(self) -> None:
        self.blocks = [[0, 1 << 62]]  # free: [offset, size], ascending; the last is the open end
        self.peak = 0

    def take(self, nbytes: int) -> int:
        size = _padded(nbytes)
        best = None
        for block in self.blocks[:-1]:
            # of equal ones the last, as there
            if block[1] >= size and (best is None or block[1] <= best[1]):
                best = block
        block = best or self.blocks[-1]
        offset = block[0]
        block[0] += size
        block[1] -= size
        if not block[1]:
            self.blocks.remove(block)
        self.peak = max(self.peak, offset + size)
        return offset

    def give(self, offset: int, nbytes: int) -> None:
        blocks, size = self.blocks, _padded(nbytes)
        for i, block in enumerate(blocks):
            if sum(block) == offset:
                block[1] += size
                if i + 1 < len(blocks) and sum(block) == blocks[i + 1][0]:
                    block[1] += blocks.pop(i + 1)[1]
                return
            if offset + size == block[0]:
                block[:] = [offset, block[1] + size]
                if i and sum(blocks[i - 1]) == offset:
                    blocks[i - 1][1] += blocks.pop(i)[1]
                return
        blocks.insert(next((i for i, block in enumerate(blocks) if block[0] >= offset), len(blocks)), [offset, size])
