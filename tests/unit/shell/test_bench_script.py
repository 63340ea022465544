"""bench-nx2.sh: what it measures in which order, what it makes of failures, and what its row does not tell."""

import json
import shlex
import socket
import sys
from pathlib import Path

import pytest

from phase_twin import arc
from phase_twin.community import Row, read_row
from release_shell import ARC, HEAD, RTX4090, TWIN, UHD, program, run

VERSION = "version: 0.5.0-dev (build 11312, commit 0c1e57098-9d1dcaf8)"
CPU = "Intel(R) Core(TM) i5-8600K CPU @ 3.60GHz"
# a sample for each depth: the number of the call makes the speeds differ
BENCH = r"""
if [[ $1 == --version ]]; then echo '@version@'; exit; fi
if [[ $1 == --list-devices ]]; then cat '@folder@/listing'; exit; fi
echo "${GGML_SYCL_MOE_REORDER-}${GGML_SYCL_MOE_FUSE-}|$*" >>'@folder@/calls'
mapfile -t calls <'@folder@/calls'
[[ $* =~ default=int:([01]) ]]
variant=${BASH_REMATCH[1]}
while (($#)); do
    case $1 in
        -d) IFS=, read -r -a depths <<<"$2" ;;
        -p) prompt=$2 ;;
        -n) gen=$2 ;;
        -t) threads=$2 ;;
    esac
    shift
done
sample() {
    printf '{"cpu_info": "@cpu@", "gpu_info": "all, of them", "model_filename": "/home/somebody/twin.gguf", '
    printf '"n_batch": 2048, "n_ubatch": 512, "n_threads": %s, "type_k": "f16", "type_v": "f16", ' "${threads:-6}"
    printf '"n_gpu_layers": 999, "n_prompt": %s, "n_gen": %s, "n_depth": %s, "avg_ts": %s}\n' "$@"
}
echo 'some message'
for depth in "${depths[@]}"; do
    @fault@
    sample "$prompt" 0 "$depth" "$((100 + ${#calls[@]})).25"
    sample 0 "$gen" "$depth" "$((10 + ${#calls[@]})).5"
done
"""
INFO = r"""
[[ $1 != --list-devices ]] || exit 1
echo 'llama_model_loader: - kv   2:    general.name str    = @name@' >&2
promoted=
[[ $* != *default=int:1* ]] || promoted='"a","b"'
printf '{"file":"%s","variant0_bytes":800,"selected_bytes":%s,"groups":@groups@,"promoted":[%s]}\n' \
    "${@: -1}" "$((800 + ${#promoted}))" "$promoted"
"""


@pytest.fixture
def engine(fakes):
    """Fake programs of the engine; `fault` is what llama-bench does before a sample at $depth of $variant."""
    (fakes / "python3").symlink_to(sys.executable)

    def make(
        *cards: tuple[str, str], fault: str = ":", name: str = "Some-Model", groups: int = 2, cpu: str = CPU
    ) -> Path:
        (fakes / "listing").write_text(HEAD + "".join(f"  {device}: {card}\n" for device, card in cards))
        values = {"version": VERSION, "folder": fakes, "cpu": cpu, "fault": fault, "name": name, "groups": groups}
        for tool, body in (("llama-bench", BENCH), ("llama-variant-info", INFO)):
            for word, value in values.items():
                body = body.replace(f"@{word}@", str(value))
            program(fakes, tool, body)
        program(fakes, "sycl-ls", "echo '[level_zero:gpu][level_zero:0] Level-Zero, Intel(R) Arc(TM) [1.3.27642]'")
        program(fakes, "nvidia-smi", "[[ $1 != --query-gpu=* ]] || echo 570.86.10")
        return fakes / "calls"

    return make


