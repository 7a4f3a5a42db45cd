"""Log densities of a dataset's states: models, their cache, and what is measured of them."""
