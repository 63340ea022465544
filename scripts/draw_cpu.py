"""Draw speed on the CPU: how many times as fast our types are as stock ones, with what was asked."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from phase_twin.plots import BLUE, RED, color_key, new_panels, save
from phase_twin.results import read_result
from phase_twin.rule import run_rule
from phase_twin.side_by_side import DECODE, DOT, PROMPT
from phase_twin.wording import NOT_SETTLED, is_settled

TESTS = {DOT: "dot product in cache", DECODE: "generation", PROMPT: "prompt"}


def draw(report: dict[str, Any]) -> plt.Figure:
    """Draw the medians of the ratios with lines as long as their interquartile ranges, a panel per test.

    What did not settle has no bar.
    """
    table = pd.DataFrame(report["ratios"])
    figure, panels = new_panels(len(TESTS), (10, 3.8))
    for axes, (test, name) in zip(panels, TESTS.items(), strict=True):
        rows = table[table.test == test]
        settled = [is_settled(1, spread) for spread in rows.spread]
        ratios = rows.ratio.where(settled, 0)
        axes.barh(
            rows.type + " / " + rows.base,
            ratios,
            xerr=ratios * rows.spread / 2,
            color=BLUE,
            height=0.6,
            error_kw={"lw": 1},
        )
        for place in (place for place, fine in enumerate(settled) if not fine):
            axes.annotate(f"  {NOT_SETTLED}", (0, place), va="center", fontsize=8)
        for place, (least, stretch) in enumerate(zip(rows.least, rows.stretch, strict=True)):
            for goal, style in ((least, "-"), (stretch, ":")):
                axes.plot([goal, goal], [place - 0.42, place + 0.42], color=RED, lw=2, ls=style)
        axes.axvline(1, color="0.5", lw=0.8)
        axes.set(title=name, xlabel="times as fast", xlim=(0, None))
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    where = f"{report['device']}, {report['threads']} threads"
    figure.suptitle(f"IQ3_A770 and IQ4_A770 beside stock types, {report['models']} models: {where}")
    color_key(figure, [(BLUE, "measured"), (RED, "asked (dotted: hoped for)")])
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    save(draw(read_result(snakemake.input.report)), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
