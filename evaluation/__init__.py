"""Predictions -> tables, plots and the report."""