def bench(release: Path, fakes: Path, *arguments: str, **env: str) -> Row:
    out = release / "a row.json"
    done = run(release / "bench-nx2.sh", "--out", str(out), *arguments, path=fakes, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: ")
    return read_row(out)


def medians(row: Row) -> list[float | None]:
    return [figure.t_s for figure in row.figures]


def test_phases_and_paths_are_measured_in_turns(release, fakes, engine):
    calls = engine(("SYCL0", UHD), ("SYCL1", ARC), ("SYCL2", ARC))
    # what the user's shell sets does not matter
    row = bench(release, fakes, "--depths", "0", GGML_SYCL_MOE_REORDER="0", GGML_SYCL_MOE_FUSE="0")
    made = [line.partition("|") for line in calls.read_text().splitlines()]
    small, large = ("general.tensor_variant.default=int:0", "general.tensor_variant.default=int:1")
    order = [(small, "11"), (small, "00"), (large, "11"), (large, "00")]
    back = [(small, "00"), (small, "11"), (large, "00"), (large, "11")]
    assert [
        (variant in words, switches) for (switches, _, words), (variant, _) in zip(made, order * 3, strict=True)
    ] == [(True, switches) for _, switches in order + back + order]
    assert all(words.endswith("-p 512 -n 128 -d 0 -r 1 -o jsonl") for *_, words in made)
    # calls 1, 6, 9; 2, 5, 10; 3, 8, 11; 4, 7, 12
    assert medians(row) == [106.25, 16.5, 105.25, 15.5, 108.25, 18.5, 107.25, 17.5]
    assert row.figures[0].samples == [101.25, 106.25, 109.25]
    assert [(figure.variant, figure.path, figure.test) for figure in row.figures[2:5]] == [
        (0, "dormant", "pp512"),
        (0, "dormant", "tg128"),
        (1, "live", "pp512"),
    ]


def test_the_row_says_on_what(release, fakes, engine):
    engine(("SYCL0", UHD), ("SYCL1", ARC), ("SYCL2", ARC))
    (release / ".self-test").write_text(
        "passed engine: 0c1e57098-9d1dcaf8; card: SYCL1 Intel(R) Arc(TM) A770 Graphics; "
        "card: SYCL2 Intel(R) Arc(TM) A770 Graphics; driver: 1.3.27642\n"
    )
    row = bench(release, fakes, "--depths", "0", "--threads", "4")
    assert row.engine.model_dump() == {"base": "0c1e57098", "patch": "9d1dcaf8"}
    machine = row.machine
    assert (machine.backend, machine.driver, machine.cpu, machine.self_test) == ("SYCL", "1.3.27642", CPU, "passed")
    assert (row.settings.n_threads, row.settings.n_gpu_layers, row.settings.rounds) == (4, 999, 3)
    arc_card = "Intel(R) Arc(TM) A770 Graphics"
    assert [phase.model_dump() for phase in row.phases] == [
        {"variant": 0, "groups": 2, "promoted": 0, "bytes": 800, "devices": [arc_card]},
        {"variant": 1, "groups": 2, "promoted": 2, "bytes": 807, "devices": [arc_card] * 2},
    ]


def test_a_backend_with_one_path_has_one(release, fakes, engine):
    calls = engine(("CUDA0", RTX4090))
    row = bench(release, fakes, "--depths", "0", "--sm", "on")
    assert (row.settings.paths, row.machine.backend, row.machine.driver) == (["live"], "CUDA", "570.86.10")
    assert len(calls.read_text().splitlines()) == 3
    assert [phase.variant for phase in row.phases] == [1]


def test_on_the_cpu_dormant_is_not_repacked(release, fakes, engine):
    calls = engine()
    row = bench(release, fakes, "--depths", "0", "--prompt", "16", "--gen", "4", "--sm", "off")
    assert [line.partition("--repack ")[2] for line in calls.read_text().splitlines()] == list("100110")
    assert "-p 16 -n 4 " in calls.read_text()
    assert (row.machine.backend, row.machine.driver, row.phases[0].devices) == ("CPU", None, [CPU])
    assert row.settings.tests == ["pp16", "tg4"]


def test_named_devices_are_taken(release, fakes, engine):
    calls = engine(("SYCL0", ARC), ("SYCL1", UHD))
    row = bench(release, fakes, "--depths", "0", "--sm", "off", "--dev", "SYCL1,SYCL0")
    assert row.phases[0].devices == ["Intel(R) UHD Graphics 770"]
    assert all(line.endswith("-dev SYCL1/SYCL0") for line in calls.read_text().splitlines())


FAULT = """if ((variant == 1 && depth >= {})); then
        echo "llama_bench: error: {} with model '/home/somebody/twin.gguf'" >&2
        exit 1
    fi"""


def test_a_depth_without_room_says_so_and_all_else_is_measured(release, fakes, engine):
    calls = engine(("CUDA0", RTX4090), fault=FAULT.format(4096, "failed to create context"))
    row = bench(release, fakes)
    large = [figure for figure in row.figures if figure.variant == 1]
    assert [figure.error for figure in large] == [
        *(None, None, "the context could not be made", "the context could not be made"),
        *["a smaller depth failed"] * 2,
    ]
    assert large[0].samples == [102.25, 104.25, 106.25]
    assert all(figure.t_s for figure in row.figures if figure.variant == 0)
    asked = [words.split()[words.split().index("-d") + 1] for words in calls.read_text().splitlines()]
    assert asked == ["0,4096,32768", "0,4096,32768", "0,4096,32768", "0", "0,4096,32768", "0"]


def test_a_phase_that_does_not_load_is_told(release, fakes, engine):
    calls = engine(("CUDA0", RTX4090), fault=FAULT.format(0, "failed to load model"))
    row = bench(release, fakes, "--depths", "0,64")
    assert [figure.error for figure in row.figures[4:]] == [
        *["the weights did not load"] * 2,
        *["a smaller depth failed"] * 2,
    ]
    assert len(calls.read_text().splitlines()) == 4  # it is tried once


def test_a_failure_in_a_later_round_leaves_no_figure(release, fakes, engine):
    engine(("CUDA0", RTX4090), fault="((${#calls[@]} < 3 || depth < 64)) || kill -SEGV $$")
    row = bench(release, fakes, "--depths", "0,64", "--sm", "off")
    assert [figure.error for figure in row.figures] == [None, None, "the program failed", "the program failed"]


def test_nothing_measured_is_no_row(release, fakes, engine):
    engine(("CUDA0", RTX4090), fault="exit 3")
    done = run(release / "bench-nx2.sh", "--out", str(release / "row.json"), path=fakes)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "bench-nx2.sh: nothing could be measured; the lines above tell why"
    assert not (release / "row.json").exists()


def test_a_program_that_hangs_is_ended(bench_nx2, tmp_path, monkeypatch):
    sample = {"n_prompt": 0, "n_gen": 128, "n_depth": 0, "avg_ts": 5.5}
    lines = [json.dumps(sample), json.dumps(sample | {"n_prompt": 512, "n_gen": 0})]
    program(tmp_path, "run-nx2.sh", f"printf '%s\\n' {shlex.join(lines)}\nexec sleep 60")
    monkeypatch.setattr(bench_nx2, "HERE", tmp_path)
    monkeypatch.setattr(bench_nx2, "LIMIT_S", 0.5)
    bench = bench_nx2.Bench([0, 64, 128], 3, 512, 128, [], {"live": ({}, [])})
    bench.take("off", "live")
    assert bench.samples == {("off", "live", 0, "pp512"): [5.5], ("off", "live", 0, "tg128"): [5.5]}
    assert bench.failed == {("off", "live", 64): bench_nx2.SLOW, ("off", "live", 128): bench_nx2.DEEPER}


def test_an_interruption_writes_nothing(release, fakes, engine):
    engine(("CUDA0", RTX4090), fault="kill -INT $PPID; sleep 5")
    done = run(release / "bench-nx2.sh", "--out", str(release / "row.json"), path=fakes)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "bench-nx2.sh: interrupted, nothing was written")
    assert not list(release.glob("*row.json*"))


