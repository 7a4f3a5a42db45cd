"""Log densities of a dataset's states: recipes, fitted models, stored values."""
