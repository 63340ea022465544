"""The study of codebooks: the encoder's text for another table, the Lloyd step, errors and the gathered rows."""

import shutil

import numpy as np
import pytest

from encode_codebook import encode_into
from fit_codebook import lloyd_sums, lloyd_table
from gather_codebooks import differences, gather
from gguf_files import F32, PLAIN, Raw, write
from phase_twin.codebook import check_table, midpoints, substitute
from phase_twin.errors import UserError
from phase_twin.expert_matrices import column_weights, error_weights, expert_tensors, from_bf16, relative_rmse, to_bf16
from phase_twin.positions import Positions
from prune_dual import IQ3_A770_CODEBOOK, Gguf

HEADER = """\
GGML_TABLE_BEGIN(int8_t, kvalues_iq3_a770, 8)
    -125, -73, -36, -4, 21, 49, 82, 127,
GGML_TABLE_END()
"""
# the lines of ggml-iq3-a770.c that depend on the table
SOURCE = """\
    static const float mid[7] = { -99.0f, -54.5f, -20.0f, 8.5f, 35.0f, 65.5f, 104.5f };
#define IQ3_A770_MID0   96                                 // distance of the first crossing, nothing happens below
#define IQ3_A770_N_POS  (IQ3_A770_N_S + 208 - IQ3_A770_MID0)
            + k[0]*neg[i + 206 - IQ3_A770_MID0]  // 31*log2( 99.0)
            + k[1]*neg[i + 179 - IQ3_A770_MID0]  // 31*log2( 54.5)
            + k[2]*neg[i + 134 - IQ3_A770_MID0]  // 31*log2( 20.0)
            + k[3]*pos[i +  96 - IQ3_A770_MID0]  // 31*log2(  8.5)
            + k[4]*pos[i + 159 - IQ3_A770_MID0]  // 31*log2( 35.0)
            + k[5]*pos[i + 187 - IQ3_A770_MID0]  // 31*log2( 65.5)
            + k[6]*pos[i + 208 - IQ3_A770_MID0]; // 31*log2(104.5)
    static const float ka[7] = { 125 - 73, 73 - 36, 36 - 4, 21 + 4, 49 - 21, 82 - 49, 127 - 82 };
    static const float kb[7] = {
        125*125 - 73*73, 73*73 - 36*36, 36*36 - 4*4, 21*21 - 4*4, 49*49 - 21*21, 82*82 - 49*49, 127*127 - 82*82,
    };
        iq3_a770_cross((neg ? 4.0f : -4.0f)*sumwx, ka, wx[!neg], wx[neg], sums->a[neg]);
        iq3_a770_cross(4.0f*4.0f*sumw,             kb, ww[!neg], ww[neg], sums->b[neg]);
"""
UNIFORM = [-127, -95, -64, -32, 0, 32, 64, 95]


def test_version_1_in_the_place_of_version_1_changes_nothing():
    assert substitute(HEADER, SOURCE, IQ3_A770_CODEBOOK) == (HEADER, SOURCE)


def test_every_constant_follows_the_table():
    header, source = substitute(HEADER, SOURCE, UNIFORM)
    assert "    -127, -95, -64, -32, 0, 32, 64, 95,\n" in header
    # four crossings on the negative side now, counted from the value zero
    assert "{ -111.0f, -79.5f, -48.0f, -16.0f, 16.0f, 48.0f, 79.5f }" in source
    assert "#define IQ3_A770_MID0   124 " in source and "(IQ3_A770_N_S + 211 -" in source
    assert "k[3]*neg[i + 124 -" in source and "k[4]*pos[i + 124 -" in source
    assert "{ 127 - 95, 95 - 64, 64 - 32, 32 - 0, 32 - 0, 64 - 32, 95 - 64 }" in source
    assert "127*127 - 95*95, " in source and ", 95*95 - 64*64," in source
    assert "(neg ? 0.0f : 0.0f)*sumwx" in source and "(0.0f*0.0f*sumw," in source


def test_a_crossing_at_zero():
    symmetric = [-127, -79, -45, -14, 14, 45, 79, 127]
    assert midpoints(symmetric)[3] == 0
    _, source = substitute(HEADER, SOURCE, symmetric)
    assert "k[3]*pos[i +   0 -" in source and "14 + 14, 45 - 14" in source and "(neg ? 14.0f : -14.0f)" in source


