"""File formats of data sets, read and written."""
