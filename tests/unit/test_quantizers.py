"""The C quantizers: gguf's bytes where there is one formula, small errors where there is a search,
the numpy reference's bytes in either case, on every instruction set and number of threads."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as QuantizationType
from gguf.quants import dequantize, quantize

from pymixtral.engine import tiers
from pymixtral.formats.blocks import TypeId
from pymixtral.formats.quantizers import quantize_blocks
from pymixtral.quantizer import Quantizer

ONE_FORMULA = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]

# A loose bound on the relative error (root mean square) on Gaussian values: it catches a wrong
# packing, not a worse search. bench/quantizers.py compares the errors with llama.cpp's.
MAX_ERRORS = {
    "Q2_K": 0.3,
    "Q3_K": 0.15,
    "Q4_K": 0.08,
    "Q5_K": 0.04,
    "Q6_K": 0.02,
    "IQ4_NL": 0.08,
    "IQ4_XS": 0.08,
}
SEARCHED = list(MAX_ERRORS)

# Of one formula, unless there is an importance.
SEARCHED_BY_IMPORTANCE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1"]


def encode(values: np.ndarray, name: str, importance: np.ndarray | None = None, n_threads: int = 1):
    with Quantizer(n_threads) as quantizer:
        return quantizer(
            memoryview(values).cast("B"), 0, QuantizationType[name], values.shape[1], importance
        )


def decoded(values: np.ndarray, name: str, importance: np.ndarray | None = None) -> np.ndarray:
    data = np.frombuffer(encode(values, name, importance).data, np.uint8)
    return dequantize(data, QuantizationType[name]).reshape(values.shape)


def gaussian(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.02


@pytest.fixture(params=["gaussian", "heavy tails", "edge cases"])
def values(request: pytest.FixtureRequest) -> np.ndarray:
    rng = np.random.default_rng(1)
    if request.param == "gaussian":
        return gaussian((64, 512))
    if request.param == "heavy tails":
        return rng.standard_t(2, (64, 512)).astype(np.float32)
    rows = np.zeros((9, 256), np.float32)
    rows[1] = 5
    rows[2] = -3
    rows[3] = np.linspace(-1, 1, 256)
    rows[4, 7] = 65504
    rows[5] = rng.choice([-1, 1], 256)
    rows[6] = 1e-7 * rng.standard_normal(256)
    rows[7] = 1e-30
    rows[8] = -np.abs(rng.standard_normal(256))
    return rows


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # gguf divides by zero, and says so
@pytest.mark.parametrize("name", ONE_FORMULA)
def test_bytes_of_gguf(name: str, values: np.ndarray) -> None:
    want = quantize(values, QuantizationType[name]).tobytes()
    assert bytes(encode(values, name).data) == want


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("weighted", [False, True])
def test_error(name: str, weighted: bool) -> None:
    values = gaussian((64, 1024))
    importance = np.exp(np.random.default_rng(2).standard_normal(1024)).astype(np.float32)
    error = values - decoded(values, name, importance if weighted else None)
    weights = importance if weighted else 1
    relative = np.sqrt((weights * error**2).sum() / (weights * values**2).sum())
    assert relative < MAX_ERRORS[name]


@pytest.mark.parametrize("name", SEARCHED_BY_IMPORTANCE + SEARCHED)
def test_importance_moves_the_error_to_the_other_columns(name: str) -> None:
    values = gaussian((64, 512))
    importance = np.where(np.arange(512) % 2, 10, 0.1).astype(np.float32)
    with_it = ((values - decoded(values, name, importance)) ** 2).sum(axis=0)
    without = ((values - decoded(values, name)) ** 2).sum(axis=0)
    assert with_it[1::2].sum() < without[1::2].sum()
    assert with_it[::2].sum() > without[::2].sum()


@pytest.mark.parametrize("name", SEARCHED_BY_IMPORTANCE + SEARCHED)
@pytest.mark.parametrize("weighted", [False, True])
def test_edge_cases_are_finite_and_near(name: str, weighted: bool) -> None:
    rows = np.zeros((4, 256), np.float32)
    rows[1], rows[2], rows[3] = 5, -3, 1e-30
    got = decoded(rows, name, np.linspace(0, 2, 256, dtype=np.float32) if weighted else None)
    np.testing.assert_allclose(got, rows, atol=0.1 * 5)
    assert (got[0] == 0).all()


@pytest.mark.parametrize("name", SEARCHED_BY_IMPORTANCE + SEARCHED)
def test_bytes_of_the_numpy_reference(name: str, values: np.ndarray) -> None:
    importance = np.linspace(0, 2, values.shape[1], dtype=np.float32)
    for weights in (None, importance):
        want = quantize_blocks(values, TypeId[name], weights)
        assert bytes(encode(values, name, weights).data) == want


@pytest.mark.parametrize("name", ONE_FORMULA + SEARCHED)
def test_bytes_do_not_depend_on_tier_or_threads(
    name: str, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    importance = np.linspace(0, 2, values.shape[1], dtype=np.float32)
    n_times = (1 << 19) // values.size + 1  # enough for each thread to have some
    for weights in (None, importance):
        want = bytes(encode(values, name, weights).data)
        assert bytes(encode(np.tile(values, (n_times, 1)), name, weights, 3).data) == n_times * want
        for tier in [tier for tier, supported in tiers().items() if supported]:
            monkeypatch.setenv("PYMIXTRAL_TIER", tier)
            assert bytes(encode(values, name, weights).data) == want, tier
        monkeypatch.delenv("PYMIXTRAL_TIER")


@pytest.mark.parametrize("name", SEARCHED)
def test_reported_error(name: str) -> None:
    values = gaussian((16, 256))
    encoded = encode(values, name)
    exact = values.astype(np.float64)
    assert encoded.error == pytest.approx(((exact - decoded(values, name)) ** 2).sum(), rel=1e-4)
    assert encoded.square == pytest.approx((exact**2).sum(), rel=1e-4)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K", "IQ4_NL"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e6])
def test_values_that_no_type_can_hold(name: str, bad: float) -> None:
    values = gaussian((4, 256))
    values[2, 9] = bad
    with pytest.raises(ValueError, match="row 2, column 9"):
        encode(values, name)


def test_importance_that_is_no_weight() -> None:
    importance = np.ones(256, np.float32)
    importance[3] = -1
    with pytest.raises(ValueError, match="column 3"):
        encode(gaussian((4, 256)), "Q4_K", importance)


def test_every_block_size_is_gguf_s() -> None:
    values = gaussian((3, 256))
    for name in ONE_FORMULA + SEARCHED:
        columns, n_bytes = gguf.GGML_QUANT_SIZES[QuantizationType[name]]
        assert len(encode(values, name).data) == 3 * 256 // columns * n_bytes
