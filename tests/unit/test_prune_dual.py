"""prune-dual as users run it: the one file, copied to an empty folder."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import gguf
import pytest

import gguf_files
from file_state import unread
from gguf_files import (
    BAD_IQ3_A770,
    CODEBOOK,
    IQ3_A770,
    IQ3_KEYS,
    Q2_0,
    Q3_K,
    Q4_K,
    Q6_K,
    Early,
    Raw,
    early_twin,
    expert,
    filled,
    small_twin,
    twin_keys,
)
from phase_twin.single_file import single_file
from prune_dual import MIB, Gguf, GgufError, Twin, prune, select
from prune_dual.cli import main

GATES = [expert(layer, "gate") for layer in range(4)]


def the_tool(root) -> bytes:
    """The file that a release carries."""
    return single_file(root / "scripts/prune-dual.py", root / "scripts/prune_dual")


@pytest.fixture
def run(tmp_path, root):
    """Run the copied file in its folder, cut off from the project (-I)."""
    (tmp_path / "prune-dual.py").write_bytes(the_tool(root))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "prune-dual.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    return call


@pytest.fixture
def twin(tmp_path):
    return small_twin(tmp_path / "twin.gguf")


def budget_for(twin, promotions: int) -> int:
    """MiB that fit this many promotions and no more (a promotion adds 1.6 MiB)."""
    view = Twin.read(twin)
    base = sum(tensor.nbytes for tensor in view.phase(0))
    return -(-(base + promotions * view.delta(GATES[0], 1)) // MIB)


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_a_plain_file_that_the_stock_reader_reads(run, twin, tmp_path):
    before = twin.read_bytes()
    done = run("--dual", "twin.gguf", "--out", "out.gguf", "--budget-mb", str(budget_for(twin, 1)))
    assert done.returncode == 0, done.stderr
    assert "promoted 1 of 4" in done.stdout
    assert "wrote out.gguf" in done.stdout
    assert twin.read_bytes() == before
    stock = gguf.GGUFReader(tmp_path / "out.gguf")
    source = {tensor.name: tensor for tensor in Twin.read(twin).gguf.tensors}
    assert [tensor.name for tensor in stock.tensors] == ["token_embd.weight", *GATES]
    for tensor in stock.tensors:
        origin = source[f"{GATES[0]}.v1" if tensor.name == GATES[0] else tensor.name]
        assert tensor.data.tobytes() == origin.data.read()
    assert not [key for key in stock.fields if key.startswith(("general.tensor_variant.", "iq3_a770."))]
    assert stock.fields["phase_twin.pruned_from"].contents() == "twin.gguf"
    assert stock.fields["phase_twin.budget_mb"].contents() == budget_for(twin, 1)
    assert stock.fields["phase_twin.promoted"].contents() == 1


def test_json_says_what_was_selected_and_nothing_else(run, twin):
    budget = budget_for(twin, 2)
    done = run("--dual", "twin.gguf", "--dry-run", "--json", "--budget-mb", str(budget))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    facts = json.loads(done.stdout)
    view = Twin.read(twin)
    base = sum(tensor.nbytes for tensor in view.phase(0))
    assert facts == {
        "budget_bytes": budget * MIB,
        "variant0_bytes": base,
        "selected_bytes": base + 2 * view.delta(GATES[0], 1),
        "promoted": GATES[:2],
    }


def test_the_engines_options_for_a_selection(run, twin):
    budget = budget_for(twin, 2)
    for arguments, flags in (
        (["--budget-mb", str(budget)], f"--override-kv general.tensor_variant.budget_mb=int:{budget}"),
        (["--variant", "1"], "--override-kv general.tensor_variant.default=int:1"),
        ([], ""),
    ):
        done = run("--dual", "twin.gguf", "--engine-flags", *arguments)
        assert (done.returncode, done.stdout) == (0, flags + "\n")


def test_a_dry_run_needs_no_budget(run, twin):
    done = run("--dual", "twin.gguf", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "promoted 0 of 4" in done.stdout
    assert re.search(r"^ *8 GiB .* 4 of 4 .* 100 %$", done.stdout, re.MULTILINE)


def test_a_neighbour_that_is_no_file_is_none(run, twin, tmp_path):
    os.mkfifo(tmp_path / "curve.json")
    (tmp_path / "manifest.json").mkdir()
    done = run("--dual", "twin.gguf", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("--dual", "twin.gguf", "--variant", "1", "--out", "out.gguf", "--verify")
    assert done.returncode == 0
    assert done.stderr == "prune-dual: twin.gguf: no manifest.json: compared with the twin only\n"


def test_an_mtp_head_that_is_not_there(run, twin):
    done = run("--dual", "twin.gguf", "--mtp", "--dry-run")
    assert done.returncode == 1
    assert done.stderr == "prune-dual: twin.gguf: has no MTP head, which --mtp counts; leave it out\n"


def test_dry_run_writes_nothing(run, twin, tmp_path):
    before = files(tmp_path)
    done = run("--dual", "twin.gguf", "--out", "out.gguf", "--variant", "1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "nothing written" in done.stdout
    assert files(tmp_path) == before


def test_same_bytes_each_time(run, twin, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        assert run("--dual", "twin.gguf", "--out", name, "--variant", "1").returncode == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_vram_is_shared_with_what_the_engine_needs(run, tmp_path):
    gguf_files.nex_n2_mini(tmp_path / "twin.gguf", twin=True)
    done = run("--dual", "twin.gguf", "--dry-run", "--json", "--vram-gib", "16", "--ctx", "8192")
    facts = json.loads(done.stdout)
    account = facts["account"]
    (card,) = account["cards"]
    assert card["kv_cache"] == 160 * MIB  # 10 layers, 2 heads of 256 for K and V each, f16
    assert card["reserve"] == 512 * MIB
    assert card["weights"] == facts["selected_bytes"] - account["host_weights"]
    assert 0 <= card["free"] < 80 * MIB  # less than a promotion
    done = run("--dual", "twin.gguf", "--dry-run", "--vram-gib", "16.00", "--ctx", "32768", "--flash-attn", "on")
    assert "KV cache          0.62 GiB" in done.stdout
    assert "start the engine with: -c 32768 -ub 512 -np 1 -ctk f16 -ctv f16 -fa on\n" in done.stdout


def test_two_cards_are_told_how_to_share(run, tmp_path):
    gguf_files.nex_n2_mini(tmp_path / "twin.gguf", twin=True)
    done = run("--dual", "twin.gguf", "--dry-run", "--json", "--vram-gib", "12,8")
    account = json.loads(done.stdout)["account"]
    assert [card["size"] for card in account["cards"]] == [12 << 30, 8 << 30]
    assert all(card["free"] >= 0 for card in account["cards"])
    assert account["flags"][-4:-1] == ["-sm", "layer", "-ts"]


def test_memory_that_cannot_be_counted_is_an_error_that_names_the_key(run, tmp_path):
    gguf_files.nex_n2_mini(tmp_path / "twin.gguf", twin=True, without="ssm.state_size")
    done = run("--dual", "twin.gguf", "--dry-run", "--vram-gib", "16")
    assert done.returncode == 1
    assert done.stderr == (
        "prune-dual: twin.gguf: key 'qwen35moe.ssm.state_size' is missing, memory cannot be counted without it\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "o.gguf", "--variant", "1"],
        ["--dual", "twin.gguf", "--variant", "1"],
        ["--dual", "twin.gguf", "--out", "o.gguf"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--variant", "1", "--budget-mb", "9"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--budget-mb", "-1"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--budget-mb", "1.5"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--budget-mb", "4294967296"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--vram-gib", "nan"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--vram-gib", "0"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--vram-gib", "16,"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--vram-gib", "16", "--free"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--vram-gib", "16", "--ctx", "0"],
        ["--dual", "twin.gguf", "--out", "o.gguf", "--vram-gib", "16", "--cache-type-k", "q3"],
    ],
)
def test_wrong_usage_is_exit_code_2(run, twin, tmp_path, arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "prune-dual: error:" in done.stderr
    assert not (tmp_path / "o.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget-mb", "1"], "smallest feasible budget is"),
        (["--variant", "2"], "there are 2 variants"),
        (["--variant", "1", "--out", "twin.gguf", "--force"], "is the input"),
        (["--variant", "1", "--out", "taken.gguf"], "--force replaces it"),
        (["--variant", "1", "--out", "no/out.gguf"], "does not exist"),
        (["--variant", "1", "--dual", "none.gguf"], "No such file"),
        (["--variant", "1", "--out", "taken.gguf", "--dry-run"], "--force replaces it"),
        (["--variant", "1", "--out", "taken.gguf", "--resume"], "is not what would be written"),
        (["--variant", "1", "--out", "taken.gguf", "--resume", "--dry-run"], "is not what would be written"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(run, twin, tmp_path, arguments, words):
    (tmp_path / "taken.gguf").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = run("--dual", "twin.gguf", "--out", "out.gguf", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("prune-dual: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupted_run_leaves_nothing(run, tmp_path):
    # a copy that does not end, so that the interruption always finds it under way
    code = """
