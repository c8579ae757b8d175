"""The cloud: stores protected templates, and matches them against an unchanged threshold.

It takes no picture and returns no template. It never imports the edge.
"""

import os

# Before numpy and FAISS are imported. A search shares its work among threads of its own, which sleep when there is
# none; theirs spin, and beside anything else on few cores each of their products takes ten times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
