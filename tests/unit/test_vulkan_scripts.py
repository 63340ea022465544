"""What the scripts for Vulkan read, and the glslc that keeps what it compiled."""

import os
import subprocess

import pytest

import phase_twin.lavapipe
from phase_twin.backend_ops import Run
from phase_twin.errors import UserError
from phase_twin.lavapipe import on_lavapipe
from small_run import ROOT
from test_vulkan import count_dispatches

# as llama.cpp's generator calls it
CALL = ("-fshader-stage=compute", "--target-env=vulkan1.2")


def test_dispatches_are_read():
    output = """  MUL_MAT(k=512): vk-stats: mul_mat_vec_iq3_a770_f32_f32          13 dispatches
vk-stats: mul_mat_vec_id_glu_iq4_a770_f32                           2 dispatches
"""
    assert count_dispatches(output) == {"mul_mat_vec_iq3_a770_f32_f32": 13, "mul_mat_vec_id_glu_iq4_a770_f32": 2}


def test_operations_that_are_left_to_all_types():
    run = Run(operations=("MUL_MAT", "GET_ROWS"), left=frozenset({"MUL_MAT"}))
    assert run.chosen(["q4_K"]) == ["GET_ROWS"]
    assert run.chosen([]) == ["MUL_MAT", "GET_ROWS"]


def test_the_device_is_lavapipe(tmp_path, monkeypatch):
    monkeypatch.delenv("VK_DRIVER_FILES", raising=False)
    monkeypatch.setattr(phase_twin.lavapipe, "FOLDERS", (str(tmp_path / "none"), str(tmp_path)))
    with pytest.raises(UserError, match=r"there is no lavapipe here; install it .*apt install mesa-vulkan-drivers"):
        on_lavapipe()
    (tmp_path / "radeon_icd.x86_64.json").touch()
    driver = tmp_path / "lvp_icd.x86_64.json"
    driver.touch()
    assert on_lavapipe() == {"GGML_VK_VISIBLE_DEVICES": "0", "VK_DRIVER_FILES": str(driver)}
    monkeypatch.setenv("VK_DRIVER_FILES", "another.json")
    assert on_lavapipe() == {"GGML_VK_VISIBLE_DEVICES": "0"}


@pytest.fixture
def compile_shader(tmp_path):
    """Call toolchain/vulkan/glslc for a shader; how often the real one was called is returned."""
    real, calls = tmp_path / "real-glslc", tmp_path / "calls"
    real.write_text(f'#!/usr/bin/env bash\necho "$*" >>{calls}\ncat "$3" "${{3%/*}}"/*.glsl >"$5"\n')
    real.chmod(0o755)
    shaders = tmp_path / "shaders"
    shaders.mkdir()
    (shaders / "mul.comp").write_text("mul\n")
    (shaders / "types.glsl").write_text("types\n")
    calls.touch()

    def call(name: str, *options: str, **env: str) -> int:
        command = [ROOT / "toolchain/vulkan/glslc", *CALL, shaders / "mul.comp", "-o", tmp_path / name, *options]
        surroundings = os.environ | {"GLSLC": str(real), "XDG_CACHE_HOME": str(tmp_path / "cache")} | env
        subprocess.run(command, env=surroundings, check=True)
        return len(calls.read_text().splitlines())

    return call


def test_what_was_compiled_is_kept(compile_shader, tmp_path):
    assert compile_shader("a.spv", "-DA=1") == 1
    assert compile_shader("b.spv", "-DA=1") == 1
    assert (tmp_path / "a.spv").read_bytes() == (tmp_path / "b.spv").read_bytes() == b"mul\ntypes\n"
    assert compile_shader("b.spv", "-DA=2") == 2
    (tmp_path / "shaders/types.glsl").write_text("other types\n")
    assert compile_shader("a.spv", "-DA=1") == 3
    assert (tmp_path / "a.spv").read_text() == "mul\nother types\n"
    # its dependencies are wanted each time
    assert compile_shader("a.spv", "-MD", "-MF", str(tmp_path / "a.d"), "-DA=1") == 4
    assert compile_shader("a.spv", "-MD", "-MF", str(tmp_path / "a.d"), "-DA=1") == 5


def test_other_shaders_stay_as_they_are(compile_shader, tmp_path):
    assert compile_shader("q4_k.spv") == 1
    (tmp_path / "shaders/types.glsl").write_text("a fault\n")
    assert compile_shader("q4_k.spv", ONLY_SHADERS="a770") == 1
    assert compile_shader("iq3_a770.spv", ONLY_SHADERS="iq3_a770") == 2
    assert (tmp_path / "iq3_a770.spv").read_text() == "mul\na fault\n"


def test_without_glslc_one_line_says_so(tmp_path):
    command = [ROOT / "toolchain/vulkan/glslc", "--version"]
    done = subprocess.run(command, env=os.environ | {"GLSLC": str(tmp_path / "none")}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "glslc is missing (Debian, Ubuntu: apt install glslc)\n")
