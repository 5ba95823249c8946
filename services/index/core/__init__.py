"""The exact sparse index: numpy and numba only, importing nothing else of this project.

`index.SparseIndex` is the whole engine. `code` holds the arithmetic of codes that writers and readers share.
"""
