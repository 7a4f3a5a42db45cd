"""Distillation methods, and the engines that several of them share."""