@pytest.mark.parametrize(
    "old, new", [("ka[7] = { 125 - 73", "ka[7] = { 52"), ("k[6]*pos", "k[6] * pos"), ("4.0f*4", "16")]
)
def test_a_changed_encoder_is_told(old, new):
    with pytest.raises(UserError, match=r"ggml-iq3-a770\.c: .* is there 0 times"):
        substitute(HEADER, SOURCE.replace(old, new), UNIFORM)


def test_a_table_that_is_there_twice_is_told():
    with pytest.raises(UserError, match=r"ggml-common\.h: .* is there 2 times"):
        substitute(2 * HEADER, SOURCE, UNIFORM)


@pytest.mark.parametrize(
    "table, reason",
    [
        ([-127, -95, -64, -32, 0, 32, 64], "8 different values"),
        ([-127, -64, -95, -32, 0, 32, 64, 95], "ascending"),
        ([-126, -95, -64, -32, 0, 32, 64, 95], "must be 127"),
        ([-20, -15, -10, -5, 0, 5, 10, 127], "too far"),
    ],
)
def test_tables_that_cannot_be_encoded_with(table, reason):
    with pytest.raises(UserError, match=reason):
        check_table(table)


def test_lloyd_step_by_hand():
    codes = np.zeros((1, 256), np.uint8)
    codes[0, 32:] = 7
    scales = np.full((1, 8), 2.0, np.float32)
    rows = np.full((1, 256), 20.0, np.float32)
    rows[0, :32] = -10
    weights = np.ones_like(rows)
    # two elements of code 7 at 10 and 30 times their scale, the second weighs three times as much
    rows[0, 32:34], weights[0, 32:34] = (20, 60), (1e9, 3e9)
    above, below = lloyd_sums(rows, weights, codes, scales)
    assert above[0] / below[0] == -5
    assert above[7] / below[7] == pytest.approx(25)
    # codes 1 to 6 have no elements and keep their values; the largest becomes 127
    assert lloyd_table([-5, -4, -3, -2, -1, 0, 1, 9], np.stack([above, below])) == [-25, -20, -15, -10, -5, 0, 5, 127]


def test_a_lloyd_step_lowers_the_error_of_the_same_codes():
    random = np.random.default_rng(5)
    table = np.array(IQ3_A770_CODEBOOK)
    codes, scales = random.integers(0, 8, (40, 256)), random.normal(size=(40, 8)).astype(np.float32)
    scale = scales.repeat(32, axis=1)
    rows, weights = scale * (table[codes] + random.normal(3, 5, codes.shape)), random.gamma(0.5, size=codes.shape)
    above, below = lloyd_sums(rows, weights, codes, scales)

    def error(values):
        return (weights * (rows - scale * values[codes]) ** 2).sum()

    best = above / below
    assert error(best) < error(table)
    for code in range(8):
        for change in (-0.1, 0.1):
            moved = best.copy()
            moved[code] += change
            assert error(best) < error(moved)


def test_bf16_rounds_to_even():
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 0], np.float32)
    assert from_bf16(to_bf16(values)).tolist() == [1, 1, 1 + 2**-6, -1 - 2**-7, 0]


def test_weights_of_columns_are_those_of_llama_quantize():
    sums, counts = np.array([[2.0, 4.0], [0.0, 0.0]]), np.array([2.0, 0.0])
    assert column_weights(sums, counts).tolist() == [[1, 2], [1, 1]]
    jittered = column_weights(sums, counts, run=1)
    assert np.array_equal(jittered, column_weights(sums, counts, run=1))
    assert not np.array_equal(jittered, column_weights(sums, counts, run=2))
    assert np.abs(np.log(jittered / column_weights(sums, counts))).max() < 0.3


def test_weights_of_errors_grow_with_the_element():
    rows = np.zeros((1, 256), np.float32)
    rows[0, 0] = 16  # the mean square is 1
    weights = error_weights(rows, np.full(256, 3, np.float32))
    assert weights[0, 1] == pytest.approx(3 * 2**0.5)
    assert weights[0, 0] == pytest.approx(3 * 258**0.5)


def test_tensors_count_alike():
    assert relative_rmse([np.array([1.0, 100.0]), np.array([3e9, 1e11])]) == pytest.approx(0.02**0.5)


class Halver:
    """A codec that halves the rows."""

    def encode(self, rows, columns):
        return rows.reshape(-1, 256) / 2

    def decode(self, blocks):
        return blocks


EXPERTS = "blk.0.ffn_up_exps.weight"
BF16 = 30


