"""Draw speed: a bar per file and depth, prompt processing beside generation."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from phase_twin.plots import BLUE, RED, color_key, new_panels, save
from phase_twin.results import read_result
from phase_twin.rule import run_rule
from phase_twin.wording import NOT_SETTLED, is_settled

GREY = "#444444"


def panel_name(test: str) -> str:
    """Say what a test of llama-bench does."""
    what = {"pp": "prompt of {} tokens", "tg": "generation of {} tokens"}[test[:2]]
    return what.format(test[2:])


def draw(table: pd.DataFrame, title: str, ours: Sequence[str]) -> plt.Figure:
    """Draw tokens per second with its standard deviation, a panel per test and a bar per label and depth.

    What did not settle has no bar.

    Parameters
    ----------
    ours
        labels drawn apart from stock types.
    """
    labels, depths = list(dict.fromkeys(table.label)), sorted(set(table.depth))
    # the deeper, the paler
    shades = [1 - 0.65 * step / max(1, len(depths) - 1) for step in range(len(depths))]
    height = 0.8 / len(depths)
    tests = list(dict.fromkeys(table.test))
    figure, panels = new_panels(len(tests), (7, 1.7 + 0.22 * len(labels) * len(depths)))
    for axes, test in zip(panels, tests, strict=True):
        for step, (depth, shade) in enumerate(zip(depths, shades, strict=True)):
            rows = table[(table.test == test) & (table.depth == depth)].set_index("label").loc[labels]
            places = [place + (step - (len(depths) - 1) / 2) * height for place in range(len(labels))]
            colors = [RED if label in ours else BLUE for label in labels]
            style = {"height": 0.9 * height, "color": colors, "alpha": shade, "error_kw": {"lw": 1, "capsize": 2}}
            settled = [is_settled(*row) for row in zip(rows.t_s, rows.stddev, strict=True)]
            axes.barh(places, rows.t_s.where(settled, 0), xerr=rows.stddev.where(settled, 0), **style)
            for place in (place for place, fine in zip(places, settled, strict=True) if not fine):
                axes.annotate(f"  {NOT_SETTLED}", (0, place), va="center", fontsize=7, color=GREY)
        axes.set(title=panel_name(test), xlabel="tokens per second", xlim=(0, None))
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(y=0.02)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    colors = [(RED, "the twin"), (BLUE, "stock types")] if set(labels) - set(ours) else [(RED, "the twin")]
    if len(depths) > 1:
        texts = (f"{depth} tokens in context" if depth else "empty context" for depth in depths)
        colors += [((GREY, shade), text) for shade, text in zip(shades, texts, strict=True)]
    color_key(figure, colors)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    table = pd.DataFrame(read_result(snakemake.input.speed))
    first = table.iloc[0]
    title = f"{snakemake.params.title} on {first.device} ({first.backend}), {first.threads} threads"
    save(draw(table, title, snakemake.params.ours), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
