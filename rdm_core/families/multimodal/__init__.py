"""Documents, a caption and an image each, as one sequence of words and codes: CM3 (arXiv
2201.07520), and with retrieved documents before the main one RA-CM3 (arXiv 2211.12561).
"""
