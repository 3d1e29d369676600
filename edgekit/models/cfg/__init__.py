"""Networks out of Darknet's ``.cfg`` files: text, layers, sections, heads, module, recipe, in this order."""
