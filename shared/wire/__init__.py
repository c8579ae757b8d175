"""Requests and answers of the two REST interfaces, as pydantic models.

``common`` is what both use, ``cloud`` what takes templates, ``edge`` what takes pictures. Data only, no behaviour.
"""
