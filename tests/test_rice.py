"""Residuals to payloads and back (specification 5.3 and 5.6, step 5)."""

import itertools
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import reference

from multiscale import PayloadError
from multiscale.rice import decode_residuals, encode_residuals

pytestmark = pytest.mark.filterwarnings("error")

LARGEST = 2**25  # |r| of two q of 2^24 and opposite sign
residual_lists = st.one_of(
    st.lists(st.integers(-LARGEST, LARGEST), max_size=40),
    st.lists(st.integers(-20, 20), max_size=70),
    st.lists(st.sampled_from([0, 0, 0, 0, 1, -1, 5, LARGEST, -LARGEST]), max_size=50),
)


def encode(*runs):
    residuals = np.array(list(itertools.chain(*runs)), np.int64)
    return encode_residuals(residuals, [len(run) for run in runs])


@given(residual_lists)
@example([LARGEST])
@example([-LARGEST] * 17)
@example([0] * 16)
@example([0] * 17)
def test_a_payload_is_that_of_the_slow_codec(residuals):
    [payload] = encode(residuals)
    assert payload == reference.rice_parts(residuals).payload()
    assert decode_residuals([payload], [len(residuals)]).tolist() == residuals


@given(st.lists(residual_lists, max_size=5))
def test_payloads_made_and_read_together_are_those_made_and_read_alone(runs):
    payloads = encode(*runs)
    assert payloads == [encode(run)[0] for run in runs]
    assert decode_residuals(payloads, [len(run) for run in runs]).tolist() == list(itertools.chain(*runs))


