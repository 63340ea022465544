"""The release folder and its model card."""

import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import make_release
from community_rows import a_row
from gguf_files import nested_twin, small_twin
from phase_twin.errors import UserError
from phase_twin.files import write_digest
from phase_twin.sources import load_sources
from prune_dual import Gguf, GgufError, Manifest, Twin, hash_gguf

ROOT = Path(__file__).parents[2]
TWIN = "Some-Model-twin.gguf"
QUALITY = [
    {
        "file": f"results/some/{TWIN}", "label": "variant-0", "bytes": 16106127360, "bpw_experts": 3.1875,
        "reference": "BF16", "chunks": 123, "n_ctx": 517, "kld_mean": 0.051234, "kld_mean_err": 0.000612,
        "kld_p999": 1.7654, "kld_median": 0.020913, "top1": 89.123, "top1_err": 0.187, "ppl_ratio": 1.01734,
        "ppl_ratio_err": 0.00219,
    },
    {
        "file": f"results/some/{TWIN}", "label": "variant-1", "bytes": 20186346291, "bpw_experts": 4.5,
        "reference": "BF16", "chunks": 123, "n_ctx": 517, "kld_mean": 0.024567, "kld_mean_err": 0.000345,
        "kld_p999": 0.8765, "kld_median": 0.010876, "top1": 93.456, "top1_err": 0.143, "ppl_ratio": 1.00246,
        "ppl_ratio_err": 0.00133,
    },
    {
        "file": "results/some/Some-Model-16gib.gguf", "label": "16gib", "bytes": 16535624089, "bpw_experts": 3.2934,
        "reference": "BF16", "chunks": 123, "n_ctx": 517, "kld_mean": 0.046789, "kld_mean_err": 0.000567,
        "kld_p999": 1.5432, "kld_median": 0.019321, "top1": 90.234, "top1_err": 0.176, "ppl_ratio": 1.01467,
        "ppl_ratio_err": 0.00208,
    },
    {
        "file": "resources/some/Some-Model-study-q3_k.gguf", "label": "q3_k", "bytes": 16944125812,
        "bpw_experts": 3.4375, "reference": "BF16", "chunks": 123, "n_ctx": 517, "kld_mean": 0.061357,
        "kld_mean_err": 0.000713, "kld_p999": 1.9135, "kld_median": 0.025791, "top1": 88.024, "top1_err": 0.195,
        "ppl_ratio": 1.02468, "ppl_ratio_err": 0.00236,
    },
]  # fmt: skip
for number, row in enumerate(QUALITY, 1):
    row |= {"kld_99": row["kld_p999"] / 3.1, "kld_max": row["kld_p999"] * 2.7, "difference": None}
    row["chunks_asked"] = row["chunks"]
    if row["label"] != "q3_k":
        apart = {"diff": -0.00871 * number, "err": 0.00197, "z": -4.42 * number}
        better = {"diff": 1.127 * number, "err": 0.238, "z": 4.74 * number}
        row["difference"] = {"to": "q3_k", "kld_mean": apart, "top1": better}
SPEED = [
    {"file": f"results/some/{TWIN}", "label": "variant-0", "backend": "CPU", "device": "Some CPU | 2 cores",
     "test": "pp512", "depth": 600, "t_s": 41.277, "stddev": 0.933},
    {"file": "results/some/Some-Model-16gib.gguf", "label": "16gib", "backend": "SYCL", "device": "Some card",
     "test": "tg128", "depth": 4096, "t_s": 77.345, "stddev": 1.288},
]  # fmt: skip
TYPES = [
    {"gate": {"IQ3_A770": 2}, "up": {"IQ3_A770": 2}, "down": {"Q3_K": 2}, "rest": {"F32": 9, "Q6_K": 8}},
    {"gate": {"Q4_K": 2}, "up": {"Q4_K": 2}, "down": {"Q5_K": 2}, "rest": {"F32": 9, "Q6_K": 8}},
]
PICTURES = ("curve.png", "quality.png")
SELECTION = {"budget_bytes": 16535986176, "variant0_bytes": 16106127360, "selected_bytes": 16535624089,
             "promoted": ["blk.0.ffn_down_exps.weight", "blk.1.ffn_down_exps.weight"]}  # fmt: skip
