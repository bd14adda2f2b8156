"""How good a model's images are, and whether they follow what was retrieved: functions of a model,
contexts and images. No files.
"""
