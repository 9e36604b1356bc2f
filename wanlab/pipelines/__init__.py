"""Whole image-to-video systems, as graphs of stages."""
