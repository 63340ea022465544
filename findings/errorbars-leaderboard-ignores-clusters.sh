#!/usr/bin/env bash
# errorbars 0.2.4 (PyPI), `leaderboard` of scores with a cluster_id.
#
# The tests between models go by clusters, but the interval that stands beside each mean takes all questions for
# independent and does not say so; `summarize` of the same file prints the clustered interval too. Who reads the
# leaderboard sees errors that are too small by the root of the design effect.
#
# Seen: 40 clusters of 25 questions, standard deviation 1 between clusters and 0.3 within. Model b:
#   leaderboard: mean 0.2378, 95 % CI [0.1854, 0.2901], half width 0.052
#   summarize:   clustered CI [-0.0175, 0.4931], half width 0.255, design effect 21.9
# Way out: take each model's interval from `summarize`.
# Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check errorbars==0.2.4 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import csv

import numpy as np

rng = np.random.default_rng(0)
level = rng.normal(0, 1, 40)
with open("scores.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["model", "question_id", "score", "cluster_id"])
    for model, better in (("a", 0.0), ("b", 0.3)):
        for cluster in range(40):
            for question in range(25):
                score = level[cluster] + better + rng.normal(0, 0.3)
                rows.writerow([model, f"{cluster}-{question}", score, cluster])
PYTHON
venv/bin/errorbars leaderboard scores.csv | tee leaderboard
venv/bin/errorbars summarize scores.csv --model b | tee summary
venv/bin/python - <<'PYTHON'
import re
import sys

(low, high), (low_clustered, high_clustered) = (
    map(float, re.search(pattern, open(name).read()).groups())
    for name, pattern in (
        ("leaderboard", r"\bb +\S+ +\[(\S+), (\S+)\]"),
        ("summary", r"clustered CI +\[(\S+), (\S+)\]"),
    )
)
ratio = (high_clustered - low_clustered) / (high - low)
print(f"model b: the clustered interval is {ratio:.1f} times as wide as the leaderboard's")
sys.exit(0 if ratio > 4 else "it behaves otherwise now")
PYTHON
