"""Words of reports."""

from __future__ import annotations

from edgekit.report.wording import counts_in_words, products_in_words


def test_inputs_of_a_head_with_weights_of_16_bits_have_8_bits() -> None:
    assert counts_in_words({"int8": 56, "int16": 3}) == "56 in int8, 3 in int8 with 16-bit weights"


def test_layers_are_counted_by_their_types() -> None:
    assert products_in_words({"int8": 2, "float32": 1}) == "1 in float32, 2 in int8 (convolutions and matrix products)"
    assert products_in_words({}) == "none (convolutions and matrix products)"
