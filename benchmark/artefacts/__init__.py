"""What authors published, imported from a clone of their repository: sets and log densities."""