CALIBRATION = {"experts": 512, "without_data": 0, "layers": [], "chunks": 140, "chunks_asked": None, "n_ctx": 512}
PROVENANCE = {"pipeline_version": "0.1.0", "imatrix_sha256": "ab" * 32}


class Named(SimpleNamespace):
    """As much of Snakemake's named lists as the script uses."""

    def get(self, key, default=None):
        return getattr(self, key, default)


@pytest.fixture
def rule(tmp_path):
    """What Snakemake would hand to the script."""
    made = tmp_path / "some"
    made.mkdir()
    small_twin(made / TWIN, groups=1)
    tensors = hash_gguf(Gguf.read(made / TWIN))[1]
    verified = {"tensors": {name: {"sha256": one} for name, one in tensors.items()}, "types": TYPES}
    (made / "verify.json").write_text(json.dumps(verified))
    (made / "calibration.json").write_text(json.dumps(CALIBRATION))
    (made / "mmproj.gguf").write_bytes(b"GGUF mmproj")
    write_digest(made / "mmproj.gguf", made / "mmproj.sha256")
    (made / "curve.json").write_text('{"order": "measured"}\n')
    for picture in PICTURES:
        (made / picture).write_bytes(b"PNG")
    for name, data in {"quality": QUALITY, "speed": SPEED, "16gib": SELECTION, "provenance": PROVENANCE}.items():
        (made / f"{name}.json").write_text(json.dumps(data))
    for number in (1, 2):
        (made / f"{number}.patch").write_text(f"--- a/{number}\n")
    return SimpleNamespace(
        input=Named(
            twin=str(made / TWIN),
            verified=str(made / "verify.json"),
            mmproj=str(made / "mmproj.gguf"),
            mmproj_digest=str(made / "mmproj.sha256"),
            quality=str(made / "quality.json"),
            speed=str(made / "speed.json"),
            calibration=str(made / "calibration.json"),
            provenance=str(made / "provenance.json"),
            curve=str(made / "curve.json"),
            pictures=[str(made / picture) for picture in PICTURES],
            pruned=[str(made / "Some-Model-16gib.gguf")],
            selections=[str(made / "16gib.json")],
            patches=[str(made / "2.patch"), str(made / "1.patch")],
            templates=[str(path) for path in (ROOT / "release").iterdir()],
            prune_tool=[str(ROOT / "scripts/prune-dual.py")],
            license=str(ROOT / "LICENSE"),
            community=[],
        ),
        params=Named(
            model={"title": "Some-Model", "license": "Apache-2.0", "repo": "someone/Some-Model"},
            engine=load_sources(ROOT / "config/sources.yaml").engine.model_dump(),
            variants={
                "siblings": [
                    {"gate": "IQ3_A770", "up": "IQ3_A770", "down": "Q3_K", "rest": "Q6_K"},
                    {"gate": "Q4_K", "up": "Q4_K", "down": "Q5_K", "rest": "Q6_K"},
                ],
                "nested": [
                    dict.fromkeys(("gate", "up", "down"), kind) | {"rest": "Q6_K"} for kind in ("IQ3_A770", "IQ4_A770")
                ],
            },
            stock={"q3_k": {"gate": "Q3_K", "up": "Q3_K", "down": "Q3_K", "rest": "Q6_K"}},
            targets=[{"name": "16gib", "vram_gib": 16.0, "reserve_gib": 0.5, "ctx": 8192, "budget_mb": None}],
            texts={"calibration": "calibration_datav3", "evaluation": "wikitext2_test"},
            release={"sign": None, "repo": None},
        ),
        output=SimpleNamespace(sums=str(tmp_path / "release/SHA256SUMS")),
    )


