"""Networks from Darknet ``.cfg`` files, in the order: text, layers, sections, heads, module, recipe."""
