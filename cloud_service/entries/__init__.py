"""Entries: what is compared of a subject, and what an index holds.

An entry is the mean of a subject's templates, or each template alone. The math, the queries, and the changes of ids.
"""
