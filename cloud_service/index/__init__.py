"""The vector index: derived from the record, and only a proposer of candidates.

FAISS in this process (``faiss_indexes``) or Milvus (``milvus``), behind one protocol. Nothing here decides a match.
"""
