"""An order of promotion whose walk, which takes what fits and skips the rest, is good at every budget."""

import math
from collections.abc import Sequence

import numpy as np

# rooms at which orders are compared, where sizes have no common unit
ROOMS = 4096
# places that something may move forward; a longer way was never needed
REACH = 6


def rooms(sizes: np.ndarray) -> np.ndarray:
    """Rooms for what is promoted, in bytes, at which a walk can give something new: all of them, or a sample."""
    total, unit = int(sizes.sum()), math.gcd(*map(int, sizes))
    return np.arange(0, total + 1, unit) if total // unit <= ROOMS else np.linspace(0, total, ROOMS).astype(np.int64)


def walk(order: Sequence[int], benefits: np.ndarray, sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Benefit that the selection rule gets of an order at each room, [rooms]."""
    left, value = room.copy(), np.zeros(len(room))
    for item in order:
        fits = left >= sizes[item]
        value[fits] += benefits[item]
        left[fits] -= sizes[item]
    return value


def improve(order: Sequence[int], benefits: np.ndarray, sizes: np.ndarray) -> list[int]:
    """Move items forward where that gains at some budget and loses at none.

    By benefit per byte a pair stands behind a better single, and where there is room for two, that single and the next
    are taken, which may be worth less than the pair. With the pair in front, a room of one still gets the single.

    Parameters
    ----------
    order
        items by benefit per byte, descending.
    benefits, sizes
        of each item, not negative and in bytes.
    """
    order, room = list(order), rooms(sizes)
    value = walk(order, benefits, sizes, room)
    tiny = 1e-9 * benefits.sum()
    place = 1
    while place < len(order):
        for before in range(max(0, place - REACH), place):
            if sizes[order[before]] == sizes[order[place]]:
                continue
            moved = [*order[:before], order[place], *order[before:place], *order[place + 1 :]]
            found = walk(moved, benefits, sizes, room)
            if (found >= value - 1e-3 * tiny).all() and (found > value + tiny).any():
                order, value, place = moved, found, 0
                break
        place += 1
    return order
