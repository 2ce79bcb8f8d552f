"""Measuring FitServe from outside."""