import sys, time
sys.path.insert(0, "prune-dual.py")
from prune_dual import cli
from prune_dual.container import writing
writing._copy = lambda *_: print("copying", flush=True) or time.sleep(60)
sys.exit(cli.main(sys.argv[1:]))
"""
    gguf_files.small_twin(tmp_path / "twin.gguf")
    before = files(tmp_path)
    arguments = ["--dual", "twin.gguf", "--out", "out.gguf", "--variant", "0"]
    # -B: the only new file is the partial one
    command = [sys.executable, "-I", "-B", "-c", code, *arguments]

    def heed_ctrl_c() -> None:
        # a job in the background of a shell is started deaf to it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=heed_ctrl_c, **pipes)
    while "copying" not in process.stdout.readline():
        assert process.poll() is None
    assert files(tmp_path) != before
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip() == "prune-dual: interrupted, nothing was written"
    assert files(tmp_path) == before


def test_a_killed_run_leaves_what_the_next_overwrites(run, twin, tmp_path):
    code = """
import os, signal, sys
sys.path.insert(0, "prune-dual.py")
from prune_dual import cli
from prune_dual.container import writing
copy, written = writing._copy, []
def killed(*arguments):
    copy(*arguments)
    written.append(0)
    if len(written) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
writing._copy = killed
cli.main(sys.argv[1:])
"""
    arguments = ["--dual", "twin.gguf", "--out", "out.gguf", "--variant", "1"]
    before = files(tmp_path)
    for _ in range(2):
        done = subprocess.run([sys.executable, "-I", "-B", "-c", code, *arguments], cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL
        assert files(tmp_path) == sorted([*before, ".out.gguf.partial"])
    assert run(*arguments).returncode == 0
    assert files(tmp_path) == sorted([*before, "out.gguf"])
    prune(Twin.read(twin), select(Twin.read(twin), variant=1), tmp_path / "expected.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_two_runs_to_one_file_are_refused(run, twin, tmp_path):
    partial = tmp_path / ".out.gguf.partial"
    with open(partial, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half of it")
        other.flush()
        done = run("--dual", "twin.gguf", "--out", "out.gguf", "--variant", "1")
        assert (done.returncode, done.stderr) == (1, "prune-dual: out.gguf: another run is writing it\n")
        assert partial.read_bytes() == b"half of it"


def test_resume_takes_a_finished_file(run, twin, tmp_path):
    arguments = ["--dual", "twin.gguf", "--out", "out.gguf", "--resume"]
    assert "out.gguf: needs 10" in run(*arguments, "--variant", "1", "--dry-run").stdout
    assert run(*arguments, "--variant", "1").returncode == 0
    first = unread(tmp_path / "out.gguf")
    assert "out.gguf: is there already as it would be written" in run(*arguments, "--variant", "1", "--dry-run").stdout
    done = run(*arguments, "--variant", "1", "--verify")
    assert done.returncode == 0, done.stderr
    assert "wrote out.gguf" in done.stdout
    assert unread(tmp_path / "out.gguf") == first
    # of another selection it is not the file
    assert "is not what would be written" in run(*arguments, "--variant", "0").stderr
    data = bytearray((tmp_path / "out.gguf").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "out.gguf").write_bytes(data)
    assert "does not have the bytes it has in twin.gguf" in run(*arguments, "--variant", "1", "--verify").stderr


def test_the_disk_is_looked_at_before_anything_is_written(twin, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.gguf"
    out.with_name(".out.gguf.partial").write_bytes(bytes(8 * MIB))  # of a killed run
    arguments = ["--dual", str(twin), "--out", str(out), "--variant", "1", "--dry-run"]
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=4 * MIB))
    assert main(arguments) == 0
    assert re.search(r"out\.gguf: needs [23]\.\d\d MiB, .* has 4\.00 MiB free", capsys.readouterr().out)
    out.with_name(".out.gguf.partial").unlink()
    assert main(arguments) == 1
    assert "4.00 MiB free" in capsys.readouterr().err


def test_detected_cards_are_named(twin, tmp_path, caplog, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Some card, 16384, 16000, 00000000:03:00.0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("prune_dual.memory.devices.DRM", tmp_path)
    caplog.set_level("INFO")
    main(["--dual", str(gguf_files.nex_n2_mini(tmp_path / "mini.gguf", twin=True)), "--vram-gib", "auto", "--dry-run"])
    assert "found Some card, 16.00 GiB (nvidia-smi)" in caplog.text


@pytest.mark.parametrize(
    ("options", "devices", "shares"),
    [([], "CUDA0,CUDA1", 2), (["--free"], "CUDA0", 0), (["-dev", "Vulkan0,CUDA0"], "Vulkan0,CUDA0", 2)],
)
def test_the_cards_are_the_engines(tmp_path, capsys, options, devices, shares):
    program = tmp_path / "llama-server"
    lines = ("CUDA0: Big (24077 MiB, 23600 MiB free)", "CUDA1: Small (11909 MiB, 100 MiB free)")
    lines += ("Vulkan0: Intel(R) UHD Graphics 770 (30000 MiB, 29000 MiB free)",)
    program.write_text("#!/bin/sh\necho 'Available devices:'\n" + "".join(f"echo '  {line}'\n" for line in lines))
    program.chmod(0o755)
    twin = gguf_files.nex_n2_mini(tmp_path / "mini.gguf", twin=True)
    arguments = ["--dual", str(twin), "--vram-gib", "auto", "--engine", str(program), *options, "--engine-flags"]
    assert main(arguments) == 0
    words = capsys.readouterr().out.split()
    assert words[words.index("-dev") + 1] == devices
    split = [float(share) for share in words[words.index("-ts") + 1].split(",")] if "-ts" in words else []
    assert len(split) == shares
    # the larger one, which is the first, has the larger share
    assert split == sorted(split, reverse=True)


def test_an_old_python_is_told(tmp_path, root):
    (tmp_path / "prune-dual.py").write_bytes(the_tool(root))
    code = "import sys; sys.version_info = (3, 8); import runpy; runpy.run_path('prune-dual.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "prune-dual: Python 3.11 or newer is needed, this is 3.8\n")


def test_package_missing_is_one_sentence(tmp_path, root):
    (tmp_path / "prune-dual.py").write_bytes(the_tool(root))
    code = "import sys; sys.modules['gguf'] = None; import runpy; runpy.run_path('prune-dual.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "prune-dual: the Python package gguf is missing: pip install gguf\n"


# keys of the plain file


def pruned(path, out, **request) -> Gguf:
    twin = Twin.read(path)
    prune(twin, select(twin, **request), out)
    return Gguf.read(out)


def file_type(number: int):
    return [("general.file_type", "u32", number)]


def test_type_keys_stay_while_the_type_does(tmp_path):
    path = small_twin(tmp_path / "twin.gguf", IQ3_A770, Q4_K, extra=file_type(770))
    some = pruned(path, tmp_path / "some.gguf", promote="0")
    assert some.get("iq3_a770.codebook", "[i8]") == CODEBOOK
    assert some.get("iq3_a770.version", "u32") == 1
    assert some.get("general.file_type", "u32") == 770
    assert [tensor.type for tensor in some.tensors] == [Q6_K, Q4_K, IQ3_A770, IQ3_A770, IQ3_A770]
    none = pruned(path, tmp_path / "none.gguf", variant=1)
    assert not [key for key in none.kv if key.startswith("iq3_a770.")]
    assert none.get("general.file_type", "u32") == gguf.LlamaFileType.MOSTLY_Q4_K_M


def test_file_type_is_kept_while_nothing_is_promoted(tmp_path):
    path = small_twin(tmp_path / "twin.gguf", extra=file_type(11))
    assert pruned(path, tmp_path / "out.gguf", variant=0).get("general.file_type", "u32") == 11


def test_file_type_is_not_invented(tmp_path):
    model = pruned(small_twin(tmp_path / "twin.gguf"), tmp_path / "out.gguf", variant=0)
    assert "general.file_type" not in model.kv


def test_other_keys_are_copied_verbatim_and_alignment_is_kept(tmp_path):
    keys = [("general.alignment", "u32", 128), ("tokenizer.ggml.tokens", "[str]", ["a", "", "é"]), *file_type(12)]
    tensors = [filled("n.weight", (3,), 0), filled(GATES[0], (256, 4), Q3_K), filled(f"{GATES[0]}.v1", (256, 4), Q4_K)]
    path = gguf_files.write(tmp_path / "twin.gguf", twin_keys(GATES[:1]) + keys, tensors, alignment=128)
    model = pruned(path, tmp_path / "out.gguf", variant=1)
    source = Gguf.read(path)
    for name in ("general.architecture", "general.alignment", "tokenizer.ggml.tokens"):
        assert model.kv[name].raw.read() == source.kv[name].raw.read()
    assert all(tensor.data.offset % 128 == 0 for tensor in model.tensors)
    assert [tensor.data.read() for tensor in model.tensors] == [tensors[0].data, tensors[2].data]


OF_THE_BYTES = ["c2pa:manifest", "c2pa:manifest.uri", "general.sha256", "x.signature", "file-hash", "blake3.data"]
OF_THE_BYTES += ["split.tensors.count"]  # as it is left by a merge
OF_OTHERS = ["phase_twin.patch_sha256", "general.source.hash", "qwen35moe.hash_layer_count", "x.shape", "x.sigma"]


def test_statements_about_other_bytes_are_left_out_and_named(run, tmp_path):
    small_twin(tmp_path / "twin.gguf", extra=[(name, "str", "said") for name in (*OF_THE_BYTES, *OF_OTHERS)])
    done = run("--dual", "twin.gguf", "--out", "out.gguf", "--variant", "1")
    names = ", ".join(OF_THE_BYTES)
    assert done.stderr == f"prune-dual: twin.gguf: {names}: of that file's bytes, so not in out.gguf\n"
    kept = Gguf.read(tmp_path / "out.gguf").kv
    assert not kept.keys() & {*OF_THE_BYTES}
    assert kept.keys() >= {*OF_OTHERS}
    assert run("--dual", "twin.gguf", "--dry-run").stderr == ""


@pytest.mark.parametrize("alignment", [8, 16, 64])
def test_data_stands_on_32_bytes_at_least(tmp_path, alignment):
    keys = [*twin_keys(GATES[:1]), ("general.alignment", "u32", alignment)]
    tensors = [filled("n", (3,), 0), filled(GATES[0], (256, 3), Q3_K), filled(f"{GATES[0]}.v1", (256, 3), Q4_K)]
    model = pruned(gguf_files.write(tmp_path / "t.gguf", keys, tensors, alignment=alignment), tmp_path / "o", variant=1)
    assert model.get("general.alignment", "u32") == model.alignment == max(32, alignment)
    assert all(tensor.data.offset % max(32, alignment) == 0 for tensor in model.tensors)
    assert [tensor.data.read() for tensor in model.tensors] == [tensors[0].data, tensors[2].data]


def test_a_twin_of_the_first_ones_is_read_and_written_as_today(tmp_path, caplog):
    path = early_twin(tmp_path / "twin.gguf")
    twin = Twin.read(path)
    assert [tensor.type_name for tensor in twin.gguf.tensors] == ["IQ3_A770", "Q4_K"]
    assert twin.gguf.legacy
    model = pruned(path, tmp_path / "out.gguf", variant=0)
    for key in ("iq3_a770.version", "iq3_a770.codebook", "general.tensor_variant.version"):
        assert f"{key!r} is missing" in caplog.text
    assert [(tensor.type, tensor.data.read()) for tensor in model.tensors] == [(770, twin.gguf.tensors[0].data.read())]
    assert model.get("general.file_type", "u32") == 770
    assert model.get("iq3_a770.codebook", "[i8]") == CODEBOOK


def test_a_twin_without_a_version_is_one_of_version_1(tmp_path, caplog):
    keys = twin_keys(GATES[:1], instead={"version": None})
    tensors = [filled(GATES[0], (256, 4), Q3_K), filled(f"{GATES[0]}.v1", (256, 4), Q4_K)]
    twin = Twin.read(gguf_files.write(tmp_path / "twin.gguf", keys, tensors))
    assert "key 'general.tensor_variant.version' is missing, taken as 1" in caplog.text
    assert not twin.gguf.legacy


@pytest.mark.parametrize("keys", [twin_keys(GATES[:1]), IQ3_KEYS, twin_keys([], instead={"version": None}) + IQ3_KEYS])
def test_type_42_is_q2_0_elsewhere(tmp_path, keys):
    tensors = [filled(GATES[0], (256, 4), Q2_0), filled(f"{GATES[0]}.v1", (256, 4), Q4_K)]
    model = Gguf.read(gguf_files.write(tmp_path / "a.gguf", keys, tensors))
    assert [tensor.type_name for tensor in model.tensors] == ["Q2_0", "Q4_K"]
    assert model.tensors[0].nbytes == 4 * 256 // 64 * 18
    assert not model.legacy


def test_early_type_42_in_a_plain_file_needs_telling(tmp_path):
    tensors = [Early("a", (256,)), Raw("b", (256,))]
    path = gguf_files.write(tmp_path / "a.gguf", gguf_files.PLAIN, tensors)
    with pytest.raises(GgufError, match=r"tensor 'b': .*; if its type 42 is IQ3_A770, say --legacy-type-42"):
        Gguf.read(path)
    assert Gguf.read(path, legacy_type_42=True).tensors[0].type == IQ3_A770


@pytest.mark.parametrize("case", BAD_IQ3_A770)
def test_another_iq3_a770_is_refused(tmp_path, case):
    build, words = BAD_IQ3_A770[case]
    path = build(tmp_path / "bad.gguf")
    with pytest.raises(GgufError) as error:
        Twin.read(path)
    for word in (str(path), *words):
        assert word in str(error.value)


def test_type_keys_without_the_type_are_nobodys_business(tmp_path):
    path = small_twin(tmp_path / "twin.gguf", extra=[("iq3_a770.version", "u32", 2)])
    assert len(Twin.read(path).groups) == 4
