"""Subjects with several templates: the score's calibration, accuracy, curves, and what a profile costs."""
