"""What the texts of a plot must hold to."""

import itertools

import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.text import Text


def shown_texts(figure: plt.Figure) -> list[Text]:
    """All texts of a drawn figure that can be seen: ticks beyond the ends of an axis cannot."""
    figure.draw_without_rendering()
    hidden = set()
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                hidden |= {tick.label1, tick.label2}
    texts = figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text().strip())
    return [text for text in texts if text not in hidden]


def check_texts(figure: plt.Figure) -> None:
    """Texts are within the figure and not on each other."""
    texts = shown_texts(figure)
    assert len(texts) > 5
    # a pixel is no overlap
    boxes = [text.get_window_extent().padded(-0.5) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert figure.bbox.count_contains(box.corners()) == 4, text
    for (one, box), (other, against) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not box.overlaps(against), (one, other)
    plt.close(figure)
