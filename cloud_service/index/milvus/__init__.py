"""The index outside this process: Milvus, found by its URL, shared by as many replicas of the service as wanted.

The record stays the truth: Milvus proposes, every hit is joined with the record, and exact scores decide. What Milvus
has not taken up yet stands in the record's outbox. The only SQL here is the outbox's and the leases'.
"""
