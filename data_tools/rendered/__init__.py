"""The embedded default: scenes, questions, data set and tiny model of the demo."""
