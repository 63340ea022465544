"""What a user types: dry runs, targets, and mistakes in the configuration."""

import re

import pytest

from phase_twin.backends import CARDS
from small_run import NANO_CONFIG

SYCL = 'engine={"backend":"sycl"}'
RULES_OF_THE_CHAIN = (
    "build_engine",
    "convert_checkpoint",
    "convert_tower",
    "compute_imatrix",
    "quantize_recipe",
    "measure_mix",
    "rank_groups",
    "pack_twin",
    "verify_twin",
    "measure_quality",
    "measure_speed",
    "make_release",
)


def test_dry_run_of_the_release_plans_the_whole_chain(snakemake):
    done = snakemake("-n", "--forceall")
    assert done.returncode == 0, done.stdout
    planned = re.findall(r"^(\w+) +\d+$", done.stdout, re.MULTILINE)
    assert {*RULES_OF_THE_CHAIN, "retrieve_checkpoint", "retrieve_text"} <= set(planned)


def test_prune_target_of_the_release(snakemake):
    done = snakemake("-n", "-p", "--forceall", "prune_16gib")
    assert done.returncode == 0, done.stdout
    assert "--vram-gib 16.0 --reserve-gib 0.5 --ctx 8192" in done.stdout
    assert "results/nex-n2-mini/Nex-N2-mini-16gib.gguf" in done.stdout
    assert "measure_quality" not in done.stdout


@pytest.mark.parametrize("target", ["twin", "bench", "study_ranking", "release", "prune_9mib", "prune_10mib"])
def test_named_targets_of_nano(snakemake, target):
    done = snakemake("-n", "--forceall", "--configfile", NANO_CONFIG, "--", target)
    assert done.returncode == 0, done.stdout
    assert "retrieve_" not in done.stdout


@pytest.mark.parametrize(
    ("word", "rules", "measured"),
    [
        ("siblings", set(), 0),
        # its large phase is measured anyway
        ("nested", {"compare_kinds"}, 2),
        # both large phases as files
        ("auto", {"compare_kinds", "choose_kind"}, 3),
    ],
)
def test_kinds_are_compared_where_the_twin_is_nested_or_may_be(snakemake, tmp_path, root, word, rules, measured):
    arguments = ("--configfile", root / NANO_CONFIG, "--directory", tmp_path, "--config", f"variants={word}")
    done = snakemake("-n", *arguments)
    assert done.returncode == 0, done.stdout
    planned = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))
    assert {"compare_kinds", "choose_kind"} & planned.keys() == rules
    # both phases, two pruned files and what bench.compare names
    assert int(planned["measure_quality"]) == 8 + measured


@pytest.mark.parametrize("backend", CARDS)
def test_only_what_measures_is_built_for_a_card(snakemake, backend):
    setting = f'engine={{"backend":"{backend}"}}'
    variant = "resources/models/nex-n2-nano/Nex-N2-nano-variant1.gguf"
    for target, built in ((variant, {"build_engine"}), ("bench", {"build_engine", "build_card_engine"})):
        done = snakemake("-n", "--forceall", "--configfile", NANO_CONFIG, "--config", setting, "--", target)
        assert done.returncode == 0, done.stdout
        assert set(re.findall(r"^(build_(?:card_)?engine) +\d+$", done.stdout, re.MULTILINE)) == built


def test_a_card_is_measured_only_with_its_backend(snakemake):
    done = snakemake("-n", "--configfile", NANO_CONFIG, "--", "bench_arc")
    assert done.returncode != 0
    assert """engine.backend is cpu; add --config engine='{"backend":"sycl"}'""" in done.stdout
    # any file is a twin for a dry run
    overrides = [SYCL, 'bench={"arc":{"twin":"local:README.md"}}']
    done = snakemake("-n", "--forceall", "--configfile", NANO_CONFIG, "--config", *overrides, "--", "bench_arc")
    assert done.returncode == 0, done.stdout
    planned = set(re.findall(r"^(\w+) +\d+$", done.stdout, re.MULTILINE))
    assert {"build_engine", "build_card_engine", "measure_arc"} <= planned
    assert "quantize_recipe" not in planned


def test_a_build_that_lacks_a_compiler_stops_before_anything_starts(root, snakemake, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    arguments = ("-s", root / "Snakefile", "--configfile", root / NANO_CONFIG, "--", "build_engine")
    done = snakemake(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert "build_engine: CXX is no-such-compiler, which is not on the PATH; unset CXX, or install it\n" in done.stdout
    assert "Job 1:" not in done.stdout
    assert not (tmp_path / "resources").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('bench={"quality":{"chunks":"many"}}', "bench.quality.chunks = 'many'"),
        ('typo={"a":1}', "typo: unknown key"),
        ('imatrix={"corpus":"local:no/such.txt"}', "local:no/such.txt: no such file"),
        ('imatrix={"corpus":"nothing"}', "'nothing' is not among texts"),
        ('imatrix={"corpus":"local:.gitignore"}', "bytes are less than 2 chunks of 512 tokens; give imatrix.corpus a"),
        ('model={"license":"apache-2.0"}', "model.license = 'apache-2.0': SPDX writes it Apache-2.0"),
        (
            'model={"moe_layers":60}',
            "routed experts are in layers 0 to 7, model.moe_layers and dense_layers say 0 to 59",
        ),
    ],
)
def test_a_wrong_configuration_stops_before_the_dag(snakemake, override, words):
    done = snakemake("-n", "--configfile", NANO_CONFIG, "--config", override)
    assert done.returncode != 0
    assert words in done.stdout
    assert "Building DAG" not in done.stdout
    assert "Traceback" not in done.stdout


def test_an_upload_to_nowhere_is_refused_before_a_release_is_made(snakemake):
    done = snakemake("-n", "--configfile", NANO_CONFIG, "--", "release_upload")
    assert done.returncode != 0
    assert "release.repo is not set; name the repository on the hub there: OWNER/NAME" in done.stdout
