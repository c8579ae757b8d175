"""The console: the page that the edge serves at ``/``, how a browser signs in, and what only the page asks for.

The page itself is in ``static``: plain files, no build step. What other callers use as well is in ``routes``.
"""
