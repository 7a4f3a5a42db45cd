"""Studies: what the papers measure beside their main tables, on finished runs or on datasets."""
