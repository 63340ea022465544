"""What may be said of a figure: one limit for differences, one for speeds."""

from collections.abc import Mapping

# standard errors from which on a difference is one
Z_LIMIT = 2.0
# standard deviation over mean up to which a speed is a figure
SPREAD_LIMIT = 0.1
NOT_SETTLED = "not settled"


def is_different(z: float) -> bool:
    """Whether a difference of so many standard errors is one."""
    return abs(z) > Z_LIMIT


def compared(difference: Mapping[str, float], *, less_is_better: bool = True) -> str:
    """Say of a difference (`z` is looked at): better, worse, or not told apart."""
    if not is_different(difference["z"]):
        return "not told apart"
    return "better" if (difference["z"] < 0) == less_is_better else "worse"


def signed(difference: Mapping[str, float], digits: int) -> str:
    """A difference with its error: -0.0006 ± 0.0005."""
    return f"{difference['diff']:+.{digits}f} ± {difference['err']:.{digits}f}"


def beside(difference: Mapping[str, float], digits: int, *, less_is_better: bool = True) -> str:
    """A difference with its error and what may be said of it: -0.0006 ± 0.0005, not told apart."""
    return f"{signed(difference, digits)}, {compared(difference, less_is_better=less_is_better)}"


def is_settled(mean: float, spread: float) -> bool:
    """Whether a speed that was measured several times is a figure; `spread` in its unit."""
    return mean > 0 and spread <= SPREAD_LIMIT * mean


def speed_text(mean: float, spread: float, digits: int = 2) -> str:
    """A speed with its standard deviation, or that the machine was too busy to tell it."""
    return f"{mean:.{digits}f} ± {spread:.{digits}f}" if is_settled(mean, spread) else NOT_SETTLED
