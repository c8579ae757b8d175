"""The cloud: stores protected templates, and matches them against an unchanged threshold.

It takes no picture and returns no template. It never imports the edge.
"""

from shared.security.process_limits import limit_native_threads

limit_native_threads()  # before numpy and FAISS are imported
