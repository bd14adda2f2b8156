"""Autoencoders of our own: trained on any images, kept as diffusers' AutoencoderKL or VQModel."""
