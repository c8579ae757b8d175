"""Erasure: receipts, residue on disk, and erasures that outlive a restored backup."""
