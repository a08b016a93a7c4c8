"""Small data sets in the published forms of the three studies, made of rendered clips, so that every answer is true."""
