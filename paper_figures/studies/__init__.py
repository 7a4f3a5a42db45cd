"""Studies: measurements of the papers that are not runs, on finished sets or on datasets."""
