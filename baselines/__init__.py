"""Distillation methods, one a file, and the engines that several of them share."""
