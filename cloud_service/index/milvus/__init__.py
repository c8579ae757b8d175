"""The index in Milvus, shared by any number of replicas of the service.

The record stays the truth: Milvus proposes, every hit is joined with the record, and exact scores decide. What Milvus
has not taken up yet stands in the record's outbox. The only SQL here is the outbox's and the leases'.
"""
