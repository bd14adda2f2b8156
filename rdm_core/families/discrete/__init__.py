"""Images as codes that are masked and replaced step by step, and found again from what is left of
them and from the neighbors' vectors: kNN-Diffusion (arXiv 2204.02849) over VQ-Diffusion (arXiv
2111.14822).
"""
