"""People's labels of published data sets."""
