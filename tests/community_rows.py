"""A row of speed as bench-nx2.sh writes it: a twin's small phase on a card, where the larger depth has no room."""

from copy import deepcopy
from typing import Any

ROW: dict[str, Any] = {
    "format": 1,
    "date": "2026-11-30",
    "file": {"name": "Some-Model", "bytes": 33_000_000_000, "sha256": "ab" * 32, "sha256_from": "manifest.json"},
    "engine": {"base": "0c1e57098", "patch": "9d1dcaf8"},
    "machine": {
        "backend": "SYCL",
        "driver": "1.3.27642",
        "system": "Linux",
        "kernel": "6.8.0",
        "cpu": "Intel(R) Core(TM) i5-8600K CPU @ 3.60GHz",
        "self_test": "passed",
    },
    "settings": {
        "rounds": 3,
        "depths": [0, 4096],
        "tests": ["pp512", "tg128"],
        "paths": ["live", "dormant"],
        "n_threads": 6,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_gpu_layers": 999,
        "type_k": "f16",
        "type_v": "f16",
    },
    "phases": [
        {
            "variant": 0,
            "groups": 120,
            "promoted": 0,
            "bytes": 15_000_000_000,
            "devices": ["Intel(R) Arc(TM) A770 Graphics"],
        }
    ],
    "figures": [
        *(
            {"variant": 0, "path": path, "depth": 0, "test": test, "t_s": samples[1], "samples": samples}
            for path, test, samples in (
                ("live", "pp512", [600.0, 600.5, 601.0]),
                ("live", "tg128", [80.05, 80.2, 80.35]),
            )
        ),
        *(
            {"variant": 0, "path": "live", "depth": 4096, "test": test, "error": "the context could not be made"}
            for test in ("pp512", "tg128")
        ),
        *(
            {"variant": 0, "path": "dormant", "depth": 0, "test": test, "t_s": speed, "samples": [speed] * 3}
            for test, speed in (("pp512", 598.5), ("tg128", 43.75))
        ),
        *(
            {"variant": 0, "path": "dormant", "depth": 4096, "test": test, "error": "the context could not be made"}
            for test in ("pp512", "tg128")
        ),
    ],
}


def a_row(**parts: dict[str, Any]) -> dict[str, Any]:
    """A row of its own, with other values in these parts."""
    row = deepcopy(ROW)
    for name, values in parts.items():
        row[name] |= values
    return row
