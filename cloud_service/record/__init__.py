"""The record: the truth about galleries, subjects and templates, in SQL.

The index is derived from it (``cloud_service.index``); the store is the only writer. Nothing here knows of HTTP.
"""