def folder_of(rule) -> Path:
    return Path(rule.output.sums).parent


def card_of(rule) -> str:
    make_release.main(rule)
    return (folder_of(rule) / "README.md").read_text()


@pytest.mark.parametrize("make", [small_twin, nested_twin])
def test_the_card_tells_how_the_phases_are_stored(rule, make):
    path = Path(rule.input.twin)
    path.unlink()
    make(path, groups=1)
    tensors = hash_gguf(Gguf.read(path))[1]
    set_value(rule.input.verified, lambda report: report.update(tensors={n: {"sha256": s} for n, s in tensors.items()}))
    card = card_of(rule)
    nested = make is nested_twin
    assert ("stored at 3 bits (variant 0), with a plane that makes 4 of them" in card) == nested
    assert ("Every routed expert is stored twice" in card) != nested
    assert ("`770` to `772`" in card, "It\n  runs in stock llama.cpp" in card) == (nested, not nested)


@pytest.mark.parametrize("why", ["siblings: the refined one loses", None])
def test_the_card_tells_where_the_4_bit_phase_stands(rule, tmp_path, why):
    assert "Where the 4-bit phase stands" not in card_of(rule)
    rows = [QUALITY[1] | {"label": name, "difference": None} for name in ("IQ4_A770", "Q4_K, error feedback")]
    apart = {"diff": 0.00132, "err": 0.00021, "z": 6.3}
    rows[1]["difference"] = {"to": "IQ4_A770", "kld_mean": apart, "top1": apart | {"diff": -0.413, "z": -2.2}}
    kinds = {"rows": rows, "margin": 0.05, "excess": apart} | ({"why": why} if why else {})
    rule.input.kinds = str(tmp_path / "kinds.json")
    Path(rule.input.kinds).write_text(json.dumps(kinds))
    card = card_of(rule)
    part = card[card.index("## Where the 4-bit phase stands") : card.index("## Files cut to a card")]
    assert "| Q4_K, error feedback | 18.80 GiB | 4.500 |" in part
    assert "| +0.00132 ± 0.00021, worse | -0.41 ± 0.00, worse |" in part
    assert ("Chosen was siblings: the refined one loses." in part) == bool(why)


def set_value(path: str, edit) -> None:
    data = json.loads(Path(path).read_text())
    edit(data)
    Path(path).write_text(json.dumps(data))


def test_the_folder_is_complete(rule):
    make_release.main(rule)
    release = folder_of(rule)
    files = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert files == {
        TWIN, "mmproj.gguf", "build/llama.cpp-turbo-phase-twin.patch", "build/build.sh", "build/BUILD.md", "run-nx2.sh",
        "install-nx2.sh", "bench-nx2.sh", "bench-nx2.py", "prune-dual.py", "LICENSE", "LICENSE-tools", "NOTICE",
        "README.md", "SHA256SUMS",
        "curve.json", "manifest.json", "CITATION.cff", *PICTURES,
    }  # fmt: skip
    assert (release / TWIN).samefile(rule.input.twin)  # a hard link, not another 34 GiB
    assert (release / "build/llama.cpp-turbo-phase-twin.patch").read_text() == "--- a/2\n--- a/1\n"
    assert "Apache License" in (release / "LICENSE").read_text()
    assert "MIT License" in (release / "LICENSE-tools").read_text()
    assert not release.with_name("release.partial").exists()
    for program in (*(name for name in files if name.endswith((".sh", ".py"))), "build/build.sh"):
        assert os.access(release / program, os.X_OK)
    for text in files - {TWIN, "mmproj.gguf", "prune-dual.py", *PICTURES}:
        content = (release / text).read_text()
        assert "{{" not in content
        assert "{%" not in content
    notice = (release / "NOTICE").read_text()
    for origin in ("someone", "Qwen", "llama.cpp", "k-quants", "NormalFloat", "calibration_datav3", "WikiText-2"):
        assert origin in notice