def test_a_plain_file_has_no_phases(release, fakes, engine, tmp_path):
    engine(("CUDA0", RTX4090), groups=0)
    fit = tmp_path / "fit.gguf"
    fit.write_bytes(b"GGUF")
    row = bench(release, fakes, "--depths", "0", NX2_MODEL=str(fit))
    assert [phase.variant for phase in row.phases] == [None]
    assert (row.file.bytes, row.file.sha256_from) == (4, "file")


def test_the_hash_is_that_of_the_manifest_where_the_file_has_its_size(release, fakes, engine):
    engine(("CUDA0", RTX4090))
    own = "13d8aa5b6d6bd16bf34e4dfdbbdbfab6cd1d9bb2cb7a1d14f0dfa0ea0c1d1d75"
    for entry, source in (
        ({"name": TWIN, "bytes": 4, "sha256": own}, "manifest.json"),
        ({"name": TWIN, "bytes": 5, "sha256": own}, "file"),
        ({"name": "other.gguf", "bytes": 4, "sha256": own}, "file"),
        ({"name": TWIN}, "file"),
    ):
        (release / "manifest.json").write_text(json.dumps({"files": [entry]}))
        row = bench(release, fakes, "--depths", "0", "--sm", "off")
        assert row.file.sha256_from == source
        assert (row.file.sha256 == own) == (source == "manifest.json")
        (release / "a row.json").unlink()


