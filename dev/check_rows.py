"""Check rows of speed that bench-nx2.sh wrote: for each file what it is about, or the first thing that is wrong.

usage: dev/run check_rows FILE...   (the rows of the project lie in community/)
"""

import sys
from pathlib import Path

from phase_twin.community import Row, read_row
from phase_twin.errors import UserError


def about(row: Row) -> str:
    """What a row is about, in a line."""
    lacking = sum(figure.error is not None for figure in row.figures)
    figures = f"{len(row.figures) - lacking} figures" + (f", {lacking} not to be had" if lacking else "")
    devices = ", ".join(max((phase.devices for phase in row.phases), key=len))
    return f"{figures}: {row.file.name or row.file.sha256}, {devices} ({row.machine.backend}), {row.date}"


def main() -> None:
    """Check the files of the command line."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    faults = 0
    for path in map(Path, sys.argv[1:]):
        try:
            print(f"{path}: {about(read_row(path))}")
        except UserError as error:
            print(error, file=sys.stderr)
            faults += 1
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
