"""Tokens: the one encoding of features."""

from hypothesis import given
from hypothesis import strategies as st

from contract.features import bucket, tokens

scalars = st.one_of(
    st.text(max_size=8),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(st.dictionaries(st.text(max_size=5), st.one_of(scalars, st.lists(scalars, max_size=5)), max_size=5))
def test_any_features_give_tokens(features: dict[str, object]) -> None:
    """Every value a message may carry becomes tokens of its own feature, each once; an empty list gives none."""
    found = tokens(features)
    for name, of_one in found.items():
        assert all(token[0] == name for token in of_one)
        assert len(set(of_one)) == len(of_one)
    assert found.keys() == {n for n, v in features.items() if not isinstance(v, list) or v}


def test_text_number_and_truth_stay_apart() -> None:
    """Text "3", number 3 and true are three values; 3 and 3.0 are one, as JSON writers do not keep them apart."""
    one_of_each = [tokens({"f": v})["f"][0] for v in ("3", 3, True, "true", "#3")]
    assert len(set(one_of_each)) == 5
    assert tokens({"f": 3}) == tokens({"f": 3.0})
    assert tokens({"f": 1.0}) == tokens({"f": 1})


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_buckets_keep_order_of_size(a: float, b: float) -> None:
    """Numbers a factor of two apart never share a bucket, above the exact small ones."""
    if abs(a) > 20 and abs(b) > 2.2 * abs(a):
        assert bucket(a) != bucket(b)
