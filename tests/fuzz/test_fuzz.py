"""Whatever the file, both readers end with an answer or with one line: our tools and the engine's loader.

The corpus and a bounded number of seeded mutations of it. `dev/run fuzz` runs longer, under sanitizers.
"""

import json
import random
import resource
import subprocess
import time
import tracemalloc
from pathlib import Path

import pytest
from fuzz_corpus import CORPUS, huge, mutate, write_corpus

from prune_dual import MIB, Gguf, GgufError, Twin, select

MUTATIONS = 3000
SEED = 1
SECONDS = 10  # for one file, on a busy machine and traced; most take a millisecond
MEMORY = 64 * MIB  # of our tools, for one file
MEMORY_ENGINE = 1 << 30  # address space of the engine's program

SPLIT = "-00002-of-00002"


def files(part: str) -> list[Path]:
    return sorted((CORPUS / part).glob("*.gguf"))


@pytest.fixture(scope="session")
def mutations(tmp_path_factory) -> list[Path]:
    """Files that are damaged, the same in every run; a damaged second split has a good first one beside it."""
    folder = tmp_path_factory.mktemp("mutations")
    dice = random.Random(SEED)
    parts = files("seeds"), files("hostile")
    corpus = {path: path.read_bytes() for part in parts for path in part}
    paths = []
    for number in range(MUTATIONS):
        source = dice.choice(parts[number % 2])
        damaged = mutate(corpus[source], dice.choice(list(corpus.values())), dice)
        path = folder / f"{number}.gguf"
        if SPLIT in source.name:
            first = source.with_name(source.name.replace(SPLIT, SPLIT.replace("2-", "1-")))
            path = folder / f"{number}-00001-of-00002.gguf"
            path.write_bytes(corpus[first])
            (folder / f"{number}{SPLIT}.gguf").write_bytes(damaged)
        else:
            path.write_bytes(damaged)
        paths.append(path)
    return paths


def test_the_corpus_is_what_its_generator_makes(tmp_path):
    write_corpus(tmp_path)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.glob("*/*")}
    kept = {path.relative_to(CORPUS): path.read_bytes() for path in CORPUS.glob("*/*")}
    assert made == kept, "run tests/fuzz/fuzz_corpus.py"
    assert sum(map(len, kept.values())) < 200_000


# our tools


def read_all(path: Path) -> bool:
    """Do with the file what the tools do; True if it was a twin that could be read."""
    try:
        gguf = Gguf.read(path)
        for name, entry in gguf.kv.items():
            gguf.get(name, entry.type)
        twin = Twin.read(path)
        select(twin)
        select(twin, variant=twin.count - 1)
        select(twin, promote="0")
        select(twin, budget_bytes=sum(tensor.nbytes for tensor in twin.phase(0)) + MIB)
    except GgufError as error:
        assert str(error) and "\n" not in str(error), path
        return "promote: '0'" in str(error)  # the order is empty
    return True


def read_within_bounds(paths: list[Path]) -> int:
    tracemalloc.start()
    twins = 0
    for path in paths:
        tracemalloc.reset_peak()
        start = time.process_time()  # a busy machine is no fault of the file
        twins += read_all(path)
        assert time.process_time() - start < SECONDS, path
        assert tracemalloc.get_traced_memory()[1] < MEMORY, path
    tracemalloc.stop()
    return twins


@pytest.mark.parametrize("path", [path for path in files("seeds") if "twin" in path.name], ids=lambda path: path.stem)
def test_good_twins_are_read(path):
    assert Twin.read(path).groups


@pytest.mark.parametrize("path", files("hostile"), ids=lambda path: path.stem)
def test_our_tools_refuse_what_is_hostile(path):
    with pytest.raises(GgufError) as error:
        select(Twin.read(path))
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_our_tools_end_with_an_answer_or_a_line(mutations):
    assert read_within_bounds(mutations) > 50  # some must come through, else only the first check is tried


def test_our_tools_take_what_is_huge(tmp_path):
    assert read_within_bounds(huge(tmp_path)) == 4


# the engine


@pytest.fixture(scope="session")
def variant_info(engine_bin, tmp_path_factory):
    """Run llama-variant-info on many files at once, in bounded memory, and return a record for each."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_ENGINE, MEMORY_ENGINE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def start(paths: list[Path], options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        names = tmp_path_factory.mktemp("list") / "files"
        names.write_text("".join(f"{path}\n" for path in paths))
        command = [engine_bin("llama-variant-info"), *options, "--files-from", names]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, preexec_fn=limit)

    def run(paths: list[Path], *options: str) -> list[dict]:
        done = start(paths, options)
        if done.returncode not in (0, 1):
            # its last records were not written: look for the file
            for path in paths:
                alone = start([path], options)
                assert alone.returncode in (0, 1), f"exit code {alone.returncode} for {path}: {alone.stderr[-500:]}"
            pytest.fail(f"exit code {done.returncode}, but with no file alone: {done.stderr[-500:]}")
        records = [json.loads(line) for line in done.stdout.splitlines()]
        assert [record["file"] for record in records] == [str(path) for path in paths]
        for record in records:
            if "error" in record:
                assert record["error"].strip() and "\n" not in record["error"], record
        return records

    return run


@pytest.mark.engine
def test_the_engine_loads_what_is_good(variant_info):
    good = [path for path in files("seeds") if SPLIT not in path.name]
    assert [record for record in variant_info(good) if "error" in record] == []


@pytest.mark.engine
def test_the_engine_refuses_what_is_hostile(variant_info):
    hostile = [path for path in files("hostile") if SPLIT not in path.name]
    assert [record["file"] for record in variant_info(hostile) if "error" not in record] == []


@pytest.mark.engine
def test_the_engine_ends_with_an_answer_or_a_line(variant_info, mutations):
    records = variant_info(mutations)
    assert sum("promoted" in record for record in records) > 50


@pytest.mark.engine
@pytest.mark.parametrize(
    "override", ["budget_mb=int:1", "promote=str:0", "default=int:1", "count=int:4294967296", "version=str:1"]
)
def test_the_engine_ends_with_an_answer_or_a_line_whatever_is_asked(variant_info, mutations, override):
    variant_info(mutations[:500], "--override-kv", f"general.tensor_variant.{override}")


@pytest.mark.engine
def test_the_engine_takes_what_is_huge(variant_info, tmp_path):
    records = {Path(record["file"]).stem: record for record in variant_info(huge(tmp_path))}
    assert records["variants"]["groups"] == 1
    assert records["groups"]["groups"] == records["one-tie"]["groups"] == 4000
    assert "too long" in records["key-long"]["error"]


@pytest.mark.engine
def test_both_readers_select_alike_from_what_is_damaged(variant_info, mutations):
    """A damaged twin that both of them read is the same twin to both."""
    compared = 0
    for path, record in zip(mutations, variant_info(mutations), strict=True):
        try:
            twin = Twin.read(path)
            ours = select(twin, budget_bytes=twin.budget_mb * MIB)
        except GgufError:
            continue
        if record.get("groups"):
            theirs = {name: record[name] for name in ("variant0_bytes", "selected_bytes", "promoted")}
            assert theirs == {name: json.loads(ours.json())[name] for name in theirs}, path
            compared += 1
    assert compared > 50
