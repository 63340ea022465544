"""Draw what promoting each group of experts is worth: a heat map over layers and tensor classes."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from phase_twin.experts import CLASSES, layer_and_class
from phase_twin.plots import new_plot, save
from phase_twin.results import read_result
from phase_twin.rule import run_rule


def gains(order: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Sum the benefits of what is promoted together in a layer.

    Returns
    -------
    (names, gain)
        what is promoted together, as "gate + up"; its benefit, [names, layers], in the unit of the order's method,
        and nan where a layer has no such group.
    """
    groups = {group["name"]: group["benefit"] for group in order["groups"]}
    ties = order["promote_tie"] or range(len(groups))
    members: dict[int, list[str]] = {}
    for name, tie in zip(order["promote_order"], ties, strict=True):
        members.setdefault(tie, []).append(name)
    found: dict[tuple[int, ...], dict[int, float]] = {}
    for names in members.values():
        layers, classes = zip(*map(layer_and_class, names), strict=True)
        kind = tuple(sorted(map(CLASSES.index, classes)))
        found.setdefault(kind, {})[layers[0]] = sum(groups[name] for name in names)
    kinds = sorted(found)
    count = 1 + max(layer for row in found.values() for layer in row)
    gain = np.array([[found[kind].get(layer, np.nan) for layer in range(count)] for kind in kinds])
    return [" + ".join(CLASSES[index] for index in kind) for kind in kinds], gain


def draw(order: Mapping[str, Any], title: str) -> plt.Figure:
    """Draw one cell per layer and class; the darker, the more its promotion is worth."""
    names, gain = gains(order)
    measured = order["method"] == "measured"
    figure, axes = new_plot((7, 2.6), xlabel="layer", title=title)
    axes.grid(visible=False)
    image = axes.imshow(1000 * gain if measured else gain, cmap="Blues", vmin=0, aspect="auto")
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.get_major_locator().set_params(integer=True)
    # cells are told apart by white lines
    axes.set_xticks(np.arange(-0.5, gain.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, gain.shape[0]), minor=True)
    axes.grid(which="minor", color="white", lw=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    what = "KLD saved by promotion\n[0.001 nats per token]" if measured else f"benefit by\n{order['method']}"
    figure.colorbar(image, ax=axes, label=what)
    return figure


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    title = f"{snakemake.params.title}: what promoting each group is worth"
    save(draw(read_result(snakemake.input.order), title), snakemake.output.plot)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