@pytest.mark.parametrize("name", ["/home/somebody/Some-Model", "~/model", "C:\\Users\\somebody", "me@example.org"])
def test_the_row_tells_no_name_and_no_place(release, fakes, engine, name):
    engine(
        ("CUDA0", "/home/somebody/card (24077 MiB, 23600 MiB free)"),
        fault=FAULT.format(64, "failed to create context"),
        name=name,
        cpu="~/somebody",
    )
    home = fakes.parent / "somebody"
    home.mkdir()
    row = bench(release, fakes, "--depths", "0,64", HOME=str(home), USER="somebody", HOSTNAME="some-host")
    assert (row.file.name, row.machine.cpu, row.phases[0].devices) == (None, None, ["unknown"])
    text = (release / "a row.json").read_text()
    for word in ("somebody", "some-host", socket.gethostname(), str(release), TWIN, "example.org", "/", "\\\\"):
        assert word not in text, word


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sm", "auto"], "--sm is 'auto'; it can be off or on"),
        (["--depths", "0,x"], "--depths is '0,x'; it must be numbers such as 0,4096"),
        (["--depths", "64,0"], "--depths is '64,0'; it must be numbers such as 0,4096"),
        (["--depths", "64,64"], "--depths is '64,64'; it must be numbers in ascending order"),
        (["--rounds", "4"], "--rounds is '4'; it must be an odd number from 3 to 99"),
        (["--rounds", "1"], "--rounds is '1'; it must be an odd number from 3 to 99"),
        (["--prompt", "0"], "--prompt is '0'; it must be a number from 1 on"),
        (["--threads", "all"], "--threads is 'all'; it must be a number from 1 on"),
        (["--dev", "-m"], "--dev is '-m'; it must be names such as SYCL0,SYCL1"),
        (["--out", "none/row.json"], "the folder of none/row.json does not exist"),
    ],
)
def test_options_that_are_wrong(release, fakes, engine, arguments, line):
    engine()
    done = run(release / "bench-nx2.sh", *arguments, path=fakes)
    assert (done.returncode, done.stderr) == (1, f"bench-nx2.sh: {line}\n")


def test_what_is_there_stays(release, fakes, engine):
    engine()
    out = release / "row.json"
    out.write_text("mine")
    done = run(release / "bench-nx2.sh", "--out", str(out), path=fakes)
    assert done.returncode == 1
    assert done.stderr.endswith("is there already; remove it or choose another name with --out\n")
    assert out.read_text() == "mine"


def test_without_what_it_needs_one_line_says_so(release, fakes, engine):
    engine()
    (release / TWIN).unlink()
    done = run(release / "bench-nx2.sh", path=fakes)
    assert done.stderr.splitlines()[-1].startswith(f"bench-nx2.sh: run-nx2.sh: no model at {release / TWIN}")
    (fakes / "python3").unlink()
    done = run(release / "bench-nx2.sh", path=fakes)
    assert (done.returncode, done.stderr.startswith("bench-nx2.sh: Python 3.11 or newer is needed")) == (1, True)


def test_both_paths_of_a_card_are_those_of_bench_arc(bench_nx2):
    for path, (env, switches) in bench_nx2.PATHS["SYCL"].items():
        assert env.items() <= arc.MODES[path].items()
        assert switches == []
