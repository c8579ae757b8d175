"""The audit log: a hash chain of what was done, and its check.

It holds no names of subjects and no biometric values.
"""
