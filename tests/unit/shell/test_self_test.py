"""run-nx2.sh --self-test: what it compares, what it makes of the figures, and what it remembers."""

from pathlib import Path

import pytest

from release_shell import ARC, HEAD, program, run

VERSION = "version: 0.5.0-dev (build 11312, commit 0c1e57098-9d1dcaf8)"
SYCL_LS = "echo '[level_zero:gpu][level_zero:0] Level-Zero, Intel(R) Arc(TM) A770 Graphics 12.55.8 [{}]'"
GOOD = ("0.013000", "93.548")


@pytest.fixture
def engine(fakes):
    """Fake programs of the engine, which tell their arguments; the device's figures are given."""

    def make(batched: tuple[str, str] = GOOD, decoded: tuple[str, str] = GOOD, driver: str = "1.3.27642") -> Path:
        server = f"if [[ $1 == --version ]]; then echo '{VERSION}' >&2; exit; fi\n"
        server += f"[[ $1 == --list-devices ]] && printf '{HEAD}  SYCL0: {ARC}\\n'; exit 0"
        program(fakes, "llama-server", server)
        program(fakes, "sycl-ls", SYCL_LS.format(driver))
        program(fakes, "llama-completion", f"echo \"$*\" >>'{fakes}/calls'; echo some text")
        body = f"echo \"$*\" >>'{fakes}/calls'\n[[ $* == *' --kl-divergence' ]] || exit 0\n"
        for size, (kld, same) in ((256, batched), (1, decoded)):
            line = f"Mean    KLD:   {kld} ±   0.000100\\nSame top p: {same} ± 1.000 %%\\n"
            body += f"[[ $* != *' -ub {size} '* ]] || printf '{line}'\n"
        program(fakes, "llama-perplexity", body)
        return fakes / "calls"

    return make


def test_card_and_cpu_load_the_same_phase(release, fakes, engine):
    calls = engine()
    done = run(release / "run-nx2.sh", "--sm", "on", "--self-test", "--", "-ctk", "q8_0", path=fakes)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("self-test passed: variant 1 on SYCL0 beside the CPU")
    assert "0.013000 and 93.548 % in batches, 0.013000 and 93.548 % token by token" in done.stdout
    generated, reference, *compared = calls.read_text().splitlines()
    for call in (generated, reference, *compared):
        assert "general.tensor_variant.default=int:1" in call
        assert "-ctk q8_0" in call
    assert "-n 32 --temp 0" in generated
    assert "--device none -ngl 0 --no-repack" in reference
    assert ["-b 256 -ub 256" in compared[0], "-b 1 -ub 1" in compared[1]] == [True, True]
    assert all("-ngl 999" in call and "--device none" not in call for call in (generated, *compared))


BAD = [("0.040001", "99.000"), ("0.001000", "87.999"), ("nan", "99.000"), ("12.345678", "0.000")]


@pytest.mark.parametrize("figures", BAD)
@pytest.mark.parametrize("path", ["batched", "decoded"])
def test_a_wrong_kernel_fails(release, fakes, engine, figures, path):
    engine(**{path: figures})
    done = run(release / "run-nx2.sh", "--self-test", path=fakes)
    assert done.returncode == 2
    assert done.stdout.startswith("self-test failed: variant 0 on SYCL0")
    done = run(release / "run-nx2.sh", path=fakes)
    assert done.returncode == 0
    assert "its text may be wrong" in done.stderr


def test_the_limits_themselves_pass(release, fakes, engine):
    engine(("0.040000", "88.000"))
    assert run(release / "run-nx2.sh", "--self-test", path=fakes).returncode == 0


def test_a_program_that_fails_is_neither_passed_nor_failed(release, fakes, engine):
    engine()
    program(fakes, "llama-perplexity", "echo out of memory >&2; exit 3")
    done = run(release / "run-nx2.sh", "--self-test", path=fakes)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "out of memory",
        "run-nx2.sh: --self-test ended early: llama-perplexity failed, its last lines are above",
    ]
    assert not (release / ".self-test").exists()


def offered(release, fakes) -> bool:
    done = run(release / "run-nx2.sh", path=fakes)
    assert done.returncode == 0, done.stderr
    return "were not tested here" in done.stderr


def test_it_is_offered_once_for_each_driver(release, fakes, engine):
    engine()
    assert [offered(release, fakes) for _ in range(2)] == [True, False]
    engine(driver="1.6.33578")
    assert [offered(release, fakes) for _ in range(2)] == [True, False]
    assert run(release / "run-nx2.sh", "--self-test", path=fakes).returncode == 0
    assert not offered(release, fakes)
    first, second = (release / ".self-test").read_text().splitlines()
    assert first.startswith(
        "offered engine: 0c1e57098-9d1dcaf8; card: SYCL0 Intel(R) Arc(TM) A770 Graphics; driver: 1.3"
    )
    assert second.startswith("passed ")
    # showing the command asks nothing of the card
    engine(driver="2.0")
    assert "not tested" not in run(release / "run-nx2.sh", "--print", path=fakes).stderr


def test_a_card_is_described_with_what_came_of_its_test(release, fakes, engine):
    engine()

    def described() -> list[str]:
        return run(release / "run-nx2.sh", "--describe", path=fakes).stdout.splitlines()

    facts = ["engine: 0c1e57098-9d1dcaf8", "card: SYCL0 Intel(R) Arc(TM) A770 Graphics", "driver: 1.3.27642"]
    assert described() == [*facts, "self-test: not run"]
    assert offered(release, fakes)
    assert described() == [*facts, "self-test: not run"]
    run(release / "run-nx2.sh", "--self-test", path=fakes)
    assert described() == [*facts, "self-test: passed"]
    engine(("9.0", "1.0"))
    run(release / "run-nx2.sh", "--self-test", path=fakes)
    assert described() == [*facts, "self-test: failed"]


def test_a_measurement_offers_nothing(release, fakes, engine):
    engine()
    (fakes / "llama-server").rename(fakes / "llama-bench")
    done = run(release / "run-nx2.sh", path=fakes, NX2_TOOL="llama-bench")
    assert (done.returncode, "not tested" in done.stderr) == (0, False)
    assert not (release / ".self-test").exists()
