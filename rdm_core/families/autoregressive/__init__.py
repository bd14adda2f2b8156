"""Images as sequences of codes, the next one predicted from those before and from the neighbors'
vectors: RARM (arXiv 2204.11824, section 3).
"""
