"""dev/bench_gpu.py with a program in llama-bench's place. The measurement itself needs a card."""

import subprocess

import pytest

BENCH = """#!/bin/sh
echo "$@" >> {calls}
echo "$SETTING" >> {calls}
echo 'load_backend: nothing that is JSON'
echo '{{"n_prompt": 512, "n_gen": 0, "samples_ts": [990.0, 1000.0, 1010.0]}}'
echo '{{"n_prompt": 0, "n_gen": 128, "samples_ts": [100.0, 100.0, 100.0]}}'
"""


@pytest.fixture
def bench(root, tmp_path):
    program = tmp_path / "llama-bench"
    program.write_text(BENCH.format(calls=tmp_path / "calls"))
    program.chmod(0o755)
    for kind in ("IQ3_A770", "Q4_K"):  # in place of models of 14 GB and more
        (tmp_path / f"bench-gpu-{kind}.gguf").touch()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [root / "dev/run", "bench_gpu", "--bin", tmp_path, "--device", "Card0", "--template", "none.gguf"]
        return subprocess.run(
            [*map(str, command), "--folder", str(tmp_path), "--keep", *arguments], capture_output=True, text=True
        )

    return run


def test_every_round_measures_every_type(bench, tmp_path):
    done = bench(
        "--types", "IQ3_A770,Q4_K", "--rounds", "2", "--set", "SETTING=on", "--out", str(tmp_path / "out.json")
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("Card0, SETTING=on, 20")
    assert done.stdout.splitlines()[2:] == [
        "| experts | bits per weight | pp512 | tg128 |",
        "| --- | --- | --- | --- |",
        "| IQ3_A770 | 3.188 | 1000 ± 0.8 % | 100 ± 0.0 % |",
        "| Q4_K | 4.5 | 1000 ± 0.8 % | 100 ± 0.0 % |",
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1::2] == ["on"] * 4
    # each round begins with another type
    models = [call.split()[1].rpartition("-")[2] for call in calls[::2]]
    assert models == ["IQ3_A770.gguf", "Q4_K.gguf", "Q4_K.gguf", "IQ3_A770.gguf"]
    assert all("-dev Card0" in call for call in calls[::2])
    assert (tmp_path / "out.json").read_text().count("990.0") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--types", "Q9"], "argument --types: unknown: Q9; known: IQ3_A770, "),
        (["--set", "SETTING"], "argument --set: SETTING: NAME=VALUE was expected"),
        (["--bin", "/nowhere"], "bench_gpu: cannot start /nowhere/llama-bench: No such file or directory"),
    ],
)
def test_what_is_wrong_is_one_line(bench, arguments, message):
    done = bench("--types", "Q4_K", *arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
