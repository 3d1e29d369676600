"""Pages of docs/ that are made from the code: commands, recipes, the layout of the packages, and measured tables.

From the root of a checkout::

    python -m tools.docs            # writes the pages that are stale
    python -m tools.docs --check    # names them, and exits with 1 if there are any

A page is generated as a whole, or in regions between ``<!-- begin NAME: ... -->`` and ``<!-- end NAME -->``.
"""
