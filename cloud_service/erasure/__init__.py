"""Erasure: receipts, bytes that SQLite or index files still hold, and erasures that outlive a restored backup."""
