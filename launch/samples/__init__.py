"""The samples of a run: label files, what fits, what was dropped, and how hard the questions are."""
