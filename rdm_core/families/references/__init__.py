"""Neighbors as images with captions: their latents are attended to (Re-Imagen, arXiv
2209.14491).
"""
