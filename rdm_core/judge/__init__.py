"""How good a model's images are, and whether they follow their contexts: functions of a model,
contexts and images. No files.
"""
