"""Subjects as callers manage them: enrolled, listed, moved, expired and reported.

What erases them is in ``record``; what is compared of them is in ``entries``.
"""
