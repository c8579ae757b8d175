"""The cloud: stores protected templates, and matches them against an unchanged threshold.

It takes no picture and returns no template. It never imports the edge.
"""

import os

# Before numpy is imported. A search shares its work among threads of its own, which sleep when there is none; those of
# a BLAS spin, and beside anything else on few cores each of its products takes ten times as long. (FAISS is told where
# it is called.)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
