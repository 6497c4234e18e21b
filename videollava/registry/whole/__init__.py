"""What a version carries beside its weights' addresses: its code, what that code needs, its card."""
