"""A model on a device that changes its variants computes what one does that was loaded so, and keeps no memory."""

import os
import re
import subprocess

import pytest

pytestmark = pytest.mark.sycl


def test_a_model_that_changes(sycl):
    env = os.environ | {"GGML_SYCL_FORCE_REORDER": "1", "GGML_SYCL_STATS": "1"}
    done = subprocess.run([*sycl("test-variant-change"), "--gpu"], env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\w+), (\w+), on a GPU: OK$", done.stdout, re.MULTILINE) == [
        ("siblings", "mapped"),
        ("nested", "mapped"),
        ("nested", "read"),
    ]
    # on the device, and by the kernels for layouts that a change has to make anew
    calls = dict(re.findall(r"sycl-stats: moe_\S+ +(iq\w+_a770) +(\d+) calls", done.stderr))
    assert set(calls) == {"iq3_a770", "iq4_a770"}
