"""From a float graph to a quantized one: measure ranges once, place Q/DQ pairs as each target wants them."""
