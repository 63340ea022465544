"""The kind of a twin: what its large phase is compared with, and what decides."""

from types import SimpleNamespace

import numpy as np
import pytest

import choose_kind
import compare_kinds
from choose_kind import choose
from phase_twin.positions import Positions
from phase_twin.quality import excess
from phase_twin.recipes import Recipe, siblings_of
from phase_twin.results import read_result
from prune_dual import NESTED, SIBLINGS

CHUNKS, PER_CHUNK = 60, 255


def uniform(kind: str, **more) -> Recipe:
    return Recipe(**{**dict.fromkeys(("gate", "up", "down"), kind), "rest": "Q6_K", **more})


def measured(level: float, noise: float = 0.0, seed: int = 0) -> Positions:
    """A mean KLD of `level` over chunks that differ much, and as much in each: for every `noise` and `seed` else."""
    random = np.random.default_rng(257)
    chunks = random.exponential(1, CHUNKS)
    kld = level * chunks[:, None] / chunks.mean() * np.ones(PER_CHUNK)
    kld = kld + noise * np.random.default_rng(seed).normal(size=(CHUNKS, 1))
    zero = np.zeros_like(kld)
    return Positions(kld=kld, nll=zero, nll_base=zero, same_top=np.ones(kld.shape, bool))


@pytest.mark.parametrize(
    ("refined", "noise", "kind"),
    [
        (0.0090, 0.0, NESTED),  # better
        (0.0104, 0.0, NESTED),  # worse, within the margin of 0.0005
        (0.0106, 0.0, SIBLINGS),  # beyond
        (0.0106, 0.002, NESTED),  # beyond, but by less than two errors of 0.0003
        (0.0120, 0.002, SIBLINGS),
    ],
)
def test_siblings_are_taken_where_the_refined_phase_loses_by_more_than_the_margin(refined, noise, kind):
    assert choose(excess(measured(refined, noise), measured(0.01), 0.05)) == kind


def test_the_margin_is_a_share_and_may_ask_for_a_gain():
    above = excess(measured(0.0106), measured(0.01), 0.05)
    assert above["diff"] == pytest.approx(0.0001, rel=1e-5)
    # the text is shared, and of what both suffer from a hundredth is left
    assert above["err"] < 0.0001
    assert choose(excess(measured(0.0090), measured(0.01), -0.2)) == SIBLINGS


def test_one_chunk_decides_nothing():
    one = Positions(*(np.ones((1, PER_CHUNK)) for _ in range(4)))
    assert choose(excess(one, one, -0.5)) == NESTED


def test_the_sibling_is_q4_k_where_none_is_given():
    nested = [uniform("IQ3_A770"), uniform("IQ4_A770", rest_classes={"output": "Q8_0"})]
    sibling = siblings_of(nested)[0]
    assert sibling == uniform("Q4_K", rest_classes={"output": "Q8_0"})
    # what is not refined stays
    mixed = [uniform("IQ3_A770", down="Q5_K"), uniform("IQ4_A770", down="Q5_K")]
    assert siblings_of(mixed)[0] == uniform("Q4_K", down="Q5_K")


def test_a_sibling_with_feedback_is_compared_without_too():
    given = uniform("IQ3_A770", down="Q8_0")  # any type that takes feedback
    assert siblings_of([uniform("IQ3_A770"), given, uniform("IQ4_A770")]) == [
        given,
        given.model_copy(update={"feedback": False}),
    ]
    plain = uniform("Q4_K", feedback=False)
    assert siblings_of([uniform("IQ3_A770"), plain, uniform("IQ4_A770")]) == [plain]


def test_recipes_have_titles():
    assert uniform("IQ4_A770").title == "IQ4_A770, error feedback"
    down = {"type": "Q3_K", "raised": "Q4_K", "top": 5}
    assert uniform("IQ3_A770", down=down, feedback=False).title == "IQ3_A770/Q3_K/Q4_K"


def test_the_rules_say_what_was_chosen_and_why(tmp_path, monkeypatch):
    monkeypatch.setattr("phase_twin.results.made_by", lambda snakemake: {})
    rows, positions = [], []
    for number, level in enumerate((0.0106, 0.01, 0.011)):
        rows.append(tmp_path / f"{number}.json")
        rows[-1].write_text(f'{{"label": "{number}", "kld_mean": {level}}}')
        positions.append(tmp_path / f"{number}.npz")
        measured(level).save(positions[-1])
    compare_kinds.main(
        SimpleNamespace(
            input=SimpleNamespace(rows=rows, positions=positions),
            output=SimpleNamespace(table=tmp_path / "kinds.json"),
            params=SimpleNamespace(titles=["IQ4_A770, error feedback", "Q4_K, error feedback", "Q4_K"], margin=0.05),
        )
    )
    choice = tmp_path / "kind.json"
    choose_kind.main(
        SimpleNamespace(input=SimpleNamespace(table=tmp_path / "kinds.json"), output=SimpleNamespace(choice=choice))
    )
    found = read_result(choice)
    assert found["kind"] == SIBLINGS
    assert found["why"].startswith(
        "siblings: IQ4_A770, error feedback, has a mean KLD of 0.01060 nats, Q4_K, error feedback, 0.01000"
    )
    assert "above 1.05 times the second by more than 2 standard errors" in found["why"]
    differences = [row["difference"] and round(row["difference"]["kld_mean"]["diff"], 6) for row in found["rows"]]
    assert differences == [None, -0.0006, 0.0004]
    assert [row["label"] for row in found["rows"]][2] == "Q4_K"
