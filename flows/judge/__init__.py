"""What a model is worth: evaluation, report, demo."""
