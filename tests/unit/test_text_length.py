"""Texts too short for what is asked of them are found by their size."""

import pytest
import yaml

from phase_twin.config import load
from phase_twin.errors import UserError
from phase_twin.text_length import TextUse, look_at_text, not_utf8, text_uses


def use(chunks=None, shared=False) -> TextUse:
    return TextUse("local:my.txt", "imatrix.corpus", 512, "imatrix.n_ctx", chunks, "imatrix.chunks", shared)


@pytest.mark.parametrize(
    ("nbytes", "chunks", "told"),
    [
        # the engine may put a token before the text
        (1023, None, None),
        (10000, 19, None),
        (10000, 20, "10000 bytes are 19 chunks of 512 tokens at the most, imatrix.chunks asks for 20: the whole text"),
    ],
)
def test_what_may_be_enough_is_taken(tmp_path, nbytes, chunks, told):
    (tmp_path / "my.txt").write_bytes(b"a" * nbytes)
    found = look_at_text(tmp_path / "my.txt", use(chunks))
    assert found is None if told is None else f"my.txt: {told}" in found


@pytest.mark.parametrize(
    ("nbytes", "shared", "told"),
    [
        (
            0,
            False,
            r"my\.txt: 0 bytes are less than 2 chunks of 512 tokens; give imatrix\.corpus a longer text, or set a",
        ),
        (1022, False, r"1022 bytes are less than 2 chunks of 512 tokens; .* a smaller imatrix\.n_ctx"),
        (
            10000,
            True,
            r"imatrix\.chunks asks for 40, which jobs share: lower it, or give imatrix\.corpus a longer text",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, nbytes, shared, told):
    (tmp_path / "my.txt").write_bytes(b"a" * nbytes)
    with pytest.raises(UserError, match=told):
        look_at_text(tmp_path / "my.txt", use(40, shared))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("wie schön".encode(), None),
        # as `head -c` may leave it
        ("wie schö".encode()[:-1], None),
        (b"a" * (1 << 20) + "é".encode("latin-1") + b"t", "is not UTF-8 text, near byte 1048576; save it as UTF-8"),
        ("wie schön".encode("utf-16"), "is not UTF-8 text, near byte 0"),
        ("a text".encode("utf-16-le"), "is not UTF-8 text, near byte 0"),
    ],
)
def test_a_text_of_another_encoding(tmp_path, data, told):
    (tmp_path / "my.txt").write_bytes(data)
    found = not_utf8(tmp_path / "my.txt")
    assert found is None if told is None else f"my.txt: {told}" in found


def test_a_folder_is_no_text(tmp_path):
    with pytest.raises(UserError, match=r"is no file; give imatrix\.corpus a text"):
        look_at_text(tmp_path, use())


def test_every_use_of_a_text_names_its_keys(root):
    raw = yaml.safe_load((root / "config/config.yaml").read_text())
    told = {use.chunks_key: (use.corpus_key, use.n_ctx_key) for use in text_uses(load(raw))}
    assert told == {
        "imatrix.chunks": ("imatrix.corpus", "imatrix.n_ctx"),
        "bench.quality.chunks": ("bench.quality.corpus", "bench.quality.n_ctx"),
        "rank.chunks": ("imatrix.corpus", "bench.quality.n_ctx"),
    }
    raw["rank"]["method"] = "random"
    assert "rank.chunks" not in {use.chunks_key for use in text_uses(load(raw))}
