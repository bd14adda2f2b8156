"""Fetching what strangers list, politely and without being led astray."""
