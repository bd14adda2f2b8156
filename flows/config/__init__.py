"""The parameters of every flow: declared once, for the command line, Python and deployments."""
