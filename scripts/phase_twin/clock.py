"""Times of files decide what is made anew, so none may lie in the future."""

import time
from collections.abc import Iterable
from pathlib import Path

from .errors import UserError

SLACK_S = 120.0  # clocks of file servers differ a little


def refuse_future(paths: Iterable[Path]) -> None:
    """Raise a UserError for the first file whose time is still to come.

    An input of that kind would be taken for new in every run, and a result of that kind would hide that its inputs
    changed.
    """
    limit = time.time() + SLACK_S
    for path in paths:
        if path.is_file() and (found := path.stat().st_mtime) > limit:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found))
            raise UserError(
                f"{path}: its time, {when}, is still to come, so changes cannot be told: check the clock, then touch "
                "the file, or remove it if a run made it"
            )
