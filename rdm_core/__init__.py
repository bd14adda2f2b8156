"""Maths on arrays and tensors: images, CLIP, search, denoisers, training, sampling. Knows nothing
of files or Prefect.
"""
