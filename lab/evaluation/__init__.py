"""Measurements of accuracy: verification and identification figures, demographics, detection, quality."""