@given(residual_lists.filter(len), st.data())
def test_any_parameter_in_range_is_read(residuals, data):
    n_blocks = -(-len(residuals) // 16)
    largest = max(reference.unsigned(r) for r in residuals)
    lowest = max(largest.bit_length() - 6, 0)  # keeps the unary part short
    parameters = data.draw(st.lists(st.integers(lowest, 26), min_size=n_blocks, max_size=n_blocks))
    payload = reference.rice_parts(residuals, parameters).payload()
    assert decode_residuals([payload], [len(residuals)]).tolist() == residuals


@pytest.mark.parametrize("p", range(27))
def test_every_parameter_is_chosen_where_it_is_the_best(p):
    u = 2**p if p < 26 else 2**26
    residuals = [reference.signed(u)] * 16
    [payload] = encode(residuals)
    assert payload[0] >> 3 == reference.best_parameter([u] * 16)
    assert decode_residuals([payload], [16]).tolist() == residuals


def test_the_smaller_of_two_equally_good_parameters_is_chosen():
    u = [0] * 8 + [1] * 8  # p = 0: 8 + 16 bits; p = 1: 0 + 32
    assert encode([reference.signed(v) for v in u])[0][0] >> 3 == 0
    u = [1] * 16  # p = 0: 16 + 16; p = 1: 0 + 32
    assert encode([reference.signed(v) for v in u])[0][0] >> 3 == 0
    u = [2] * 16  # p = 0: 48; p = 1: 48; p = 2: 48
    assert encode([reference.signed(v) for v in u])[0][0] >> 3 == 0
    u = [3] * 16  # p = 0: 64; p = 1: 48; p = 2: 48
    assert encode([reference.signed(v) for v in u])[0][0] >> 3 == 1


def test_no_values_are_a_length_of_zero():
    assert encode([]) == [bytes(4)]
    assert encode([], [3], []) == [bytes(4), encode([3])[0], bytes(4)]
    assert decode_residuals([bytes(4)] * 3, [0, 0, 0]).size == 0
    assert encode_residuals(np.empty(0, np.int64), []) == []
    assert decode_residuals([], []).size == 0


# --- refusals -----------------------------------------------------------------------------------------


def refusal(payload, count):
    with pytest.raises(PayloadError) as caught:
        decode_residuals([payload], [count])
    assert caught.value.clause.startswith("5.")
    return caught.value.reason


RESIDUALS = [3, -1, 0, 40, -7, 2, 2, -2, 0, 1, -1, 5, -5, 6, 0, 0, 9, -9]  # 18: two blocks, 10 + 6 bits
PARTS = reference.rice_parts(RESIDUALS)
PAYLOAD = PARTS.payload()


def test_the_example_of_the_refusals_is_right():
    assert decode_residuals([PAYLOAD], [18]).tolist() == RESIDUALS


@pytest.mark.parametrize("n", range(len(PAYLOAD)))
def test_a_payload_that_ends_early_is_refused(n):
    assert refusal(PAYLOAD[:n], 18) in ("rice-truncated", "rice-unary")


@pytest.mark.parametrize("more", [b"\0", b"\1", bytes(100)])
def test_a_payload_that_goes_on_is_refused(more):
    assert refusal(PAYLOAD + more, 18) == "rice-trailing"
    assert refusal(bytes(4) + more, 0) == "rice-trailing"


@pytest.mark.parametrize("bit", range(10, 16))
def test_ones_in_the_padding_of_the_parameters_are_refused(bit):
    broken = bytearray(PAYLOAD)
    broken[1] |= 0x80 >> (bit - 8)
    assert refusal(bytes(broken), 18) == "rice-padding"


@pytest.mark.parametrize("p", range(27, 32))
def test_a_parameter_above_26_is_refused(p):
    parts = PARTS._replace(parameters=PARTS.parameters[:5] + f"{p:05b}", remainders="0" * 600)
    assert refusal(parts.payload(), 18) == "rice-parameter"


def test_ones_in_the_padding_of_the_remainders_are_refused():
    n_unused = -len(PARTS.remainders) % 8
    assert n_unused
    for bit in range(n_unused):
        broken = PAYLOAD[:-1] + bytes([PAYLOAD[-1] | 1 << bit])
        assert refusal(broken, 18) == "rice-padding"


def test_another_number_of_ones_is_refused():
    n_unused = -len(PARTS.unary) % 8
    assert n_unused
    assert refusal(PARTS._replace(unary=PARTS.unary + "1").payload(), 18) == "rice-unary"
    last = PARTS.unary.rindex("1")
    fewer = PARTS.unary[:last] + "0" + PARTS.unary[last + 1 :]
    assert refusal(PARTS._replace(unary=fewer).payload(), 18) == "rice-unary"


@pytest.mark.parametrize("n", [1, 2, 50])
def test_bytes_of_the_unary_part_after_its_last_one_are_refused(n):
    unary = PARTS.unary + "0" * (-len(PARTS.unary) % 8) + "0" * 8 * n
    assert refusal(PARTS._replace(unary=unary).payload(), 18) == "rice-unary"
    assert refusal(struct.pack("<I", n) + bytes(n), 0) == "rice-unary"


@pytest.mark.parametrize("length", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_stated_length_of_the_unary_part_that_is_wrong_is_refused(length):
    assert refusal(PARTS.payload(length=length), 18) in ("rice-truncated", "rice-trailing", "rice-unary")


def test_u_is_at_most_2_to_the_26():
    largest = reference.rice_parts([LARGEST], [26])
    assert decode_residuals([largest.payload()], [1]).tolist() == [LARGEST]
    above = largest._replace(remainders=f"{1:026b}")  # u = 2^26 + 1
    assert refusal(above.payload(), 1) == "rice-range"
    assert refusal(largest._replace(unary="001").payload(), 1) == "rice-range"  # u = 2^27


@pytest.mark.parametrize("p", [20, 26])
def test_a_quotient_that_would_overflow_is_refused(p):
    unary = "0" * 60000 + "1"
    parts = reference.Parts(f"{p:05b}", unary, "0" * p)
    assert refusal(parts.payload(), 1) == "rice-range"


@given(st.data())
def test_a_damaged_payload_is_refused_or_read_as_by_the_slow_codec(data):
    residuals = data.draw(residual_lists.filter(len))
    payload = bytearray(reference.rice_parts(residuals).payload())
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    m = len(residuals) + data.draw(st.sampled_from([0, 0, 0, 1, -1]))
    try:
        expected = reference.residuals_of(bytes(payload), m)
    except reference.RefusedError:
        refusal(bytes(payload), m)
    else:
        assert decode_residuals([bytes(payload)], [m]).tolist() == expected


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_bytes_are_refused_or_read_as_by_the_slow_codec(payload, m):
    try:
        expected = reference.residuals_of(payload, m)
    except reference.RefusedError:
        refusal(payload, m)
    else:
        assert decode_residuals([payload], [m]).tolist() == expected


def test_one_wrong_payload_of_many_is_refused():
    payloads = [PAYLOAD] * 5
    payloads[3] = PAYLOAD[:-1]
    with pytest.raises(PayloadError):
        decode_residuals(payloads, [18] * 5)
    shifted = [PAYLOAD[:-1], PAYLOAD[-1:] + PAYLOAD]  # whole together, wrong each
    with pytest.raises(PayloadError):
        decode_residuals(shifted, [18, 18])
