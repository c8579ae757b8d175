"""The index outside this process: Milvus, found by its URL, shared by as many replicas of the service as wanted.

The record stays the truth: Milvus proposes, every hit is joined with the record, and exact scores decide. What Milvus
has yet to be told stands in the record's outbox. No SQL but the outbox's and the leases' lives here.
"""
