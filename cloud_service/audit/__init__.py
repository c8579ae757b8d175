"""The audit log: a hash chain of what was done, without names or biometric values, and the check of that chain."""
