"""The order of promotion from the importance matrix."""

import numpy as np
import pytest

from phase_twin.errors import UserError
from rank_groups import imatrix_energy, order_groups, uncalibrated


def name(layer: int, tensor_class: str) -> str:
    return f"blk.{layer}.ffn_{tensor_class}_exps.weight"


def test_energy_is_normalised_per_expert():
    sums = np.array([[4.0, 8.0], [100.0, 300.0]])
    # 4 tokens at a mean of 1 and 2, 100 tokens at a mean of 1 and 3
    assert imatrix_energy(sums, np.array([4.0, 100.0])) == pytest.approx(7.0)


def test_experts_without_tokens_add_nothing():
    sums, counts = np.array([[4.0], [0.0]]), np.array([4.0, 0.0])
    assert imatrix_energy(sums, counts) == 1.0
    assert uncalibrated(counts) == [1]


def test_best_energy_per_byte_first_and_names_break_ties():
    energy = {name(0, "down"): 3.0, name(1, "down"): 1.0, name(0, "gate"): 8.0, name(0, "up"): 8.0}
    gain = {name(0, "down"): 10, name(1, "down"): 1, name(0, "gate"): 10, name(0, "up"): 10}
    order, tie = order_groups(energy, gain, tie_gate_up=False)
    assert order == [name(1, "down"), name(0, "gate"), name(0, "up"), name(0, "down")]
    assert tie is None


def test_gate_and_up_are_tied_per_layer():
    energy = {name(layer, kind): layer + 1.0 for layer in (0, 1) for kind in ("gate", "up", "down")}
    order, tie = order_groups(energy, dict.fromkeys(energy, 1), tie_gate_up=True)
    assert tie is not None
    numbers = dict(zip(order, tie, strict=True))
    for layer in (0, 1):
        assert numbers[name(layer, "gate")] == numbers[name(layer, "up")] != numbers[name(layer, "down")]
    assert len(set(tie)) == 4


def test_groups_without_gain_go_last():
    energy = {name(0, "down"): 9.0, name(1, "down"): 1.0}
    order, _ = order_groups(energy, {name(0, "down"): 0, name(1, "down"): 5}, tie_gate_up=False)
    assert order == [name(1, "down"), name(0, "down")]


def test_other_tensors_are_refused():
    with pytest.raises(UserError, match=r"output\.weight: not a routed-expert tensor"):
        order_groups({"output.weight": 1.0}, {"output.weight": 1}, tie_gate_up=False)
