"""The faults that `dev/run mutate` plants: each can be planted in the kernels as they are."""

from collections import Counter
from pathlib import Path

import pytest
import yaml


@pytest.mark.parametrize("backend", ["cuda", "sycl", "vulkan"])
def test_each_stands_once_and_changes_something(root: Path, engine_bin, backend):
    mutants = yaml.safe_load((root / f"tests/{backend}/mutants.yaml").read_text())
    kernels = root / f"resources/engine/source/ggml/src/ggml-{backend}"
    found = {mutant["name"]: (kernels / mutant["file"]).read_text().count(mutant["old"]) for mutant in mutants}
    assert {name: count for name, count in found.items() if count != 1} == {}
    assert [mutant["name"] for mutant in mutants if mutant["old"] == mutant["new"]] == []
    assert [name for name, count in Counter(mutant["name"] for mutant in mutants).items() if count > 1] == []
