"""Raw sets, videos and rendered clips -> the files that the engines read."""
