"""The patch series applies to the pinned base as it is written, without a merge."""

import pytest

import patches
from phase_twin.series import read_series
from phase_twin.try_patches import try_series
from small_run import NANO_CONFIG

pytestmark = pytest.mark.engine


@pytest.fixture
def project(root, snakemake, monkeypatch):
    done = snakemake("--configfile", NANO_CONFIG, "--", "fetch_engine")
    assert done.returncode == 0, done.stdout
    monkeypatch.chdir(root)


def test_the_series_passes_its_checker(project):
    patches.check()


def test_the_base_takes_every_patch_clean(project):
    outcomes = list(try_series(read_series(patches.PATCHES).patches, patches.BASE))
    assert {outcome.word for outcome in outcomes} == {"clean"}