def write_model(path, kind=BF16):
    """Two experts of 3 rows of 256 columns, values -3 .. 3, and another tensor before and behind them."""
    random = np.random.default_rng(1)
    values = random.integers(-3, 4, (2, 3, 256)).astype(np.float32)
    other = bytes(range(64))
    data = to_bf16(values).tobytes() if kind == BF16 else values.tobytes()
    tensors = [Raw("a", (16,), F32, other), Raw(EXPERTS, (256, 3, 2), kind, data), Raw("b", (16,), F32, other)]
    return write(path, PLAIN, tensors), values


def test_only_the_experts_of_the_copy_change(tmp_path):
    path, values = write_model(tmp_path / "model.gguf")
    copy = tmp_path / "copy.gguf"
    shutil.copyfile(path, copy)
    imatrix = {EXPERTS: (np.ones((2, 256)), np.ones(2))}
    errors = encode_into(copy, Gguf.read(path), imatrix, Halver(), run=0)
    assert errors == {"rmse": pytest.approx(0.5), "rmse_encoder": pytest.approx(0.5)}
    before, after = Gguf.read(path).tensors, Gguf.read(copy).tensors
    changed = np.frombuffer(after[1].data.read(), np.uint16)
    assert np.array_equal(from_bf16(changed).reshape(values.shape), values / 2)
    # all the rest, byte by byte
    head, tail = before[1].data.offset, before[2].data.offset
    assert path.read_bytes()[:head] == copy.read_bytes()[:head]
    assert path.read_bytes()[tail:] == copy.read_bytes()[tail:]


def test_experts_in_another_type_and_without_weights_are_refused(tmp_path):
    path, _ = write_model(tmp_path / "f32.gguf", F32)
    with pytest.raises(UserError, match="is F32; errors are measured against BF16 only"):
        expert_tensors(Gguf.read(path), {EXPERTS: (np.ones((2, 256)), np.ones(2))})
    path, _ = write_model(tmp_path / "model.gguf")
    for imatrix in ({}, {EXPERTS: (np.ones((2, 128)), np.ones(2))}):
        with pytest.raises(UserError, match=EXPERTS):
            expert_tensors(Gguf.read(path), imatrix)


def quality(kld):
    facts = {"reference": "BF16", "chunks": 100, "chunks_asked": 100, "n_ctx": 512, "bytes": 5}
    measured = {"kld_mean": kld, "kld_p999": 10 * kld, "top1": 90 + kld, "ppl_ratio": 1 + kld}
    return facts | measured | {"kld_mean_err": 0.5, "top1_err": 0.2}


def test_runs_of_a_codebook_become_one_row():
    errors = [
        {"codebook": name, "run": run, "table": [run], "rmse": rmse, "rmse_encoder": rmse}
        for name, run, rmse in (("b", 0, 0.1), ("b", 1, 0.9), ("a", 0, 0.2), ("a", 1, 0.9))
    ]
    first, second = gather(errors, [quality(kld) for kld in (1, 3, 2, 2)])
    assert (first["codebook"], first["runs"], first["table"], first["rmse"]) == ("b", 2, [0], 0.1)
    assert (first["kld_mean"], first["kld_mean_run_err"], first["kld_mean_err"]) == (2, pytest.approx(1), 0.5)
    assert (first["kld_p999"], first["kld_p999_run_err"]) == (20, pytest.approx(10))
    assert (second["top1"], second["top1_run_err"], second["ppl_ratio"]) == (92, 0, 3)
    assert "bytes" not in first  # those of BF16


def test_codebooks_are_compared_over_the_text_and_over_runs():
    random = np.random.default_rng(1)
    level = random.exponential(0.03, (40, 1)).astype(np.float32)

    def run(kld):
        zeros = np.zeros((40, 1), np.float32)
        return Positions(kld=kld, nll=zeros, nll_base=zeros, same_top=zeros > 0)

    runs = {"a": [run(level), run(level)], "b": [run(level + 0.001), run(level + 0.003)]}
    rows = [{"codebook": "a", "kld_mean_run_err": 0.0003}, {"codebook": "b", "kld_mean_run_err": 0.0004}]
    first, second = differences(rows, runs, "a")
    assert first is None
    assert second["to"] == "a"
    assert second["kld_mean"]["diff"] == pytest.approx(0.002, rel=1e-4)
    # the text adds nothing: all chunks differ alike
    assert second["kld_mean"]["err"] == pytest.approx(0.0005, rel=1e-3)
