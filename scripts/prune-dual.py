#!/usr/bin/env python3
"""Cut a phase twin down to one plain GGUF: see prune-dual.py --help."""

import sys

try:
    from prune_dual.cli import main
except ModuleNotFoundError as error:
    if error.name != "gguf":
        raise
    sys.exit("prune-dual: the Python package gguf is missing: pip install gguf")

sys.exit(main())
