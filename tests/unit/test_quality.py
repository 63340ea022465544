"""What is kept of every position, and what is said of it."""

import numpy as np
import pytest

import gguf_files
from phase_twin.documents import chunk_documents, documents_of, read_vocabulary
from phase_twin.errors import UserError
from phase_twin.positions import HEAD, MAGIC, Positions
from phase_twin.quality import compare, describe
from phase_twin.wording import compared, is_settled, signed, speed_text

CHUNKS, PER_CHUNK, N_CTX = 40, 255, 512


def made(shift: float = 0.0, seed: int = 1) -> Positions:
    """A measurement whose chunks differ much; `shift` [nats] is added everywhere."""
    random = np.random.default_rng(seed)
    level = random.exponential(0.03, CHUNKS)[:, None]
    kld = (level * random.exponential(1, (CHUNKS, PER_CHUNK)) + shift).astype(np.float32)
    base = random.exponential(2, kld.shape).astype(np.float32)
    return Positions(kld=kld, nll=base + np.float32(0.02), nll_base=base, same_top=random.random(kld.shape) < 0.9)


def part(chunks: int, value: float) -> bytes:
    values = np.full((5, chunks, PER_CHUNK), value, "<f4")
    values[4] = 1
    return MAGIC + bytes(HEAD - len(MAGIC)) + values.tobytes()


def test_a_model_against_itself():
    random = np.random.default_rng(2)
    nll = random.exponential(2, (CHUNKS, PER_CHUNK)).astype(np.float32)
    noise = random.normal(0, 1e-6, nll.shape).astype(np.float32)
    row = describe(Positions(kld=noise, nll=nll, nll_base=nll, same_top=np.ones(nll.shape, bool)))
    assert row["kld_mean"] == pytest.approx(0, abs=1e-6)
    assert (row["top1"], row["top1_err"]) == (100, 0)
    assert (row["ppl_ratio"], row["ppl_ratio_err"]) == (1, 0)


def test_values_are_those_of_the_positions():
    positions = made()
    row = describe(positions)
    assert row["kld_mean"] == pytest.approx(positions.kld.mean(), rel=1e-5)
    assert row["kld_max"] == pytest.approx(positions.kld.max())
    assert row["kld_median"] < row["kld_99"] < row["kld_p999"] < row["kld_max"]
    assert row["ppl_ratio"] == pytest.approx(np.exp(0.02), rel=1e-6)
    assert row["top1"] == pytest.approx(100 * positions.same_top.mean())
    # chunks differ: the error is theirs, not that of as many tokens
    assert row["kld_mean_err"] == pytest.approx(positions.kld.mean(axis=1).std() / np.sqrt(CHUNKS), rel=0.15)
    assert row["kld_mean_err"] > 3 * positions.kld.std() / np.sqrt(positions.kld.size)


def test_differences_are_paired():
    found = compare(made(shift=0.001), made())["kld_mean"]
    assert found["diff"] == pytest.approx(0.001, rel=1e-3)
    # far below the error of either
    assert found["err"] < 1e-6
    assert compared(found) == "worse"
    itself = compare(made(), made())
    assert itself["kld_mean"] == itself["ln_ppl"] == {"diff": 0, "err": 0, "z": 0}
    assert compared(compare(made(seed=2), made(seed=3))["kld_mean"]) == "not told apart"


@pytest.mark.parametrize(
    ("z", "said", "of_top1"),
    [
        (-2.1, "better", "worse"),
        (2.1, "worse", "better"),
        (2.0, *["not told apart"] * 2),
        (-1.9, *["not told apart"] * 2),
    ],
)
def test_words_follow_from_two_errors(z, said, of_top1):
    assert compared({"z": z}) == said
    assert compared({"z": z}, less_is_better=False) == of_top1


def test_differences_have_a_sign_and_an_error():
    assert signed({"diff": -0.00057, "err": 0.00054, "z": -1.1}, 4) == "-0.0006 ± 0.0005"
    assert signed({"diff": 0.2, "err": 0.1, "z": 2.0}, 2) == "+0.20 ± 0.10"


