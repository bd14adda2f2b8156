"""RDM (arXiv 2204.11824): latents are denoised, retrieved vectors are attended to."""
