"""What the edge and the cloud must agree on, and nothing else.

Wire models, the template envelope and its contract, errors, scores and thresholds, credentials, logging and metrics.
No network, no torch, no faiss, no onnxruntime; the only files it touches are the private ones of
``secret_files``, and those of the system that say what this process may use (``process_limits``).
"""
