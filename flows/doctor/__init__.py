"""What is fine on this machine and what is not, each with its cure: `rdm doctor`. Nothing is
mended here, and no stage needs it.
"""
