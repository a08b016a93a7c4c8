"""The report: tables, curves and examples of a run as one HTML page."""
