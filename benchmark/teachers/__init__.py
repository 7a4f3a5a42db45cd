"""Teachers: offline RL recipes, files, imports, evaluation."""
