"""Runs in other folders: the same bytes, and what a cache between workflows spares them."""

import os
import re
from pathlib import Path

import pytest
import yaml

from phase_twin.files import sha256_file
from phase_twin.results import read_result
from small_run import NANO_CONFIG

pytestmark = pytest.mark.nano

RESULTS, RESOURCES = "results/nex-n2-nano", "resources/models/nex-n2-nano"
MADE = {
    "bf16": f"{RESOURCES}/Nex-N2-nano-BF16.gguf",
    "mmproj": f"{RESULTS}/Nex-N2-nano-mmproj-F16.gguf",
    "imatrix": f"{RESULTS}/imatrix.gguf",
    "covariance": f"{RESOURCES}/covariance.gguf",
    "variant0": f"{RESOURCES}/Nex-N2-nano-variant0.gguf",
    "variant1": f"{RESOURCES}/Nex-N2-nano-variant1.gguf",
}
QUALITY = f"{RESULTS}/bench/quality/study-iq4_xs.json"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache; that it is used is asked for with --cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["SNAKEMAKE_OUTPUT_CACHE"] = str(folder)
    yield folder
    del os.environ["SNAKEMAKE_OUTPUT_CACHE"]


@pytest.fixture(scope="module")
def second(nano, cache, checkout, snakemake, tmp_path_factory) -> Path:
    """A run in another folder with the same engine, on one core, that fills the cache.

    The measured order stays out, which takes minutes: that threads change no measurement is tested by itself.
    """
    folder = checkout(tmp_path_factory.mktemp("second") / "project")
    options = ("--cores", "1", "--cache", "--configfile", NANO_CONFIG)
    done = snakemake(*options, "--", *MADE.values(), QUALITY, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def test_two_runs_give_the_same_bytes_whatever_the_cores(second, root):
    for name in MADE.values():
        assert sha256_file(second / name) == sha256_file(root / name), name
    measured, before = (read_result(folder / QUALITY) for folder in (second, root))
    assert measured | {"threads": before["threads"]} == before


def stored(output: str) -> set[str]:
    """What a run made itself and put into the cache, files with the SHA-256 of others aside."""
    return {Path(path).name for path in re.findall(r"Moving output file (\S+(?<!\.sha256)) to cache", output)}


@pytest.fixture(scope="module")
def third(second, checkout, tmp_path_factory) -> Path:
    return checkout(tmp_path_factory.mktemp("third") / "project")


def test_a_second_working_directory_takes_all_from_the_cache(third, second, snakemake):
    quality = f"{RESULTS}/bench/quality/study-q3_k.json"
    done = snakemake("--cache", "--configfile", NANO_CONFIG, "--", *MADE.values(), quality, cwd=third)
    assert done.returncode == 0, done.stdout[-3000:]
    assert stored(done.stdout) == {"Nex-N2-nano-study-q3_k.gguf"}
    for name in MADE.values():
        assert (third / name).is_symlink()
        assert (third / name).samefile(second / name)


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        (
            {
                "variants": [
                    {"gate": "Q3_K", "up": "IQ3_A770", "down": "IQ3_A770", "rest": "Q6_K"},
                    {"gate": "Q4_K", "up": "Q4_K", "down": "Q4_K", "rest": "Q6_K"},
                ]
            },
            {"variant0"},
        ),
        ({"imatrix": {"chunks": 8}}, {"imatrix", "covariance", "variant0", "variant1"}),
        # a short imatrix: what depends on the conversion is made anew in any case
        ({"model": {"tokenizer_pre": "qwen2"}, "imatrix": {"chunks": 8}}, {*MADE}),
    ],
    ids=["recipe", "imatrix", "conversion"],
)
def test_a_change_misses_only_what_depends_on_it(third, snakemake, change, missed):
    overlay = third / "overlay.yaml"
    overlay.write_text(yaml.safe_dump(change))
    done = snakemake("--cache", "--configfile", NANO_CONFIG, str(overlay), "--", *MADE.values(), cwd=third)
    assert done.returncode == 0, done.stdout[-3000:]
    assert stored(done.stdout) == {Path(MADE[name]).name for name in missed}