def test_what_the_environment_holds_stays_out_of_it(rule, monkeypatch):
    for name in ("HF_TOKEN", "MINISIGN_PASSWORD"):
        monkeypatch.setenv(name, "marked_secret")
    make_release.main(rule)
    for path in folder_of(rule).rglob("*"):
        assert path.is_dir() or b"marked_secret" not in path.read_bytes()


def test_checksums_verify(rule):
    make_release.main(rule)
    command = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=folder_of(rule), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 19
    (folder_of(rule) / "NOTICE").write_text("changed")
    assert subprocess.run(command, cwd=folder_of(rule), capture_output=True).returncode == 1


def test_manifest_lists_every_file_and_tensor(rule):
    make_release.main(rule)
    release = folder_of(rule)
    manifest = Manifest.parse((release / "manifest.json").read_bytes(), "manifest.json")
    sums = dict(reversed(line.split("  ")) for line in (release / "SHA256SUMS").read_text().splitlines())
    del sums["manifest.json"]
    assert {file.name: file.sha256 for file in manifest.files} == sums
    assert all((release / file.name).stat().st_size == file.bytes for file in manifest.files)
    assert manifest.twin == TWIN
    twin = Twin.read(release / TWIN).gguf
    assert [[entry.sha256 for entry in parts] for parts in manifest.expected(twin, twin.tensors)] == [
        [hashlib.sha256(tensor.data.read()).hexdigest()] for tensor in twin.tensors
    ]
    # other readers need no more than JSON
    data = json.loads((release / "manifest.json").read_text())
    assert data["twin"]["tensors"][2] == {
        "name": "blk.0.ffn_gate_exps.weight.v1", "type": "Q8_0", "shape": [256, 64, 160],
        "offset": twin.tensors[2].data.offset, "nbytes": twin.tensors[2].nbytes,
        "sha256": manifest.tensors[2].sha256, "variant": 1, "rank": 0,
    }  # fmt: skip


def test_the_twin_is_read_once_for_its_hashes(rule, monkeypatch):
    hashed = []
    monkeypatch.setattr(make_release, "sha256_file", lambda path: hashed.append(path.name) or "0" * 64)
    make_release.main(rule)
    assert TWIN not in hashed
    assert len(hashed) == len(set(hashed)) == 18


def test_a_second_run_gives_the_same_bytes(rule, tmp_path):
    make_release.main(rule)
    first = (folder_of(rule) / "SHA256SUMS").read_text()
    make_release.main(rule)  # over the first
    assert (folder_of(rule) / "SHA256SUMS").read_text() == first


