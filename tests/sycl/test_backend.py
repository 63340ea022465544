"""The SYCL backend computes what the CPU backend does, for the types that the patches touch."""

import json
import re
from typing import Any

import pytest

from test_sycl import BY_EXPERT

pytestmark = pytest.mark.sycl


NEW_KERNELS = {
    "reordered, fused": (
        "mul_mat_vec_reorder",
        "moe_mul_mat_vec",
        "moe_mul_mat_grouped",
        "moe_gate_up_swiglu",
        "moe_gate_up_swiglu_grouped",
    ),
    "reordered": ("moe_mul_mat_vec", "moe_mul_mat_grouped"),
    BY_EXPERT: ("moe_gate_up_swiglu", "mul_mat_vec_reorder"),
    "off": ("mul_mat_vec_q_id",),
}


@pytest.fixture(scope="module")
def tests(root, snakemake) -> dict[str, Any]:
    done = snakemake("test_sycl")
    assert done.returncode == 0, done.stdout
    return json.loads((root / "resources/engine/sycl-test/tests.json").read_text())


@pytest.fixture(scope="module")
def report(tests) -> dict[str, dict[str, dict[str, int]]]:
    return tests["runs"]


def test_the_kernels_behind_guard_pages(tests):
    assert tests["kernels"].keys() == {"test-sycl-fusion", "test-sycl-experts"}
    assert min(tests["kernels"].values()) > 40


@pytest.mark.parametrize("operation", ["MUL_MAT", "MUL_MAT_ID", "GET_ROWS", "MOE_FFN"])
def test_cases_pass(report, operation):
    # a case that fails, or none that runs, fails the rule already
    passed = {name: run["passed"][operation] for name, run in report.items() if operation in run["passed"]}
    some = [passed.pop(BY_EXPERT)] if BY_EXPERT in passed else []
    assert len(passed) >= (operation != "MUL_MAT") + 1
    assert len(set(passed.values())) == 1, "the same cases however the backend is set"
    assert min([*passed.values(), *some]) > 0


@pytest.mark.parametrize("kind", ["iq3_a770", "iq4_a770"])
@pytest.mark.parametrize(("name", "kernel"), [(name, kernel) for name in NEW_KERNELS for kernel in NEW_KERNELS[name]])
def test_kernels_of_the_new_types_ran(report, name, kernel, kind):
    assert report[name]["calls"][f"{kernel} {kind}"] > 0


def test_settings_switch_kernels_off(report):
    kernels = {name: {call.split()[0] for call in run["calls"]} for name, run in report.items()}
    assert not {"moe_gate_up_swiglu", "moe_gate_up_swiglu_grouped"} & kernels["reordered"]
    assert not any(kernel.endswith("_grouped") for kernel in kernels[BY_EXPERT])
    for name in ("llama.cpp's own", "off"):
        assert not any(kernel.startswith("moe_") for kernel in kernels[name])


@pytest.mark.parametrize("kind", ["q4_K", "q5_K", "q6_K"])
def test_reordered_experts_of_k_quants_have_two_paths(report, kind):
    # ours goes first where it is on: both read the same layout
    ours, theirs = f"moe_mul_mat_vec {kind}", f"mul_mat_vec_q_id_reorder {kind}"
    assert report["reordered"]["calls"][ours] > 0
    assert theirs not in report["reordered"]["calls"]
    assert report["llama.cpp's own"]["calls"][theirs] > 0


def test_lists_of_reordered_types(root):
    """No device here runs the ESIMD kernels, so that the type is not among theirs is read off the source."""
    source = (root / "resources/engine/source/ggml/src/ggml-sycl/ggml-sycl.cpp").read_text()

    def types(function: str) -> set[str]:
        body = re.search(rf"bool {function}\(.*?^}}", source, re.DOTALL | re.MULTILINE)
        return set(re.findall(r"case GGML_TYPE_(\w+):", body[0]))

    for own in ("ggml_sycl_supports_reorder_mmvq", "ggml_sycl_supports_reorder_mul_mat_sycl"):
        assert {"IQ3_A770", "IQ4_A770", "Q3_K", "Q4_K"} <= types(own)
    for other in ("ggml_sycl_supports_reorder_esimd", "ggml_sycl_supports_reorder_dmmv", "ggml_sycl_supports_dmmv"):
        assert {"Q3_K", "Q4_K"} <= types(other)
        assert not {"IQ3_A770", "IQ4_A770"} & types(other)
