"""The Vulkan backend computes what the CPU backend does, for the types that are ours."""

import json

import pytest

from test_vulkan import INTEGER_DOT, RUNS, TYPES

pytestmark = pytest.mark.vulkan

# the shaders of each run, by the pipelines' names
PIPELINES = {
    "fused": (
        "get_rows_{}",
        "mul_mat_vec_{}_f32_f32",
        "mul_mat_vec_id_{}_f32",
        "mul_mat_vec_id_glu_{}_f32",
        "matmul_{}_f32",
    ),
    "unfused": ("mul_mat_vec_id_{}_f32",),
    "single precision": ("matmul_{}_f32",),
    INTEGER_DOT: ("mul_mat_vec_{}_q8_1_f32", "mul_mat_vec_id_{}_q8_1_f32", "matmul_{}_q8_1"),
}


@pytest.fixture(scope="module")
def report(root, snakemake):
    done = snakemake("test_vulkan")
    assert done.returncode == 0, done.stdout
    return json.loads((root / "resources/engine/vulkan/tests.json").read_text())


def test_every_operation_has_cases(report):
    # a case that fails, or none that runs, fails the rule already
    for name, found in report.items():
        assert found["passed"].keys() == {*RUNS[name].operations}
        assert min(found["passed"].values()) > 0
    assert report.keys() >= RUNS.keys() - {INTEGER_DOT}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("name", "pipeline"), [(name, part) for name, parts in PIPELINES.items() for part in parts])
def test_shaders_of_our_types_ran(report, name, pipeline, kind):
    if name not in report:
        pytest.skip("this machine's glslc knows no integer dot products")
    ran = {dispatched for dispatched in report[name]["dispatches"] if dispatched.startswith(pipeline.format(kind))}
    assert ran, [*report[name]["dispatches"]]


def test_experts_are_fused_unless_switched_off(report):
    def glu(name: str) -> set[str]:
        return {dispatched for dispatched in report[name]["dispatches"] if "_glu_" in dispatched}

    assert glu("fused")
    assert not glu("unfused")
