"""The vector index: derived from the record, rebuilt from it at any time. It only proposes candidates.

FAISS in this process (``faiss_indexes``) or Milvus (``milvus``), behind one protocol. Nothing here decides a match.
"""
