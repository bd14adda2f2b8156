"""The built-in world of captioned shapes, its small CLIP and its oracle."""