def test_a_release_on_another_file_system_is_copied(rule, monkeypatch):
    def link(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(make_release.os, "link", link)
    make_release.main(rule)
    placed = folder_of(rule) / TWIN
    assert placed.read_bytes() == Path(rule.input.twin).read_bytes()
    assert not placed.samefile(rule.input.twin)


NUMBERS = [
    *(("quality", row, key) for row in range(4) for key, value in QUALITY[0].items() if isinstance(value, int | float)),
    *(
        ("quality", row, ("difference", key, part))
        for row in range(3)
        for key in ("kld_mean", "top1")
        for part in ("diff", "err")
    ),
    *(("speed", row, key) for row in range(2) for key in ("t_s", "stddev", "depth")),
    *(("selections", None, key) for key in ("budget_bytes", "selected_bytes")),
]


def test_every_number_of_the_results_is_in_the_card(rule):
    before = card_of(rule)
    for source, row, key in NUMBERS:
        path = rule.input.selections[0] if source == "selections" else getattr(rule.input, source)
        original = Path(path).read_bytes()

        def grow(data, row=row, key=key):
            part = data if row is None else data[row]
            *folders, key = key if isinstance(key, tuple) else (key,)
            for folder in folders:
                part = part[folder]
            part[key] = type(part[key])(part[key] * 2)

        set_value(path, grow)
        after = card_of(rule)
        assert after != before, f"{source} {row} {key} is not in the card"
        Path(path).write_bytes(original)
    assert card_of(rule) == before


def test_the_tables_of_the_card_hold_no_number_typed_by_hand():
    """Without its expressions, a table row of the template has no digit; headings are exempt."""
    template = (ROOT / "release/model_card.md.j2").read_text()
    lines = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", template).splitlines()
    headings = {number - 1 for number, line in enumerate(lines) if line.startswith("|--")}
    names = re.compile(r"SHA256SUMS|SHA-256|sha256sum|(run|install|bench)-nx2\.(sh|py)")
    for number, line in enumerate(lines):
        if line.startswith("|") and number not in headings:
            assert not re.search(r"\d", names.sub("", line)), line


def n_weights(twin: str) -> int:
    return sum(tensor.n_elements for tensor in Twin.read(twin).gguf.tensors if not tensor.name.endswith(".v1"))


def test_no_number_of_the_card_is_typed_by_hand(rule):
    """Other results, other numbers: what both cards share outside of code and names is known, and measures nothing."""

    def numbers(card: str) -> set[str]:
        text = card.split("---\n", 2)[2]
        for pattern in (r"```.*?```", r"`[^`]*`", r"\b(I?Q|B?F)\d\w*", r"\S+\.(gguf|png)\b"):
            text = re.sub(pattern, "", text, flags=re.DOTALL)
        return set(re.findall(r"\d+(?:\.\d+)?", text))

    first = numbers(card_of(rule))

    def move(value):
        if isinstance(value, dict):
            return {key: move(one) for key, one in value.items()}
        if isinstance(value, list):
            return [move(one) for one in value]
        return value if value is None or isinstance(value, str) else value * 3 + 1

    for path, rows in ((rule.input.quality, QUALITY), (rule.input.speed, SPEED)):
        # speeds that are figures: their deviations stay small
        moved = [move(row) | ({"stddev": 1.234} if "stddev" in row else {}) for row in rows]
        Path(path).write_text(json.dumps(moved))
    moved = {key: value if isinstance(value, list) else value * 3 + 1 for key, value in SELECTION.items()}
    Path(rule.input.selections[0]).write_text(json.dumps(moved | {"promoted": moved["promoted"] * 11}))
    set_value(rule.input.verified, lambda report: report.update(types=move(TYPES)))
    set_value(rule.input.calibration, lambda found: found.update(chunks=39, n_ctx=640))
    with open(rule.input.mmproj, "ab") as file:
        file.write(bytes(2**20))
    write_digest(rule.input.mmproj, rule.input.mmproj_digest)
    second = numbers(card_of(rule))
    assert len(first - second) > 50
    # variants 0 and 1, 3-bit, the quantiles, SHA-256, the licence and its section, names of targets and tests
    known = {"0", "1", "2", "3", "99", "99.9", "256", "2.0", "4", "16", "512", "128"}
    twin = {f"{os.path.getsize(rule.input.twin) / 2**20:.2f}", f"{n_weights(rule.input.twin) / 1e6:.1f}"}
    assert first & second <= known | twin


def test_the_card_shows_rows_of_its_own_file(rule, tmp_path):
    """Of others, and of how experts are computed where one asks for it, it shows nothing."""
    card = card_of(rule)
    assert "reported" not in card
    mine = {"sha256": hashlib.sha256(Path(rule.input.twin).read_bytes()).hexdigest()}
    for name, status, file in (("mine", "verified", mine), ("other", "reported", {})):
        path = tmp_path / f"community/{status}/{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(a_row(file=file, machine={"driver": f"1.3.{len(name)}"})))
        rule.input.community.append(str(path))
    lines = [line for line in card_of(rule).splitlines() if "| verified" in line or "| reported" in line]
    card = "Intel(R) Arc(TM) A770 Graphics"
    nothing = "the context could not be made"
    assert lines == [
        f"| verified | {card} | SYCL 1.3.4 | small | 0 | pp512, tg128 | 600.50 ± 0.50 | 80.20 ± 0.15 |",
        f"| verified | {card} | SYCL 1.3.4 | small | 4096 | pp512, tg128 | {nothing} | {nothing} |",
    ]


def test_the_card_reads_well(rule):
    card = card_of(rule)
    front = card.split("---\n")[1]
    assert "base_model:\n- someone/Some-Model\nbase_model_relation: quantized\nlicense: apache-2.0\n" in front
    assert "pipeline_tag: image-text-to-text" in front
    assert "\n\n\n" not in card
    assert "| small phase (variant 0) | 15.00 GiB | 3.188 | 0.05123 ± 0.00061 |" in card
    assert "On Some CPU | 2 cores (CPU), all files side by side:" in card
    assert "| stock Q3_K | 15.78 GiB | 3.438 |" in card
    assert "| large phase (variant 1) | -0.01742 ± 0.00197, better | +2.25 ± 0.24, better |" in card
    assert "| small phase (variant 0) | 15.00 GiB | 0.0512 ± 0.0006 | -0.0087 ± 0.0020, better | 89.1 % |" in card
    assert "| cut to 16gib | tg128 | 4096 | 77.34 ± 1.29 |" in card or "| 77.35 ± 1.29 |" in card
    forms = [line for line in card.splitlines() if line.startswith("| ") and "`./" in line]
    assert [line.split("|")[1].strip() for line in forms] == [
        "small phase (variant 0)",
        "cut to 16gib",
        "large phase (variant 1)",
    ]
    assert forms[1].endswith("| `./install-nx2.sh --vram-gib 16 --ctx 8192` |")
    assert "| Some-Model-16gib.gguf | `--vram-gib 16 --ctx 8192` | 15.40 GiB | 15.40 GiB | 2 |" in card
    widths = [line.count("|") - line.count("\\|") for line in card.splitlines()]
    for number, line in enumerate(card.splitlines()):
        if line.startswith("|--"):  # a table is as wide as its heading
            row = number - 1
            while card.splitlines()[row : row + 1] and card.splitlines()[row].startswith("|"):
                assert widths[row] == widths[number], card.splitlines()[row]
                row += 1


def test_what_was_made_otherwise_than_asked(rule):
    card = card_of(rule)
    assert "| small (variant 0) | IQ3_A770 | IQ3_A770 | Q3_K | Q6_K |" in card
    assert "- large phase: gate 2 Q4_K; up 2 Q4_K; down 2 Q5_K; everything else 9 F32, 8 Q6_K\n" in card
    assert "saw no token" not in card
    set_value(rule.input.verified, lambda report: report["types"][0].update(down={"IQ4_NL": 2}))
    set_value(rule.input.calibration, lambda found: found.update(without_data=3))
    card = card_of(rule)
    assert "| small (variant 0) | IQ3_A770 | IQ3_A770 | 2 IQ4_NL, not Q3_K | Q6_K |" in card
    assert "\n3 of 512 experts saw no token of the calibration text; they are quantized without data.\n" in card


def test_a_model_without_a_repository_or_vision(rule):
    rule.params.model["repo"] = None
    rule.params.model["license"] = "MIT"
    rule.params.targets = rule.input.pruned = rule.input.selections = []
    del rule.input.mmproj
    card = card_of(rule)
    assert "base_model" not in card
    assert "pipeline_tag: text-generation" in card
    assert "cut to a card" not in card
    release = folder_of(rule)
    assert (release / "LICENSE").read_bytes() == (release / "LICENSE-tools").read_bytes()


def test_a_speed_that_did_not_settle_is_no_figure(rule):
    set_value(rule.input.speed, lambda rows: rows[0].update(t_s=65.4, stddev=100.1))
    card = card_of(rule)
    assert "| small phase (variant 0) | pp512 | 600 | not settled |" in card
    assert "65.4" not in card
    assert "100.1" not in card


def test_a_difference_below_two_errors_is_none(rule):
    set_value(rule.input.quality, lambda rows: rows[2]["difference"]["kld_mean"].update(z=-1.9))
    assert "| cut to 16gib | -0.02613 ± 0.00197, not told apart |" in card_of(rule)


def test_a_card_without_a_row_to_compare_to(rule):
    set_value(rule.input.quality, lambda rows: [row.update(difference=None) for row in rows])
    card = card_of(rule)
    assert "beside stock" not in card
    assert "| form | weights | mean KLD | same top token | start it with |" in card


def test_a_text_with_fewer_chunks_than_asked_for_is_told(rule):
    assert "Against BF16, 123 chunks of 517 tokens of wikitext2_test." in card_of(rule)
    assert "importance matrix from calibration_datav3:\n140 chunks of 512 tokens.\n" in card_of(rule)
    set_value(rule.input.quality, lambda rows: [row.update(chunks_asked=400) for row in rows])
    set_value(rule.input.calibration, lambda found: found.update(chunks_asked=200))
    card = card_of(rule)
    assert "123 chunks of 517 tokens (400 were asked for, the text has no more) of wikitext2_test." in card
    assert "calibration_datav3:\n140 chunks of 512 tokens (200 were asked for, the text has no more).\n" in card


def test_results_measured_in_two_settings_are_two_tables(rule):
    set_value(rule.input.quality, lambda rows: rows[2].update(chunks=20))
    card = card_of(rule)
    assert "Against BF16, 123 chunks" in card
    assert "Against BF16, 20 chunks" in card


def flip_last(path: str) -> None:
    """Change one bit of the last byte; in a copy, for a release may be linked to the file."""
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).unlink()
    Path(path).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rule: Path(rule.input.twin).unlink(), r"Some-Model-twin\.gguf: No such file"),
        (lambda rule: Path(rule.input.quality).unlink(), r"cannot read .*quality\.json: No such file"),
        (lambda rule: Path(rule.input.patches[0]).unlink(), r"cannot read .*2\.patch: No such file"),
        (lambda rule: Path(rule.input.speed).write_text("[{"), r"speed\.json: not JSON"),
        (
            lambda rule: set_value(rule.input.quality, lambda rows: rows[1].pop("top1")),
            r"quality\.json: 1\.top1: field",
        ),
        (lambda rule: rule.input.templates.remove(str(ROOT / "release/BUILD.md")), r"template BUILD\.md is missing"),
        (
            lambda rule: rule.params.model.update(license="GPL-9"),
            r"license is 'GPL-9'; a release can carry: Apache-2\.0",
        ),
        (
            lambda rule: flip_last(rule.input.twin),
            r"Some-Model-twin\.gguf: tensor .* is not what it was when it was verified",
        ),
        (lambda rule: flip_last(rule.input.mmproj), r"mmproj\.gguf: SHA-256 is .* the file is damaged; remove it"),
        (lambda rule: rule.params.engine.update(tag="b1'; rm"), r"cannot go into the release's shell scripts"),
    ],
)
def test_faults_are_one_line_and_leave_the_old_release(rule, spoil, message):
    make_release.main(rule)
    before = (folder_of(rule) / "SHA256SUMS").read_text()
    rule = copy.deepcopy(rule)
    spoil(rule)
    with pytest.raises((UserError, GgufError), match=message) as error:
        make_release.main(rule)
    assert "\n" not in str(error.value)
    assert (folder_of(rule) / "SHA256SUMS").read_text() == before


def test_prune_tool_of_the_release_starts_alone(rule, tmp_path):
    make_release.main(rule)
    alone = tmp_path / "empty"
    alone.mkdir()
    shutil.copy(folder_of(rule) / "prune-dual.py", alone)
    done = subprocess.run([sys.executable, "prune-dual.py", "--help"], cwd=alone, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--vram-gib" in done.stdout
