"""Teachers: offline RL recipes, their files, imports and returns."""
