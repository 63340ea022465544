#!/usr/bin/env bash
# evalsig 0.1.2 (PyPI), compare() of two runs with clusters.
#
# If all items belong to one cluster (one document, one passage), every bootstrap draw is that cluster again. The
# interval has no width, p is the least it can be, and noise is called significant: no error, no note. One cluster says
# nothing about the spread between clusters.
#
# Seen: 40 differences of pure noise (mean -0.060, standard deviation 0.80)
#   one cluster:  CI [-0.0604, -0.0604], p = 0.0001, significant
#   40 clusters:  CI [-0.3047, 0.1841], p = 0.6241, not significant
# Way out: count the clusters (n_clusters of the result) and believe nothing below some ten.
# Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check evalsig==0.1.2 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from evalsig import ItemResult, RunFrame, compare

noise = np.random.default_rng(0).normal(size=40)


def run(scores, clusters):
    items = [ItemResult(str(i), float(score), clusters[i]) for i, score in enumerate(scores)]
    return RunFrame("run", "model", "task", "score", items)


def result(clusters):
    found = compare(run(np.zeros(40), clusters), run(noise, clusters), cluster="document")
    low, high = found.ci
    print(
        f"{found.n_clusters} clusters: CI [{low:.4f}, {high:.4f}], p = {found.p_value:.4f}, "
        f"significant: {found.significant}, notes: {list(found.notes)}"
    )
    return found


one = result(["d"] * 40)
many = result([f"d{i}" for i in range(40)])
same = one.significant and one.ci[0] == one.ci[1] and not one.notes and not many.significant
sys.exit(0 if same else "it behaves otherwise now")
PYTHON
