"""The SYCL backend computes what the CPU backend does, for the types that the patches touch."""

import json

import pytest

pytestmark = pytest.mark.sycl


NEW_KERNELS = {
    "reordered, fused": ("mul_mat_vec_reorder", "moe_mul_mat_vec", "moe_gate_up_swiglu"),
    "reordered": ("moe_mul_mat_vec",),
    "off": ("mul_mat_vec_q_id",),
}


@pytest.fixture(scope="module")
def report(root, snakemake) -> dict[str, dict[str, dict[str, int]]]:
    done = snakemake("test_sycl")
    assert done.returncode == 0, done.stdout
    return json.loads((root / "resources/engine/sycl-test/tests.json").read_text())


@pytest.mark.parametrize("operation", ["MUL_MAT", "MUL_MAT_ID", "GET_ROWS", "MOE_FFN"])
def test_cases_pass(report, operation):
    # a case that fails, or none that runs, fails the rule already
    passed = {name: run["passed"][operation] for name, run in report.items() if operation in run["passed"]}
    assert len(passed) >= 2
    assert len(set(passed.values())) == 1, "the same cases however the backend is set"
    assert min(passed.values()) > 0


@pytest.mark.parametrize(("name", "kernel"), [(name, kernel) for name in NEW_KERNELS for kernel in NEW_KERNELS[name]])
def test_kernels_of_the_new_type_ran(report, name, kernel):
    assert report[name]["calls"][f"{kernel} iq3_a770"] > 0


def test_settings_switch_kernels_off(report):
    kernels = {name: {call.split()[0] for call in run["calls"]} for name, run in report.items()}
    assert "moe_gate_up_swiglu" not in kernels["reordered"]
    assert not any(kernel.startswith("moe_") for kernel in kernels["off"])
