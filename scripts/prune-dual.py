#!/usr/bin/env python3
"""Cut a phase twin down to one plain GGUF: see prune-dual.py --help."""

import sys

# before the package is read: an older Python stops at its syntax
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("prune-dual: Python 3.11 or newer is needed, this is {}.{}".format(*sys.version_info))

try:
    from prune_dual.cli import main
except ModuleNotFoundError as error:
    if error.name != "gguf":
        raise
    sys.exit("prune-dual: the Python package gguf is missing: pip install gguf")
except KeyboardInterrupt:
    sys.exit(130)

sys.exit(main())