def test_a_speed_that_is_none():
    assert speed_text(61.2, 0.5) == "61.20 ± 0.50"
    assert speed_text(65, 100) == "not settled"
    assert speed_text(65, 100, digits=0) == "not settled"
    assert is_settled(10, 1)
    assert not is_settled(10, 1.01)


def test_positions_are_kept(tmp_path):
    documents = np.arange(CHUNKS, dtype=np.int32) // 3
    positions = Positions(**vars(made()) | {"documents": documents})
    for name in ("one.npz", "two.npz"):
        positions.save(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded = Positions.load(tmp_path / "one.npz")
    assert all(np.array_equal(value, getattr(loaded, name)) for name, value in vars(positions).items())
    made().save(tmp_path / "none.npz")
    assert Positions.load(tmp_path / "none.npz").documents is None


def test_parts_follow_each_other(tmp_path):
    for name, chunks, value in (("a", 2, 0.5), ("b", 1, 0.25)):
        (tmp_path / name).write_bytes(part(chunks, value))
    positions = Positions.read_parts([tmp_path / "a", tmp_path / "b"], N_CTX, None)
    assert list(positions.kld[:, 7]) == [0.5, 0.5, 0.25]
    assert positions.nll.shape == (3, PER_CHUNK)
    assert positions.same_top.all()


@pytest.mark.parametrize("data", [b"", b"other" + part(1, 1.0)[5:], part(1, 1.0)[:-4]])
def test_what_is_no_part_is_refused(tmp_path, data):
    (tmp_path / "part").write_bytes(data)
    with pytest.raises(UserError, match="part: not what llama-perplexity saves"):
        Positions.read_parts([tmp_path / "part"], N_CTX, None)


HEADING = r"^ = [^=].* = $"


def write_vocabulary(path, tokens: list[str], kind: str = "gpt2"):
    keys = [("tokenizer.ggml.model", "str", kind), ("tokenizer.ggml.tokens", "[str]", tokens)]
    gguf_files.write(path, [*gguf_files.PLAIN, *keys], [])
    return path


def test_documents_are_found_in_the_tokens_of_the_logits(tmp_path):
    # as byte pairs are written: a space is Ġ, a line's end Ċ; the two bytes of é
    model = write_vocabulary(tmp_path / "model.gguf", ["a", "Ċ", "Ġ=ĠTitleĠ=", "Ã©", "<|end|>"])
    assert read_vocabulary(model) == [b"a", b"\n", b" = Title =", "é".encode(), b"<|end|>"]
    tokens = np.array([[3, 3, 1, 2, 1, 0, 0, 0], [0] * 8, [0, 1, 2, 1, 0, 0, 0, 0]], "<i4")
    logits = tmp_path / "logits.kld"
    logits.write_bytes(b"_logits_" + np.array([8, 5, 3], "<u4").tobytes() + tokens.tobytes() + bytes(100))
    assert list(documents_of(logits, model, r"^ = [^=].* =$")) == [0, 0, 1]
    assert documents_of(logits, model, None) is None
    other = write_vocabulary(tmp_path / "other.gguf", ["a"] * 5, kind="llama")
    assert documents_of(logits, other, HEADING) is None


def test_what_are_no_logits_is_refused(tmp_path):
    model = write_vocabulary(tmp_path / "model.gguf", ["a"])
    (tmp_path / "logits.kld").write_bytes(b"something else, long enough")
    with pytest.raises(UserError, match=r"logits\.kld: no logits of llama-perplexity"):
        documents_of(tmp_path / "logits.kld", model, HEADING)


def test_chunks_belong_to_the_document_of_their_middle():
    vocabulary = [b"a", b"\n", b" = Title = \n", b" = = Part = = \n"]
    text = [2, 0, 0, 1, 3, 0, 0, 1] + [0, 0, 0, 1, 2, 0, 0, 1] + [0] * 8 + [1, 2, 0, 0, 0, 0, 0, 0]
    tokens = np.array(text).reshape(4, 8)
    # predicted is the second half; the second chunk's middle is in the second document
    assert list(chunk_documents(tokens, vocabulary, HEADING)) == [0, 1, 1, 2]
    assert list(chunk_documents(tokens, vocabulary, "no such line")) == [0, 0, 0, 0]
